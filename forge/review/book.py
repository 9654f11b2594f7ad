"""Everything that a reviewer reads about a run's data, in memory: pairs, ready-made rows, what was refused, dropped or poisoned.

Filtered, searched and paged here, so that a page over tens of thousands of pairs stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from forge.records import (
    Chat,
    Drop,
    Example,
    Extraction,
    Labelled,
    Pair,
    Passage,
    Record,
    Rejected,
    Split,
    digest,
    read_jsonl,
)
from forge.review.decisions import PAIRS, Decided, Told, current, history
from forge.run import Run

POISONED = "poisoned_passage"
FACETS = ("bucket", "subtopic", "document", "split", "reason", "decision")
PAGE, MOST = 25, 200
SAMPLE_OF_EACH = 4
"""Pairs that the sample shows of every bucket and subtopic."""
LEFT_OUT = "left out"

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Item:
    """One line of a list: its id, what it can be filtered by, the text that is searched, and what it shows."""

    id: str
    facets: dict[str, str]
    text: str
    shown: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a page asks for. `facets`: exact values; `words`: every one must occur; `sample`: a few of everything."""

    kind: str = "pairs"
    facets: Mapping[str, str] = field(default_factory=dict)
    words: str = ""
    sample: bool = False
    offset: int = 0
    limit: int = PAGE


