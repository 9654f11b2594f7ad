"""Texts with their entities and relations (NER and RE)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from forge.errors import UsageError
from forge.plugins.tasks._extract_format import answer, ask, instruct, normal
from forge.plugins.tasks._extract_gates import decide_all
from forge.plugins.tasks._extract_metrics import (
    Counts,
    body_of,
    count,
    entities,
    example_f1,
    f1_of,
    f1_ratio,
    false_alarm,
    gold_entities,
    gold_relations,
    invented,
    known_counts,
    lost_mentions,
    offset_counts,
    read_row,
    relations,
    reversed_relations,
)
from forge.plugins.tasks._gazetteer import Gazetteer
from forge.plugins.tasks._verdicts import by_name, number, ratio, share, table
from forge.protocols import Measure, Prediction
from forge.records import Example, Extraction, Message, Verdict
from forge.stats import compare_counts


class ExtractTask:
    """Entities and relations as numbered lists; scored as sets of texts, with places beside."""

    name: ClassVar[str] = "extract"

    def describe(self, bodies: Sequence[Extraction]) -> list[Extraction]:
        """The bodies with all types and the instruction written into each."""
        types = tuple(sorted({span.type for body in bodies for span in body.entities}))
        related = tuple(sorted({relation.type for body in bodies for relation in body.relations}))
        told = instruct(types, related) if types else ""
        return [
            body.model_copy(update={"types": types, "relation_types": related, "instruction": body.instruction or told}) for body in bodies
        ]

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """The instruction and the text. Raises UsageError for another task's example."""
        return ask(_body(example))

    def target(self, example: Example) -> str:
        """The lists, or "None found."."""
        return answer(_body(example))

    def parse(self, text: str) -> str:
        """The answer without white space around it; nothing else is mended."""
        return text.strip()

    def baselines(self, train: Sequence[Example], tests: Sequence[Example], seed: int) -> dict[str, list[str]]:
        """The commonest whole answer, and the dictionary of all training mentions."""
        if not train:
            return {}
        targets = Counter(answer(_body(row)) for row in train)
        common = min(targets, key=lambda text: (-targets[text], text))
        gazetteer = Gazetteer([_body(row) for row in train])
        return {"majority": [common] * len(tests), "gazetteer": [gazetteer.answer(_body(row)) for row in tests]}

    def seen(self, train: Sequence[Example], tests: Sequence[Example]) -> list[tuple[str, ...]]:
        """For each test row the texts of training mentions that stand in it, normalised."""
        known = sorted({normal(span.text) for row in train for span in _body(row).entities} - {""})
        first: dict[str, list[str]] = {}
        for text in known:
            first.setdefault(text.split()[0], []).append(text)
        return [_within(normal(_body(row).text), first) for row in tests]

    def audit(self, train: Sequence[Example], tests: Sequence[Example]) -> list[Verdict]:
        """How many texts hold nothing: without them a model learns to find something everywhere."""
        bodies = [_body(row) for row in train]
        empty = sum(not body.entities for body in bodies)
        counts = Counter(span.type for body in bodies for span in body.entities)
        told = f"{empty} of {len(bodies)} training texts have no entity; mentions: {', '.join(f'{t} {n}' for t, n in sorted(counts.items()))}"
        estimate = round(empty / len(bodies), 4) if bodies else None
        return [Verdict(name="negatives", estimate=estimate, n=len(bodies), outcome="undecided", evidence=told)]

    def score(self, predictions: Sequence[Prediction], *, abstention: str, seed: int) -> list[Verdict]:
        """All metrics, undecided until gates() has looked. A parse failure is an empty prediction."""
        rows = sorted((row for row in predictions if row.generated and isinstance(row.body, Extraction)), key=lambda row: row.id)
        related = any(body_of(row).relation_types for row in rows)
        types = sorted({span.type for row in rows for span in body_of(row).entities})

        def measure(name: str, counts: Callable[[Prediction], Counts], told: str) -> Verdict:
            return ratio(name, rows, lambda row: f1_ratio(counts(row)), told, seed=seed)

        found = [
            share("parsed", rows, lambda row: (float(read_row(row).parsed), 1.0), "answers with exactly the form that was taught", seed=seed, kind="quality"),
            share("invented_mentions", rows, invented, "mentions that are not in the text", seed=seed, kind="quality"),
            measure("entity_f1", entity_counts, "micro-F1 of (type, text)").model_copy(update={"kind": "quality"}),
            _relation_f1(rows, related, seed),
            _gain(rows, seed),
            *_precision_recall(rows),
            ratio("macro_example_f1", rows, _example_score, "mean F1 of a text; right silence counts 1", seed=seed),
            _told("macro_type_f1", _type_mean(rows, types), len(rows), "mean F1 of a type, as the ADE literature reports it"),
            measure("offset_f1", offset_counts, "micro-F1 of (type, beginning, end)"),
            measure("seen_f1", lambda row: known_counts(row, seen=True), "entities whose text training rows have too"),
            measure("unseen_f1", lambda row: known_counts(row, seen=False), "entities whose text no training row has"),
            ratio("unseen_recall", rows, _unseen_recall, "expected entities whose text no training row has and that were found", seed=seed),
            share("false_alarms", rows, false_alarm, "texts without entities in which something was found", seed=seed),
            share("repeated_mentions", rows, lost_mentions, "expected mentions that repeat another text, which sets do not count", seed=seed),
            *(_told(f"f1_{name}", _type_f1(rows, name), len(rows), f"micro-F1 of {name}") for name in types),
            *_others(rows, related, seed),
            ratio("nll_gain", [row for row in predictions if row.split.startswith("test")],
                  lambda row: (row.nll_base - row.nll_tuned, float(row.answer_tokens)), "nats per answer token, base less tuned", seed=seed),
        ]  # fmt: skip
        if related:
            found.append(share("reversed_relations", rows, reversed_relations, "relations that are right but for their direction", seed=seed))
        return found

    def measures(self, abstention: str) -> Sequence[Measure]:
        """What two models are compared by, on the same rows."""
        return (
            Measure("entity_f1", "micro-F1 of (type, text)", _if_said(entity_counts), statistic=f1_of),
            Measure("relation_f1", "micro-F1 of (head, type, tail)", _if_said(relation_counts), statistic=f1_of),
            Measure("parsed", "answers with exactly the form that was taught", _if_said(lambda row: (float(read_row(row).parsed), 1.0)), hits=True),
            Measure("invented_mentions", "mentions that are not in the text", _if_said(invented), lower_is_better=True),
            Measure("nats_per_character", "surprise at the expected answer", lambda row: (row.nll_tuned, float(len(row.gold))), lower_is_better=True),
        )

    def gates(self, verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
        """The same verdicts, decided by the thresholds extract_*; fewer than extract_min_items texts decide nothing."""
        return decide_all(verdicts, thresholds)

    def card_text(self, verdicts: Sequence[Verdict]) -> str:
        """One sentence that says how it went, a blank line, and the table of everything measured."""
        return f"{_headline(by_name(verdicts))}\n\n{table(verdicts)}\n"


task = ExtractTask()


def entity_counts(row: Prediction, other: str = "") -> Counts:
    """Hits, false and missed entities of one text."""
    return count(gold_entities(body_of(row)), entities(read_row(row, other)))


def relation_counts(row: Prediction, other: str = "") -> Counts:
    """Hits, false and missed relations of one text."""
    return count(gold_relations(body_of(row)), relations(read_row(row, other)))


def _body(example: Example) -> Extraction:
    if not isinstance(example.body, Extraction):
        raise UsageError(f"{example.id} is no extraction example", why=f"its task is {example.body.task}")
    return example.body


def _if_said(of: Callable[[Prediction], tuple[float, ...]]) -> Callable[[Prediction], tuple[float, ...] | None]:
    return lambda row: of(row) if row.generated and isinstance(row.body, Extraction) else None


def _within(text: str, first: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    words = {word.strip(".,;:()[]\"'") for word in text.split()} | set(text.split())
    return tuple(sorted(known for word in words for known in first.get(word, ()) if known in text))


def _relation_f1(rows: Sequence[Prediction], related: bool, seed: int) -> Verdict:
    if not related:
        return Verdict(name="relation_f1", estimate=None, outcome="undecided", evidence="the data have no relations", kind="info")
    found = ratio("relation_f1", rows, lambda row: f1_ratio(relation_counts(row)), "micro-F1 of (head, type, tail)", seed=seed)
    return found.model_copy(update={"kind": "quality"})


def _gain(rows: Sequence[Prediction], seed: int) -> Verdict:
    both = [row for row in rows if "gazetteer" in row.others]
    if not both:
        return Verdict(name="gain_over_gazetteer", estimate=None, outcome="undecided", evidence="the gazetteer was not measured")
    clusters: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {}
    for row in both:
        clusters.setdefault(row.group or row.id, []).append((entity_counts(row, "gazetteer"), entity_counts(row)))
    found = compare_counts(clusters, f1_of, seed=seed, samples=1000)
    score = f1_of(_sum([entity_counts(row, "gazetteer") for row in both]))
    return Verdict(
        name="gain_over_gazetteer", estimate=round(found.difference, 4), ci=(round(found.ci[0], 4), round(found.ci[1], 4)), n=len(both),
        outcome="undecided", evidence=f"entity micro-F1 less that of a dictionary of all training mentions ({score:.3f})",
    )


def _precision_recall(rows: Sequence[Prediction]) -> list[Verdict]:
    hits, false, missed = _sum([entity_counts(row) for row in rows])
    told = (("entity_precision", hits + false, "found entities that are right"), ("entity_recall", hits + missed, "expected entities that were found"))
    return [_told(name, hits / bottom if bottom else None, len(rows), text) for name, bottom, text in told]


def _example_score(row: Prediction) -> tuple[float, float]:
    return example_f1(gold_entities(body_of(row)), entities(read_row(row))), 1.0


def _unseen_recall(row: Prediction) -> tuple[float, float]:
    hits, _, missed = known_counts(row, seen=False)
    return hits, hits + missed


def _type_f1(rows: Sequence[Prediction], name: str) -> float:
    def of(found: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
        return {key for key in found if key[0] == name}

    return f1_of(_sum([count(of(gold_entities(body_of(row))), of(entities(read_row(row)))) for row in rows]))


def _type_mean(rows: Sequence[Prediction], types: Sequence[str]) -> float | None:
    return sum(_type_f1(rows, name) for name in types) / len(types) if types else None


def _others(rows: Sequence[Prediction], related: bool, seed: int) -> list[Verdict]:
    """Micro-F1 of every baseline and of every model that was compared, on the texts that it answered."""
    found = []
    for name in sorted({name for row in rows for name in row.others}):
        have = [row for row in rows if name in row.others]
        told = f"entity micro-F1 of {name}"
        if related:
            told += f"; relations {f1_of(_sum([relation_counts(row, name) for row in have])):.3f}"
        found.append(ratio(f"entity_f1_{name}", have, lambda row, name=name: f1_ratio(entity_counts(row, name)), told, seed=seed))  # type: ignore[misc]
    return found


def _sum(counts: Sequence[Counts]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*counts, strict=True))) if counts else (0.0, 0.0, 0.0)


def _told(name: str, value: float | None, n: int, told: str) -> Verdict:
    return Verdict(name=name, estimate=None if value is None else round(value, 4), n=n, outcome="undecided", evidence=told, kind="info")


def _headline(found: Mapping[str, Verdict]) -> str:
    score, related = found.get("entity_f1"), found.get("relation_f1")
    if score is None or score.estimate is None or score.ci is None:
        return "No extraction could be measured."
    rivals = [f"{name.removeprefix('entity_f1_').replace('_', ' ')} {number(v.estimate)}" for name, v in found.items() if name.startswith("entity_f1_") and not name.endswith("_goal")]
    with_relations = f", relations {related.estimate:.3f}" if related and related.estimate is not None else ""
    return (
        f"Entity F1 {score.estimate:.3f} on {score.n} texts (95 % interval {score.ci[0]:.3f} to {score.ci[1]:.3f}{with_relations})"
        + (f"; for comparison {', '.join(rivals)}." if rivals else ".")
    )

