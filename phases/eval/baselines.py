"""What the tuned model has to beat: guesses that learn nothing, and the base and the tuned model with examples or a search.

The last ones say when retrieval would do: if the base answers as well with the right passage before it, tuning bought nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from forge.phase import Context
from forge.phases.eval.models import Encoded, Models, Which
from forge.phases.eval.prompts import FewShot, NearestShots, RetrievedPassage, Turns
from forge.phases.eval.select import stratified
from forge.protocols import Task
from forge.records import Example, Passage, digest

BATCH = 16
Answers = dict[str, dict[str, str]]
"""example id -> name of who answered -> answer"""


def trivial_answers(task: Task, train: Sequence[Example], tests: Sequence[Example], seed: int) -> Answers:
    """The task's own baselines on every test row."""
    found: Answers = {row.id: {} for row in tests}
    guess: Callable[..., Mapping[str, Sequence[str]]] | None = getattr(task, "baselines", None)
    if guess is None or not tests:
        return found
    for name, answers in guess(train, tests, seed).items():
        for row, answer in zip(tests, answers, strict=True):
            found[row.id][name] = answer
    return found


def model_answers(
    models: Models, task: Task, train: Sequence[Example], passages: Sequence[Passage], rows: Sequence[Example], new_tokens: int, ctx: Context
) -> Answers:
    """Base with examples, base and tuned model with a search, on `rows`; every batch is in the journal."""
    found: Answers = {row.id: {} for row in rows}
    if not rows or not train:
        return found
    shots = FewShot(train, task, ctx.seed)
    search = RetrievedPassage(passages, task, models.cut) if task.name == "chat" else NearestShots(train, task)
    plan: list[tuple[str, Which, Callable[..., Turns | None]]] = [
        ("base_few_shot", "base", shots.ask), ("bm25_base", "base", search.ask), ("bm25_tuned", "tuned", search.ask),
    ]
    for name, which, ask in plan:
        for row, text in _ask(name, which, ask, models, rows, new_tokens, ctx):
            found[row.id][name] = task.parse(text)
    return found


def sampled_answers(models: Models, task: Task, rows: Sequence[Example], new_tokens: int, ctx: Context) -> Answers:
    """The tuned model's answers drawn at the task's own temperature; nothing for tasks that are decoded greedily only."""
    temperature = float(getattr(task, "temperature", 0.0))
    found: Answers = {row.id: {} for row in rows}
    if temperature <= 0:
        return found
    journal = ctx.journal("sampled")
    for start in range(0, len(rows), BATCH):
        ctx.check_stop()
        batch = rows[start : start + BATCH]
        key = digest("sampled", str(temperature), str(new_tokens), *(row.id for row in batch))
        if key not in journal:
            encoded = [Encoded(models.encode_prompt(task.prompt(row)), ()) for row in batch]
            answers = models.generate(encoded, "tuned", new_tokens, temperature=temperature, seed=int(key[:8], 16))
            journal.put(key, [answer.text for answer in answers])
        for row, text in zip(batch, journal.get(key), strict=True):
            found[row.id]["tuned_sampled"] = task.parse(text)
    return found


def choose_rows(examples: Sequence[Example], cap: int, seed: int) -> list[Example]:
    """The rows that these baselines are asked: of the test that the task is gated on, evenly over its kinds."""
    recall = [row for row in examples if row.split == "test_recall"]
    return stratified(recall or [row for row in examples if row.split == "test_unseen"], cap, seed)


def _ask(
    name: str, which: Which, ask: Callable[..., Turns | None], models: Models, rows: Sequence[Example], new_tokens: int, ctx: Context
) -> list[tuple[Example, str]]:
    def fits(turns: Turns) -> bool:
        return len(models.encode_prompt(turns)) + new_tokens <= models.context

    asked = [(row, Encoded(models.encode_prompt(turns), ())) for row in rows if (turns := ask(row, fits)) is not None]
    asked.sort(key=lambda one: (len(one[1].prompt), one[0].id))
    journal, found = ctx.journal("baselines"), list[tuple[Example, str]]()
    for start in range(0, len(asked), BATCH):
        ctx.check_stop()
        ctx.progress(start, len(asked), f"{name.replace('_', ' ')}")
        batch = asked[start : start + BATCH]
        key = digest(name, str(new_tokens), *(row.id for row, _ in batch))
        if key not in journal:
            journal.put(key, [answer.text for answer in models.generate([encoded for _, encoded in batch], which, new_tokens)])
        found += [(row, text) for (row, _), text in zip(batch, journal.get(key), strict=True)]
    return found
