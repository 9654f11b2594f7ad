"""Two runs on the same test rows: what differs, with a paired interval, and "no difference" where it straddles zero.

Rows are paired by id, and count only when both runs asked the same prompt for the same answer. Ratios are compared by a
bootstrap that redraws whole groups with both models' numbers; right-or-wrong measures by McNemar's exact test as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from forge.errors import UsageError
from forge.protocols import Measure, Prediction
from forge.records import Plan, Record, read_jsonl, read_record
from forge.registry import Registry
from forge.run import Run
from forge.stats import compare_counts, mcnemar

ENOUGH_ROWS = 30
"""With fewer rows in common nothing is said: at n = 30 a share is known to about 18 points."""
ALPHA = 0.05
SEED = 7

Counts = tuple[float, ...]
Outcome = Literal["first", "second", "no difference", "too few rows"]


class Difference(Record):
    """One measure on the rows that both have. ci: 95 %, of second less first; p: McNemar's, for right-or-wrong measures."""

    name: str
    about: str
    first: float | None = None
    second: float | None = None
    difference: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    rows: int = 0
    better: Outcome = "too few rows"


class Comparison(Record):
    """Two runs side by side. The first difference decides; `common` rows are the same question and answer in both."""

    first: str
    second: str
    task: str
    common: int
    only_first: int
    only_second: int
    differences: tuple[Difference, ...]

    @property
    def better(self) -> Outcome:
        """Which run the deciding measure is for."""
        return self.differences[0].better if self.differences else "too few rows"

    @property
    def sentence(self) -> str:
        """The result in words."""
        if self.better == "too few rows":
            return f"{self.second} and {self.first} cannot be compared: {self.common} test rows in common, {ENOUGH_ROWS} are needed"
        lead = self.differences[0]
        assert lead.ci is not None
        told = f"{lead.name} {lead.difference:+.3f}, 95 % interval {lead.ci[0]:+.3f} to {lead.ci[1]:+.3f}, {lead.rows} rows"
        if self.better == "no difference":
            return f"no difference between {self.second} and {self.first} ({told})"
        winner, other = (self.second, self.first) if self.better == "second" else (self.first, self.second)
        return f"{winner} is better than {other} ({told})"


@dataclass(frozen=True)
class Side:
    """What one run (or, as RUN:base, its base) said to its test rows."""

    name: str
    task: str
    abstention: str
    rows: Mapping[str, Prediction]


def compare_runs(first: str, second: str) -> Comparison:
    """Compare two runs by id; "RUN:base" is what RUN's base said. Raises UsageError for runs that were not evaluated."""
    return compare_sides(read_side(first), read_side(second))


def read_side(word: str) -> Side:
    """The predictions of RUN or RUN:base. Raises UsageError when there are none."""
    run_id, _, which = word.partition(":")
    if which not in ("", "base", "tuned"):
        raise UsageError(f'"{word}" is no model of a run', why="write RUN, or RUN:base for its base", next="forge runs")
    run = Run.open(run_id)
    try:
        artifacts = {name: run.store.get(name) for name in ("predictions", "plan")}
        if artifacts["predictions"] is None or artifacts["plan"] is None:
            raise UsageError(f"run {run.id} was not evaluated", why=f"its state is {run.state.get('outcome', 'new')}", next=f"forge resume {run.id}")
        plan = read_record(run.store.open(artifacts["plan"]), Plan)
        found = read_jsonl(run.store.open(artifacts["predictions"]), Prediction)
        rows = {row.id: as_base(row) if which == "base" else row for row in found}
    finally:
        run.close()
    return Side(name=f"{run.id}:base" if which == "base" else run.id, task=plan.task, abstention=plan.abstention, rows=rows)


def as_base(row: Prediction) -> Prediction:
    """The same row with what the base said in the tuned model's place."""
    return row.model_copy(update={"tuned": row.base, "nll_tuned": row.nll_base, "generated": bool(row.base)})


def compare_sides(first: Side, second: Side, measures: Sequence[Measure] | None = None) -> Comparison:
    """Compare what two models said. measures: those of the task unless told. Raises UsageError for two tasks."""
    if first.task != second.task:
        raise UsageError(f"{first.name} and {second.name} cannot be compared", why=f"one is for {first.task}, the other for {second.task}", next="forge runs")
    pairs = common_rows(first.rows, second.rows)
    wanted = task_measures(first.task, first.abstention) if measures is None else measures
    return Comparison(
        first=first.name, second=second.name, task=first.task, common=len(pairs),
        only_first=len(first.rows) - len(pairs), only_second=len(second.rows) - len(pairs),
        differences=tuple(difference(pairs, measure) for measure in wanted),
    )


def common_rows(first: Mapping[str, Prediction], second: Mapping[str, Prediction]) -> list[tuple[Prediction, Prediction]]:
    """Rows with the same id, prompt and expected answer, by id. The system prompt may differ: it belongs to the model."""
    found = [(first[name], second[name]) for name in sorted(first.keys() & second.keys())]
    return [(a, b) for a, b in found if (a.split, a.gold, _asked(a)) == (b.split, b.gold, _asked(b))]


def task_measures(task: str, abstention: str) -> Sequence[Measure]:
    """What a task compares by; tasks that say nothing are compared by likelihood and exact answers."""
    told = getattr(Registry().plugin("task", task, ready=False), "measures", None)
    return told(abstention) if told else GENERAL


def difference(pairs: Iterable[tuple[Prediction, Prediction]], measure: Measure) -> Difference:
    """One measure on paired rows."""
    clusters: dict[str, list[tuple[Counts, Counts]]] = defaultdict(list)
    for a, b in pairs:
        one, two = measure.of(a), measure.of(b)
        if one is not None and two is not None:
            clusters[a.group or a.id].append((one, two))
    rows = [pair for group in clusters.values() for pair in group]
    known = Difference(name=measure.name, about=measure.about, rows=len(rows))
    if len(rows) < ENOUGH_ROWS:
        return known
    found = compare_counts(clusters, measure.statistic, seed=SEED)
    p = mcnemar(sum(a[0] > b[0] for a, b in rows), sum(b[0] > a[0] for a, b in rows)) if measure.hits else None
    first, second = (measure.statistic(tuple(map(sum, zip(*side, strict=True)))) for side in zip(*rows, strict=True))
    return known.model_copy(update={
        "first": round(first, 6), "second": round(second, 6), "difference": round(found.difference, 6),
        "ci": (round(found.ci[0], 6), round(found.ci[1], 6)), "p": None if p is None else round(p, 6),
        "better": _better(*found.ci, p, lower_is_better=measure.lower_is_better),
    })


def _better(low: float, high: float, p: float | None, *, lower_is_better: bool) -> Outcome:
    if low <= 0 <= high or (p is not None and p >= ALPHA):
        return "no difference"
    return "second" if (high < 0) == lower_is_better else "first"


def _asked(row: Prediction) -> tuple[tuple[str, str], ...]:
    return tuple((turn.role, turn.content) for turn in row.prompt if turn.role != "system")


def _nats(row: Prediction) -> tuple[float, float] | None:
    return row.nll_tuned, float(len(row.gold))


def _exact(row: Prediction) -> tuple[float, float] | None:
    return (float(row.tuned.split() == row.gold.split()), 1.0) if row.generated else None


GENERAL = (
    Measure("exact_answers", "answers equal to the expected one", _exact, hits=True),
    Measure("nats_per_character", "surprise at the expected answer", _nats, lower_is_better=True),
)
