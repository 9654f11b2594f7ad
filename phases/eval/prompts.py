"""What baselines are asked: the same question with worked examples before it, or with what a search finds.

A prompt that does not fit the model's context with its answer gets fewer examples, or a shorter text; one that still does not fit is
not asked, and the baseline then has no answer for that row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forge.bm25 import Bm25
from forge.protocols import Task
from forge.records import Example, Message, Passage, digest

SHOTS = 4
Turns = tuple[Message, ...]
Fits = Callable[[Turns], bool]


class FewShot:
    """The question after a few training examples, the same ones for every question, of different kinds."""

    def __init__(self, train: Sequence[Example], task: Task, seed: int) -> None:
        self._task = task
        order = sorted(train, key=lambda row: digest(str(seed), "shot", row.id))
        kinds: dict[str, int] = {}
        ranked: list[tuple[int, int, Example]] = []
        for row in order:
            kinds[row.bucket] = kinds.get(row.bucket, 0) + 1
            ranked.append((kinds[row.bucket], len(ranked), row))
        self._shots = [row for _, _, row in sorted(ranked, key=lambda one: one[:2])[:SHOTS]]

    def ask(self, example: Example, fits: Fits) -> Turns | None:
        """The turns, with as many examples as fit; None when not even one does."""
        return _with_shots(self._shots, example, self._task, fits)


class NearestShots:
    """The question after the training examples that are most like it (BM25): retrieval for tasks whose training rows are labelled texts."""

    def __init__(self, train: Sequence[Example], task: Task) -> None:
        self._train, self._task = list(train), task
        self._index = Bm25([_said(task.prompt(row)) for row in train])

    def ask(self, example: Example, fits: Fits) -> Turns | None:
        """The turns, the most similar example last; None when no example fits."""
        found = [self._train[i] for i in self._index.best(_said(self._task.prompt(example)), SHOTS)]
        return _with_shots(found, example, self._task, fits)


class RetrievedPassage:
    """The question below the passage that fits it best (BM25): what a search over the same documents would give a model."""

    def __init__(self, passages: Sequence[Passage], task: Task, cut: Callable[[str, int], str]) -> None:
        self._texts, self._task, self._cut = [passage.text for passage in passages], task, cut
        self._index = Bm25(self._texts)

    def ask(self, example: Example, fits: Fits) -> Turns | None:
        """The turns; the passage loses its end until they fit. None when nothing is found or half of it does not fit."""
        turns = self._task.prompt(example)
        best = self._index.best(_said(turns), 1)
        if not best:
            return None
        for share in (1.0, 0.75, 0.5):
            text = self._cut(self._texts[best[0]], int(100 * share))
            asked = (*turns[:-1], turns[-1].model_copy(update={"content": f"{text}\n\n{turns[-1].content}"}))
            if fits(asked):
                return asked
        return None


def _with_shots(shots: Sequence[Example], example: Example, task: Task, fits: Fits) -> Turns | None:
    turns = task.prompt(example)
    system, asked = turns[:-1], turns[-1:]
    for count in range(len(shots), 0, -1):
        worked = [turn for row in reversed(shots[:count]) for turn in (task.prompt(row)[-1], Message(role="assistant", content=task.target(row)))]
        if fits((*system, *worked, *asked)):
            return (*system, *worked, *asked)
    return None


def _said(turns: Turns) -> str:
    return next((turn.content for turn in reversed(turns) if turn.role == "user"), "")
