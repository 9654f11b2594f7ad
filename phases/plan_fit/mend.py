"""What to do about a check that did not pass: the commands that change what it measures, never the threshold."""

from __future__ import annotations

from forge.records import Verdict

FAIL = {
    "content": "take the documents it names out of the corpus (or out of sources.yaml), then `forge resume RUN`; or accept them at the gate",
    "coverage": "read the documents it names with `forge show RUN drops`; more room for pairs: `--set synth.pairs_per_passage=40`",
    "accuracy": "read the pairs it names with `forge review RUN` and reject or edit them; a free-writing teacher: `--set synth.judge=on`, or a better model",
    "subtopics": "look at that subtopic in `forge review RUN`: reject its pairs, or take its documents out of the corpus",
    "diversity": "set the buckets (`forge config show synth`), or use a teacher that writes freely: `--set synth.teacher=anthropic`",
    "hyperparameters": "follow the proposal in its line; `--set plan_fit.epochs`, `plan_fit.size` or `plan_fit.provider` change what it measures",
    "format": "the rows and faults are named; mend the base's template or the rows, then `forge resume RUN --from shape`",
    "budget": "`forge resume RUN --budget USD`, a cheaper machine (`--provider local`, `--max-hourly USD`), or fewer epochs",
    "leakage": "mend what it names, then `forge resume RUN --from shape`",
}
UNDECIDED = {
    "content": "59 passages without an outlier are enough to decide; add documents, or take those that it names out",
    "coverage": "five documents are enough to decide; add some",
    "accuracy": "more pairs decide it, or a grader that proves itself: `--set plan_fit.grader=anthropic` (its price is reserved first)",
    "subtopics": "more pairs of that subtopic decide it: add documents about it, or read its pairs in `forge review RUN`",
    "diversity": "50 pairs are enough to decide",
    "hyperparameters": "50 training rows are enough to decide; where the learning curve is the reason, read pairs in `forge review RUN`: do answers fit their questions",
    "format": "rehearse: `--set plan_fit.rehearse=true`",
    "leakage": "there is nothing to test on: more documents, so that some can be held out",
}


def how_to_mend(verdict: Verdict) -> str:
    """One line for a person at the gate; empty for a check that passed or that nothing here can change."""
    if verdict.outcome == "pass":
        return ""
    return (FAIL if verdict.outcome == "fail" else UNDECIDED).get(verdict.name, "")
