"""Questions answered from the corpus, and one sentence for those that the corpus cannot answer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from forge.bm25 import Bm25
from forge.errors import UsageError
from forge.plugins.tasks._metrics import (
    Ratio,
    contains,
    interval,
    name_counts,
    says,
    share_interval,
    token_f1,
    vocabulary_of,
)
from forge.protocols import Measure, Prediction
from forge.records import Chat, Example, Message, Verdict

FLOORS = ("recall_nll_gain", "abstention_recall", "name_fidelity")
CEILINGS = ("over_refusal",)
"""What is gated, and from which side. Everything else is told, not judged."""

Estimator = Callable[..., tuple[float, tuple[float, float]] | None]


class ChatTask:
    """Conversational prompt/completion rows; scored by likelihood and by what is generated greedily."""

    name: ClassVar[str] = "chat"
    temperature: ClassVar[float] = 0.7
    """What servers sample chats at; the Modelfile that ships is greedy, which small models need."""

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """The turns that the model sees: system and question. Raises UsageError for another task's example."""
        return _chat(example).prompt

    def target(self, example: Example) -> str:
        """The answer that the model should give."""
        return "\n".join(turn.content for turn in _chat(example).completion)

    def parse(self, text: str) -> str:
        """The answer without white space around it; nothing else is mended."""
        return text.strip()

    def baselines(self, train: Sequence[Example], tests: Sequence[Example], seed: int) -> dict[str, list[str]]:
        """The commonest answer (the abstention sentence, as a rule), and the answer to the trained question that is most alike (BM25)."""
        if not train:
            return {}
        answers = [self.target(row) for row in train]
        counts = Counter(answers)
        common = min(counts, key=lambda text: (-counts[text], text))
        index = Bm25([self.prompt(row)[-1].content for row in train])
        nearest = [index.best(self.prompt(row)[-1].content) for row in tests]
        return {"majority": [common] * len(tests), "nearest": [answers[found[0]] if found else common for found in nearest]}

    def score(self, predictions: Sequence[Prediction], *, abstention: str, seed: int) -> list[Verdict]:
        """All metrics, undecided until gates() has looked: gain in nats per answer token, abstention, names, overlap.

        Refusals are judged on questions about what was trained on: declining to answer about a document that the model
        never read is no fault, so that share is only told.
        """
        recall, unseen, abstain = (_split(predictions, name) for name in ("test_recall", "test_unseen", "test_abstain"))
        said = {name: [row for row in rows if row.generated] for name, rows in (("r", recall), ("u", unseen), ("a", abstain))}
        names = frozenset(name for row in predictions for name in row.names if name)
        known = vocabulary_of([text for row in predictions for text in (row.gold, *(turn.content for turn in row.prompt))])

        def written(row: Prediction) -> Ratio:
            return name_counts(row.tuned, names, known)

        def refused(row: Prediction) -> Ratio:
            return float(contains(row.tuned, abstention)), 1.0

        def measure(name: str, rows: Sequence[Prediction], ratio: Callable[[Prediction], Ratio], how: Estimator, told: str) -> Verdict:
            return _verdict(name, rows, how(rows, ratio, seed=seed), told)

        answered = [*said["r"], *said["u"]]
        everything = [*answered, *said["a"]]
        return [
            measure("recall_nll_gain", recall, _gain, interval, "nats per answer token, base less tuned; new questions about known facts"),
            measure("abstention_recall", said["a"], lambda row: (float(says(row.tuned, abstention)), 1.0), share_interval,
                    "out-of-scope questions answered with exactly the abstention sentence"),
            measure("over_refusal", said["r"], refused, share_interval, "questions about known facts answered with the abstention sentence"),
            _count_names(measure("name_fidelity", answered, written, share_interval, "protected names in the answers that are written exactly"),
                         [written(row) for row in answered], answered),
            measure("unseen_nll_gain", unseen, _gain, interval, "nats per answer token; documents that were never trained on"),
            measure("abstain_nll_gain", abstain, _gain, interval, "nats per token of the abstention sentence"),
            _perplexity("recall_perplexity_base", recall, lambda row: row.nll_base, seed),
            _perplexity("recall_perplexity_tuned", recall, lambda row: row.nll_tuned, seed),
            _perplexity("unseen_perplexity_tuned", unseen, lambda row: row.nll_tuned, seed),
            measure("unseen_refusal", said["u"], refused, share_interval, "questions about unread documents answered with the abstention sentence"),
            measure("finished", everything, lambda row: (float(row.finished), 1.0), share_interval, "answers that ended by themselves"),
            measure("recall_token_f1", said["r"], lambda row: (token_f1(row.tuned, row.gold), 1.0), interval,
                    "overlap of words with the expected answer"),
            *_rivals(said["r"], seed),
        ]  # fmt: skip

    def measures(self, abstention: str) -> Sequence[Measure]:
        """What two models are compared by, on the same rows. Likelihood is taken by character: tokens of two bases differ."""
        return (
            Measure("recall_nats_per_character", "new questions about known facts", _on("test_recall", _nats), lower_is_better=True),
            Measure("recall_token_f1", "overlap of words with the expected answer", _on("test_recall", _f1)),
            Measure("abstention_recall", "out-of-scope questions that are declined", hits=True,
                    of=_on("test_abstain", lambda row: _said(row, says(row.tuned, abstention)))),
            Measure("over_refusal", "answerable questions that are declined", lower_is_better=True, hits=True,
                    of=_on("test_recall", lambda row: _said(row, contains(row.tuned, abstention)))),
            Measure("unseen_nats_per_character", "documents that were never trained on", _on("test_unseen", _nats), lower_is_better=True),
        )

    def gates(self, verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
        """The same verdicts, decided: the whole interval has to be on one side of the threshold, on enough items."""
        return [_decide(verdict, thresholds) if verdict.kind == "quality" else verdict for verdict in verdicts]

    def card_text(self, verdicts: Sequence[Verdict]) -> str:
        """One sentence that says how it went, a blank line, and the table of everything measured."""
        table = ["| measure | value | 95 % interval | n | threshold | outcome |", "|---|---|---|---|---|---|"]
        return "\n".join([_headline({verdict.name: verdict for verdict in verdicts}), "", *table, *map(_row, verdicts)]) + "\n"


task = ChatTask()


def _chat(example: Example) -> Chat:
    if not isinstance(example.body, Chat):
        raise UsageError(f"{example.id} is no chat example", why=f"its task is {example.body.task}")
    return example.body


def _rivals(rows: Sequence[Prediction], seed: int) -> list[Verdict]:
    """The same overlap for every baseline and compared model, on the questions that it answered."""
    found = []
    for name in sorted({name for row in rows for name in row.others}):
        have = [row for row in rows if name in row.others]
        value = interval(have, lambda row, name=name: (token_f1(row.others[name], row.gold), 1.0), seed=seed)  # type: ignore[misc]
        found.append(_verdict(f"recall_token_f1_{name}", have, value, f"the same overlap for {name}"))
    return found


def _split(predictions: Sequence[Prediction], name: str) -> list[Prediction]:
    return sorted((row for row in predictions if row.split == name), key=lambda row: row.id)


def _on(split: str, of: Callable[[Prediction], Ratio | None]) -> Callable[[Prediction], Ratio | None]:
    return lambda row: of(row) if row.split == split else None


def _nats(row: Prediction) -> Ratio:
    return row.nll_tuned, len(row.gold)


def _f1(row: Prediction) -> Ratio | None:
    return (token_f1(row.tuned, row.gold), 1.0) if row.generated else None


def _said(row: Prediction, hit: bool) -> Ratio | None:
    return (float(hit), 1.0) if row.generated else None


def _gain(row: Prediction) -> Ratio:
    return row.nll_base - row.nll_tuned, row.answer_tokens


def _verdict(name: str, rows: Sequence[Prediction], found: tuple[float, tuple[float, float]] | None, told: str) -> Verdict:
    estimate, ci = (round(found[0], 4), (round(found[1][0], 4), round(found[1][1], 4))) if found else (None, None)
    kind: Literal["quality", "info"] = "quality" if name in FLOORS + CEILINGS else "info"
    return Verdict(name=name, estimate=estimate, ci=ci, n=len(rows), outcome="undecided", evidence=told, kind=kind)


def _count_names(verdict: Verdict, counts: Sequence[Ratio], rows: Sequence[Prediction]) -> Verdict:
    """n of the fidelity is how many names were written. Answers without any name to write have nothing to be gated on."""
    n = int(sum(written for _, written in counts))
    if any(row.names for row in rows):
        return verdict.model_copy(update={"n": n})
    return verdict.model_copy(update={"n": n, "kind": "info", "evidence": f"{verdict.evidence}; the expected answers have none"})


def _perplexity(name: str, rows: Sequence[Prediction], nll: Callable[[Prediction], float], seed: int) -> Verdict:
    found = interval(rows, lambda row: (nll(row), row.answer_tokens), seed=seed)
    if found:
        found = math.exp(found[0]), (math.exp(found[1][0]), math.exp(found[1][1]))
    return _verdict(name, rows, found, "exp of the mean loss on answer tokens and the end of the turn")


def _decide(verdict: Verdict, thresholds: Mapping[str, float]) -> Verdict:
    """Strict on both sides: a model equal to its base has the interval 0 to 0, which is no gain and no loss."""
    threshold, enough = thresholds.get(verdict.name), thresholds.get("min_test_items")
    if threshold is None or enough is None:
        return verdict.model_copy(update={"evidence": f"{verdict.evidence}; the plan has no threshold for it"})
    outcome: Literal["pass", "fail", "undecided"] = "undecided"
    evidence = verdict.evidence
    if verdict.ci is None or verdict.n < enough:
        evidence += f"; {verdict.n} items say too little, {enough:g} are asked for"
    elif verdict.name in FLOORS:
        outcome = "pass" if verdict.ci[0] > threshold else "fail" if verdict.ci[1] < threshold else "undecided"
    else:
        outcome = "pass" if verdict.ci[1] < threshold else "fail" if verdict.ci[0] > threshold else "undecided"
    return verdict.model_copy(update={"threshold": threshold, "outcome": outcome, "evidence": evidence})


def _headline(found: Mapping[str, Verdict]) -> str:
    parts = [_gain_text(found.get("recall_nll_gain"))]
    abstention, refusal = found.get("abstention_recall"), found.get("over_refusal")
    if abstention and abstention.estimate is not None:
        parts.append(f"it declines {abstention.estimate:.0%} of {abstention.n} out-of-scope questions")
    if refusal and refusal.estimate is not None:
        parts.append(f"and {refusal.estimate:.0%} of {refusal.n} that it should answer")
    return "; ".join(parts[:2]) + (f" {parts[2]}" if len(parts) > 2 else "") + "."


def _gain_text(gain: Verdict | None) -> str:
    if gain is None or gain.estimate is None or gain.ci is None:
        return "No gain over the base could be measured"
    low, high = gain.ci
    measured = f"95 % interval {low:.2f} to {high:.2f}, {gain.n} new questions about known facts"
    if low <= 0 <= high:
        return f"No measurable gain over the base ({gain.estimate:+.2f} nats per answer token, {measured})"
    better = "better" if low > 0 else "worse"
    return f"The tuned model is {abs(gain.estimate):.2f} nats per answer token {better} than its base ({measured})"


def _row(verdict: Verdict) -> str:
    value = "-" if verdict.estimate is None else f"{verdict.estimate:.3f}"
    ci = "-" if verdict.ci is None else f"{verdict.ci[0]:.3f} to {verdict.ci[1]:.3f}"
    threshold = "-" if verdict.threshold is None else f"{verdict.threshold:g}"
    outcome = "-" if verdict.kind == "info" else verdict.outcome
    return f"| {verdict.name} | {value} | {ci} | {verdict.n} | {threshold} | {outcome} |"
