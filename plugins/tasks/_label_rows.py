"""What labelled rows show before anything is trained: how even the classes are, and whether the source gives the label away."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from forge.records import Labelled, Verdict
from forge.stats import chi_square_p


def audit_labels(train: Sequence[Labelled], tests: Sequence[Labelled]) -> list[Verdict]:
    """class_balance: share of the commonest label among the training rows. label_source: what knowing the source is worth.

    A data set that takes one class from one source and the others from another teaches the style of the sources: the published
    75.76 % of a yes/no/uncertain model rest on such a set.
    """
    return [_balance(train), label_source([*train, *tests])]


def label_source(bodies: Sequence[Labelled]) -> Verdict:
    """Accuracy of guessing the label from the source alone, less that of guessing the commonest one."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for body in bodies:
        counts[body.source][body.label] += 1
    total = Counter(body.label for body in bodies)
    labels, n = sorted(total), len(bodies)
    if len(counts) < 2 or not n:
        return Verdict(name="label_source", estimate=0.0, n=n, outcome="undecided", evidence="one source only: nothing to confuse the label with")
    alone = sum(max(counter.values()) for counter in counts.values()) / n
    gain = alone - max(total.values()) / n
    p = chi_square_p([[counts[source][label] for label in labels] for source in sorted(counts)])
    told = "; ".join(f"{source or 'unnamed'}: {', '.join(f'{label} {counts[source][label]}' for label in labels)}" for source in sorted(counts))
    return Verdict(
        name="label_source", estimate=round(gain, 4), n=n, outcome="undecided",
        evidence=f"the source alone tells {alone:.1%} of the labels, {gain:+.1%} over the commonest one; chi-square p={p:.2g} ({told})",
    )


def _balance(bodies: Sequence[Labelled]) -> Verdict:
    counts = Counter(body.label for body in bodies)
    if not counts:
        return Verdict(name="class_balance", estimate=None, outcome="undecided", evidence="no rows")
    told = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    return Verdict(
        name="class_balance", estimate=round(max(counts.values()) / counts.total(), 4), n=counts.total(), outcome="undecided", evidence=told
    )
