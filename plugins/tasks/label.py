"""Texts with a class label, and one sentence that says why where the data have one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import ClassVar

from forge.errors import UsageError
from forge.plugins.tasks._citations import citations, invented_citations
from forge.plugins.tasks._label_baselines import majority, tfidf
from forge.plugins.tasks._label_format import answer, ask, begin, instruct, lenient, read
from forge.plugins.tasks._label_gates import decide_all
from forge.plugins.tasks._label_metrics import (
    body_of,
    calibration,
    class_counts,
    confusion,
    drift,
    labels_of,
    macro_f1,
    per_class,
    said,
)
from forge.plugins.tasks._label_rows import audit_labels
from forge.plugins.tasks._metrics import Ratio
from forge.plugins.tasks._verdicts import by_group, by_name, number, ratio, share, statistic, table
from forge.protocols import Measure, Prediction
from forge.records import Example, Labelled, Message, Verdict
from forge.stats import clopper_pearson, compare_counts, compare_hits

RIVALS = ("majority", "tfidf")
"""Baselines that the model has to beat; the others are told."""


class LabelTask:
    """Label (and rationale) of a text; scored on what is generated greedily, by the strict form of the answer."""

    name: ClassVar[str] = "label"

    def describe(self, bodies: Sequence[Labelled]) -> list[Labelled]:
        """The bodies with all labels and the instruction written into each."""
        labels = tuple(sorted({body.label for body in bodies}))
        asked, reasons = any(body.question for body in bodies), any(body.rationale for body in bodies)
        told = instruct(labels, question=asked, rationale=reasons) if labels else ""
        return [body.model_copy(update={"labels": labels, "instruction": body.instruction or told}) for body in bodies]

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """The instruction, and the text with its question. Raises UsageError for another task's example."""
        return ask(_body(example))

    def target(self, example: Example) -> str:
        """"Yes. Rationale: <one sentence>", or the label alone."""
        return answer(_body(example))

    def parse(self, text: str) -> str:
        """The answer without white space around it; nothing else is mended."""
        return text.strip()

    def label_prefixes(self, example: Example) -> dict[str, str]:
        """For each label the beginning of the answer that decides for it."""
        body = _body(example)
        return {label: begin(label, body) for label in body.labels}

    def baselines(self, train: Sequence[Example], tests: Sequence[Example], seed: int) -> dict[str, list[str]]:
        """The commonest label, and TF-IDF with logistic regression where scikit-learn is installed."""
        taught, asked = [_body(row) for row in train], [_body(row) for row in tests]
        found = {"majority": majority(taught, len(asked))} if taught else {}
        guessed = tfidf(taught, asked, seed)
        return found if guessed is None else {**found, "tfidf": guessed}

    def audit(self, train: Sequence[Example], tests: Sequence[Example]) -> list[Verdict]:
        """Class balance, and whether the source alone gives the label away; undecided until gates() has looked."""
        return audit_labels([_body(row) for row in train], [_body(row) for row in tests])

    def score(self, predictions: Sequence[Prediction], *, abstention: str, seed: int) -> list[Verdict]:
        """All metrics, undecided until gates() has looked. An answer without the right form is wrong."""
        rows = sorted((row for row in predictions if row.generated and isinstance(row.body, Labelled)), key=lambda row: row.id)
        labels = labels_of(rows)
        complying = [row for row in rows if said(row)]
        return [
            share("compliance", rows, lambda row: (float(bool(said(row))), 1.0), "answers with exactly the form that was taught", seed=seed, kind="quality"),
            _invented(rows, seed),
            _class_recall(rows, labels),
            *(_gain(rows, labels, rival, seed) for rival in RIVALS),
            share("accuracy", rows, lambda row: (float(said(row) == body_of(row).label), 1.0), f"right labels, {_setting(rows)}", seed=seed),
            share("compliant_accuracy", complying, lambda row: (float(said(row) == body_of(row).label), 1.0),
                  "right labels among the answers with the right form", seed=seed),
            statistic("macro_f1", rows, class_counts(labels, said), macro_f1, "mean F1 over the classes; one that is missing counts 0", seed=seed),
            _gain_over_base(rows, seed),
            *_calibrated(rows),
            _told("prior_drift", drift(rows, labels), len(rows), "largest difference of a label's share of the answers and of the truth"),
            share("citations", rows, lambda row: (float(bool(citations(row.tuned))), 1.0), "answers that cite something", seed=seed),
            _words(complying),
            *(_class(row) for row in per_class(rows, labels, said)),
            *_others(rows, labels, seed),
            ratio("nll_gain", [row for row in predictions if row.split.startswith("test")],
                  lambda row: (row.nll_base - row.nll_tuned, float(row.answer_tokens)), "nats per answer token, base less tuned", seed=seed),
        ]  # fmt: skip

    def measures(self, abstention: str) -> Sequence[Measure]:
        """What two models are compared by, on the same rows."""
        return (
            Measure("accuracy", "right labels", lambda row: _hit(row, lambda body: said(row) == body.label), hits=True),
            Measure("macro_f1", "mean F1 over the classes", _class_vector, statistic=macro_f1),
            Measure("compliance", "answers with exactly the form that was taught", lambda row: _hit(row, lambda body: bool(said(row))), hits=True),
            Measure("nats_per_character", "surprise at the expected answer", lambda row: (row.nll_tuned, float(len(row.gold))), lower_is_better=True),
        )

    def gates(self, verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
        """The same verdicts, decided by the thresholds label_*; fewer than label_min_items answers decide nothing."""
        return decide_all(verdicts, thresholds)

    def card_text(self, verdicts: Sequence[Verdict]) -> str:
        """One sentence that says how it went, a blank line, and the table of everything measured."""
        return f"{_headline(by_name(verdicts))}\n\n{table(verdicts)}\n"

    def confusion_text(self, predictions: Sequence[Prediction]) -> str:
        """The confusion matrix as a Markdown table: rows are expected, columns given."""
        rows = [row for row in predictions if row.generated and isinstance(row.body, Labelled)]
        labels = labels_of(rows)
        head = [f"| expected | {' | '.join([*labels, 'no label'])} |", "|---" * (len(labels) + 2) + "|"]
        cells = [f"| {gold} | {' | '.join(map(str, line))} |" for gold, line in zip(labels, confusion(rows, labels, said), strict=True)]
        return "\n".join([*head, *cells]) + "\n"


task = LabelTask()


def _body(example: Example) -> Labelled:
    if not isinstance(example.body, Labelled):
        raise UsageError(f"{example.id} is no labelled example", why=f"its task is {example.body.task}")
    return example.body


def _hit(row: Prediction, right: Callable[[Labelled], bool]) -> Ratio | None:
    return (float(right(body_of(row))), 1.0) if row.generated and isinstance(row.body, Labelled) else None


def _class_vector(row: Prediction) -> tuple[float, ...] | None:
    if not row.generated or not isinstance(row.body, Labelled):
        return None
    return class_counts(row.body.labels, said)(row)


def _setting(rows: Sequence[Prediction]) -> str:
    """Closed book and with context are two tasks: their numbers must not be compared."""
    texts = {bool(body_of(row).text) for row in rows if body_of(row).question}
    if not texts:
        return "the text alone"
    return "with context" if texts == {True} else "closed book" if texts == {False} else "some with context, some without"


def _invented(rows: Sequence[Prediction], seed: int) -> Verdict:
    def invents(row: Prediction) -> tuple[float, float]:
        prompt = "\n".join(turn.content for turn in row.prompt)
        return float(bool(invented_citations(row.tuned, prompt))), 1.0

    return share("invented_citations", rows, invents, "answers with a citation that the prompt does not have", seed=seed, kind="quality")


def _class_recall(rows: Sequence[Prediction], labels: Sequence[str]) -> Verdict:
    """The worst class. Evidence holds "label hits/n" of each, which the gate tests together (Holm)."""
    found = [(label, round(recall * n), n) for label, _, recall, _, n in per_class(rows, labels, said) if n]
    told = "; ".join(f"{label} {hits}/{n}" for label, hits, n in found) or "no rows"
    if not found:
        return Verdict(name="class_recall", estimate=None, outcome="undecided", evidence=told)
    label, hits, n = min(found, key=lambda one: (one[1] / one[2], one[0]))
    ci = clopper_pearson(hits, n)
    return Verdict(
        name="class_recall", estimate=round(hits / n, 4), ci=(round(ci[0], 4), round(ci[1], 4)), n=len(rows), outcome="undecided",
        evidence=f"recall of the worst class, {label}: {told}",
    )


def _gain(rows: Sequence[Prediction], labels: Sequence[str], rival: str, seed: int) -> Verdict:
    """Macro-F1 less the rival's on the same rows; p of McNemar's exact test goes into the evidence."""
    name, both = f"gain_over_{rival}", [row for row in rows if rival in row.others]
    if not both:
        return Verdict(name=name, estimate=None, outcome="undecided", evidence=f"{rival} was not measured")
    mine, theirs = class_counts(labels, said), class_counts(labels, lambda row: lenient(row.others[rival], body_of(row)))
    clusters: dict[str, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {}
    for row in both:
        clusters.setdefault(row.group or row.id, []).append((theirs(row), mine(row)))
    found = compare_counts(clusters, macro_f1, seed=seed, samples=1000)
    p = compare_hits(_hits(both, rival), seed=seed, samples=1).p
    score = macro_f1(tuple(map(sum, zip(*(theirs(row) for row in both), strict=True))))
    return Verdict(
        name=name, estimate=round(found.difference, 4), ci=(round(found.ci[0], 4), round(found.ci[1], 4)), n=len(both), outcome="undecided",
        evidence=f"macro-F1 less that of {rival} ({score:.3f}); McNemar p={p:.4g}",
    )


def _hits(rows: Sequence[Prediction], rival: str) -> dict[str, list[tuple[bool, bool]]]:
    found: dict[str, list[tuple[bool, bool]]] = {}
    for row in rows:
        gold = body_of(row).label
        found.setdefault(row.group or row.id, []).append((lenient(row.others[rival], body_of(row)) == gold, said(row) == gold))
    return found


def _gain_over_base(rows: Sequence[Prediction], seed: int) -> Verdict:
    """Accuracy less that of the base, which may only choose between the labels: it was never taught the form."""
    both = [row for row in rows if "base_labels" in row.others]
    told = "accuracy less that of the base, whose answer is its likeliest label"
    if not both:
        return Verdict(name="accuracy_gain", estimate=None, outcome="undecided", evidence=f"{told}: not measured", kind="info")
    found = compare_hits(_hits(both, "base_labels"), seed=seed, samples=1000)
    return Verdict(
        name="accuracy_gain", estimate=round(found.difference, 4), ci=(round(found.ci[0], 4), round(found.ci[1], 4)), n=len(both),
        outcome="undecided", evidence=f"{told}; McNemar p={found.p:.4g}", kind="info",
    )


def _calibrated(rows: Sequence[Prediction]) -> list[Verdict]:
    found, n = calibration(rows), sum(bool(row.label_scores) for row in rows)
    names = (
        ("ece", "expected calibration error of p(label), 15 bins of equal mass"), ("brier", "Brier score of p(label)"),
        ("label_nll", "nats of the right label among the labels"),
    )
    return [_told(name, found[i] if found else None, n, told) for i, (name, told) in enumerate(names)]


def _words(rows: Sequence[Prediction]) -> Verdict:
    lengths = [len(read(row.tuned, body_of(row)).rationale.split()) for row in rows if body_of(row).rationale]
    return _told("rationale_words", float(median(lengths)) if lengths else None, len(lengths), "median length of the rationale in words")


def _class(found: tuple[str, float, float, float, int]) -> Verdict:
    label, precision, recall, score, n = found
    return _told(f"f1_{label}", score, n, f"class {label}: precision {precision:.3f}, recall {recall:.3f}")


def _others(rows: Sequence[Prediction], labels: Sequence[str], seed: int) -> list[Verdict]:
    """Accuracy of every baseline and of every model that was compared, on the rows that it answered."""
    found = []
    for name in sorted({name for row in rows for name in row.others}):
        have = [row for row in rows if name in row.others]
        told = f"right labels of {name}; macro-F1 {_macro(have, labels, name):.3f}"
        found.append(share(f"accuracy_{name}", have, lambda row, name=name: _right(row, name), told, seed=seed))  # type: ignore[misc]
    return found


def _right(row: Prediction, name: str) -> tuple[float, float]:
    return float(lenient(row.others[name], body_of(row)) == body_of(row).label), 1.0


def _macro(rows: Sequence[Prediction], labels: Sequence[str], name: str) -> float:
    counts = by_group(rows, class_counts(labels, lambda row: lenient(row.others[name], body_of(row))))
    return macro_f1(tuple(map(sum, zip(*(value for values in counts.values() for value in values), strict=True))))


def _told(name: str, value: float | None, n: int, told: str) -> Verdict:
    return Verdict(name=name, estimate=None if value is None else round(value, 4), n=n, outcome="undecided", evidence=told, kind="info")


def _headline(found: Mapping[str, Verdict]) -> str:
    accuracy, macro = found.get("accuracy"), found.get("macro_f1")
    if accuracy is None or accuracy.estimate is None or accuracy.ci is None:
        return "No label could be measured."
    rivals = [f"{name.removeprefix('accuracy_').replace('_', ' ')} {number(verdict.estimate)}" for name, verdict in found.items()
              if name.startswith("accuracy_") and name != "accuracy_gain"]  # fmt: skip
    low, high = accuracy.ci
    return (
        f"{accuracy.estimate:.1%} of {accuracy.n} labels are right (95 % interval {low:.1%} to {high:.1%}"
        f"{f', macro-F1 {number(macro.estimate)}' if macro else ''})" + (f"; for comparison {', '.join(rivals)}." if rivals else ".")
    )