class Book:
    """The lists of one run as they are now. Make a new one after the plan was made again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.pairs = list(_artifact(run, PAIRS, Pair))
        self.passages = {passage.id: passage for passage in _artifact(run, "clean", Passage)}
        examples = [row for name in get_args(Split) for row in _artifact(run, name, Example)]
        self.splits = {row.id: row.split for row in examples}
        self.shaped = run.store.get("train") is not None
        rejected = list(_artifact(run, "rejected", Rejected))
        self.lists: dict[str, list[Item]] = {
            "pairs": [],
            "refused": [self._refused(entry) for entry in rejected if entry.reason != POISONED],
            "dropped": [_dropped(drop) for drop in _artifact(run, "drops", Drop)],
            "poisoned": [self._poisoned(entry) for entry in rejected if entry.reason == POISONED],
        }
        self.by_id = {pair.id: pair for pair in self.pairs}
        self.lists["rows"] = [_ready_made(row) for row in examples if row.id not in self.by_id]
        self._place = {pair.id: place for place, pair in enumerate(self.pairs)}
        self._facets: dict[str, dict[str, dict[str, int]]] = {}
        decided, told = self._decisions()
        self.lists["pairs"] = [self._pair(pair, decided, told) for pair in self.pairs]

    def decide(self, ids: Iterable[str]) -> None:
        """Bring these pairs of the list in line with the decisions of the run."""
        decided, told = self._decisions()
        for one in ids:
            self.lists["pairs"][self._place[one]] = self._pair(self.by_id[one], decided, told)
        self._facets.pop("pairs", None)

    def find(self, asked: Asked) -> tuple[int, list[dict[str, Any]]]:
        """How many items fit, and those of the page that was asked for, each with its passage."""
        items = self.lists.get(asked.kind, [])
        words = asked.words.casefold().split()
        wanted = {name: value for name, value in asked.facets.items() if value}
        found = [item for item in items if all(item.facets.get(n) == v for n, v in wanted.items()) and all(word in item.text for word in words)]
        if asked.sample:
            found = sample(found)
        page = found[asked.offset : asked.offset + min(asked.limit, MOST)]
        return len(found), [{"id": item.id, **item.facets, **item.shown, "passage": self._passage(item)} for item in page]

    def facets(self, kind: str) -> dict[str, dict[str, int]]:
        """For each thing to filter by: its values with their counts, the commonest first."""
        if kind not in self._facets:
            self._facets[kind] = self._count_facets(kind)
        return self._facets[kind]

    def _count_facets(self, kind: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name in FACETS:
            counts = Counter(value for item in self.lists.get(kind, []) if (value := item.facets.get(name, "")))
            if counts:
                found[name] = dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
        return found

    def counts(self) -> dict[str, int]:
        """How many items each list has."""
        return {kind: len(items) for kind, items in self.lists.items()}

    def rows(self, *, sampled: bool) -> Iterator[dict[str, Any]]:
        """The pairs as `--export` writes them: what can be edited, and what helps to judge it."""
        items = sample(self.lists["pairs"]) if sampled else self.lists["pairs"]
        for item in items:
            passage = self._passage(item)
            yield {
                "id": item.id, "decision": item.facets["decision"], "why": item.shown["why"],
                **{name: item.shown[name] for name in ("question", "answer", "evidence")},
                **{name: item.facets[name] for name in ("bucket", "subtopic", "document", "split")}, "passage": passage["text"] if passage else "",
            }

    def _decisions(self) -> tuple[dict[str, Decided], dict[str, Told]]:
        return current(self.run), {one.id: one for one in history(self.run)}

    def _pair(self, pair: Pair, decided: Mapping[str, Decided], told: Mapping[str, Told]) -> Item:
        one = decided.get(pair.id)
        now = one.pair if one and one.pair else pair
        word = {"reject": "rejected", "edit": "edited"}.get(one.action, "") if one else ""
        facets = {**_facets(now), "split": self.splits.get(pair.id, LEFT_OUT if self.shaped else ""), "decision": word}
        shown = {**_shown(now), "why": told[pair.id].why if one else "", "original": _shown(pair) if word == "edited" else None}
        return Item(pair.id, facets, _text(now, facets), shown)

    def _refused(self, entry: Rejected) -> Item:
        facets = {**_facets(entry.pair), "reason": entry.reason}
        return Item(entry.id, facets, _text(entry.pair, facets), _shown(entry.pair))

    def _poisoned(self, entry: Rejected) -> Item:
        """synth keeps the names of the findings in `bucket` and the findings in `answer`."""
        facets = {"document": entry.pair.source.path if entry.pair.source else "", "reason": entry.pair.bucket}
        shown = {"found": entry.pair.answer, "locator": entry.pair.source.locator if entry.pair.source else "", "evidence": "", "passage_id": entry.pair.passage}
        return Item(entry.id, facets, _text(entry.pair, facets), shown)

    def _passage(self, item: Item) -> dict[str, Any] | None:
        found = self.passages.get(item.shown.get("passage_id", ""))
        if found is None:
            return None
        return {"id": found.id, "heading": found.meta.get("heading", ""), "text": found.text, "marks": marks(found.text, [item.shown.get("evidence", "")])}


def sample(items: Sequence[Item]) -> list[Item]:
    """A few of each bucket (or reason) and subtopic, from the documents in turn; the same ones every time."""
    cells: dict[tuple[str, str], dict[str, list[Item]]] = {}
    for item in sorted(items, key=lambda item: digest("review", item.id)):
        facets = item.facets
        cell = cells.setdefault((facets.get("bucket", "") or facets.get("reason", ""), facets.get("subtopic", "")), {})
        cell.setdefault(facets.get("document", ""), []).append(item)
    chosen: list[Item] = []
    for _, documents in sorted(cells.items(), key=lambda cell: ("" in cell[1], cell[0])):   # what has no document comes last
        ranked = sorted((rank, name) for name, members in documents.items() for rank in range(len(members)))
        chosen += [documents[name][rank] for rank, name in ranked[:SAMPLE_OF_EACH]]
    return chosen


def marks(text: str, stretches: Iterable[str]) -> list[tuple[int, int]]:
    """Where the stretches stand in a text: (start, end) in characters, in order."""
    return sorted((at, at + len(stretch)) for stretch in stretches if stretch and (at := text.find(stretch)) >= 0)


def splits_of(run: Run) -> dict[str, str]:
    """Pair id -> the split that shape put it in; empty before shape."""
    return {row.id: row.split for name in get_args(Split) for row in _artifact(run, name, Example)}


def _artifact(run: Run, name: str, kind: type[R]) -> Iterator[R]:
    artifact = run.store.get(name)
    if artifact is not None and run.store.link(artifact).exists():
        yield from read_jsonl(run.store.link(artifact), kind)


def _ready_made(row: Example) -> Item:
    """A row that no teacher wrote: read here, changed where it came from."""
    asked, answered = asked_and_answered(row)
    facets = {"bucket": row.body.label if isinstance(row.body, Labelled) else row.bucket, "subtopic": row.subtopic, "split": row.split}
    shown = {"question": asked, "answer": answered, "evidence": "", "passage_id": row.origin[0] if row.origin else "", "locator": ""}
    return Item(row.id, facets, f"{row.id}\n{asked}\n{answered}".casefold(), shown)


def asked_and_answered(row: Example) -> tuple[str, str]:
    """What a row gives to the model and what it wants back, as text for people, whatever its task."""
    body = row.body
    if isinstance(body, Chat):
        return "\n".join(turn.content for turn in body.prompt if turn.role != "system"), "\n".join(turn.content for turn in body.completion)
    if isinstance(body, Labelled):
        return body.text, f"{body.label}: {body.rationale}" if body.rationale else body.label
    if isinstance(body, Extraction):
        found = [f"{span.type}: {span.text}" for span in body.entities]
        found += [f"{body.entities[one.head].text} – {one.type} → {body.entities[one.tail].text}" for one in body.relations]
        return body.text, "\n".join(found) or "nothing"
    return body.image, ", ".join(box.label for box in body.boxes) or "nothing"


def _facets(pair: Pair) -> dict[str, str]:
    return {"bucket": pair.bucket, "subtopic": pair.subtopic, "document": pair.source.path if pair.source else ""}


def _shown(pair: Pair) -> dict[str, Any]:
    return {
        "question": pair.question, "answer": pair.answer, "evidence": pair.evidence, "passage_id": pair.passage, "teacher": pair.teacher,
        "locator": pair.source.locator if pair.source else "", "earlier": [turn.model_dump() for turn in pair.earlier],
        "also": [quote.model_dump() for quote in pair.also],
    }


def _text(pair: Pair, facets: Mapping[str, str]) -> str:
    """What is searched, in lower case."""
    return "\n".join([pair.id, pair.asked, pair.answer, pair.evidence, facets.get("document", "")]).casefold()


def _dropped(drop: Drop) -> Item:
    facets = {"document": drop.source.path, "reason": drop.reason}
    shown = {
        "locator": drop.source.locator, "detail": drop.detail, "dup_of": drop.dup_of, "similarity": drop.similarity, "chars": drop.chars,
        "sample": drop.sample, "evidence": "", "passage_id": "",
    }
    return Item(drop.id, facets, "\n".join([drop.id, drop.source.path, drop.detail, drop.sample]).casefold(), shown)
