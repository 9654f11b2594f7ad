"""A learning curve in seconds: would more pairs help, and do these help at all?

A count model stands in for the network, which would take minutes here: word bigrams of the passages and answers, and the
answer to the most similar trained question. It is told 0, 25, 50 and 100 % of the training rows and asked for the answers
to held-out question forms. Its losses are no forecast of the network's; the direction is what is read: whether the pairs
teach anything about other forms of their questions, and what twice as many would add by L(n) = a + b n^-c.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from forge.phases.plan_fit.data import Data
from forge.phases.plan_fit.verdicts import changed
from forge.records import Chat, Example, Verdict, digest

SHARES = (0.0, 0.25, 0.5, 1.0)
QUESTIONS, ROWS, PASSAGE_WORDS = 150, 6_000, 150_000
"""Most held-out questions, training rows and words of passages that are used: about two seconds on one core."""
FEWEST = 20
COPY, BIGRAM = 0.9, 0.6
DRAWS = 500
TOKEN = re.compile(r"\w+|[^\w\s]")


class Curve(NamedTuple):
    """Nats a word of held-out answers by share of the rows; what the pairs gain over none, and twice as many over these."""

    losses: dict[float, float]
    gain: tuple[float, float, float]
    doubling: tuple[float, float, float]
    n: int

    @property
    def teaches(self) -> bool | None:
        """Whether the pairs help with other forms of their questions; None when the interval includes 0."""
        return True if self.gain[1] > 0 else False if self.gain[2] < 0 else None

    def __str__(self) -> str:
        shown = ", ".join(f"{share:.0%} {loss:.2f}" for share, loss in self.losses.items())
        return (
            f"nats a word of {self.n} held-out answers by share of the pairs, in a count model: {shown}; the pairs gain {_range(self.gain)};"
            f" twice as many would gain {_range(self.doubling)} more"
        )


def with_curve(verdict: Verdict, curve: Curve | str) -> Verdict:
    """The verdict on the hyperparameters with the curve as evidence: a pass over pairs that make it worse is only undecided,
    since a count model is not the network.
    """
    if isinstance(curve, Curve) and curve.teaches is False and verdict.outcome == "pass":
        return changed(verdict, "undecided", f"the pairs make held-out question forms harder: {curve}")
    return changed(verdict, verdict.outcome, str(curve))


def probe(data: Data, seed: int) -> Curve | str:
    """The curve on test_recall; or why there is none."""
    train, test = (_asked(data.splits[name], seed, most) for name, most in (("train", ROWS), ("test_recall", QUESTIONS)))
    if len(test) < FEWEST or len(train) < 4 * FEWEST:
        return f"no learning curve: {len(train)} training rows and {len(test)} held-out question forms are too few"
    words = _first_words(passage.text for passage in data.pretrain)
    losses = {share: _losses(train[: round(share * len(train))], test, words) for share in SHARES}
    mean = {share: round(sum(values) / len(values), 4) for share, values in losses.items()}
    generator, gains, doublings = random.Random(seed), [], []
    for _ in range(DRAWS):
        picked = generator.choices(range(len(test)), k=len(test))
        drawn = {share: sum(values[at] for at in picked) / len(picked) for share, values in losses.items()}
        gains.append(drawn[0.0] - drawn[1.0])
        doublings.append(_doubling(drawn))
    return Curve(mean, _interval(mean[0.0] - mean[1.0], gains), _interval(_doubling(mean), doublings), len(test))


def _doubling(losses: Mapping[float, float]) -> float:
    """L(n) - L(2n) of a + b n^-c through the three points; 0 where the curve has ended or turned."""
    early, late = losses[0.25] - losses[0.5], losses[0.5] - losses[1.0]
    return late * min(1.0, late / early) if early > 0 and late > 0 else 0.0


def _interval(value: float, draws: list[float]) -> tuple[float, float, float]:
    draws.sort()
    return value, draws[int(0.025 * DRAWS)], draws[int(0.975 * DRAWS)]


def _range(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f}-{value[2]:.2f})"


def _asked(rows: Sequence[Example], seed: int, most: int) -> list[tuple[frozenset[str], list[str]]]:
    """(words of the question, words of the answer) of the answerable rows, in an order drawn from the seed."""
    found: list[tuple[frozenset[str], list[str]]] = []
    for row in sorted(rows, key=lambda row: digest(str(seed), "curve", row.id)):
        if isinstance(row.body, Chat) and row.body.answerable and len(found) < most:
            question = " ".join(turn.content for turn in row.body.prompt if turn.role == "user")
            found.append((frozenset(_words(question)), _words(" ".join(turn.content for turn in row.body.completion))))
    return found


def _first_words(texts: Iterable[str]) -> list[str]:
    words: list[str] = []
    for text in texts:
        words += _words(text)
        if len(words) >= PASSAGE_WORDS:
            break
    return words


def _words(text: str) -> list[str]:
    return TOKEN.findall(text.lower())


def _losses(train: Sequence[tuple[frozenset[str], list[str]]], test: Sequence[tuple[frozenset[str], list[str]]], words: list[str]) -> list[float]:
    """Nats a word of each held-out answer."""
    follow: dict[str, Counter[str]] = defaultdict(Counter)
    single = Counter(words)
    _count(words, follow)
    for _, answer in train:
        single.update(answer)
        _count(answer, follow)
    nearest = _Nearest(train)
    return [_loss(answer, *nearest.find(question), single, follow) for question, answer in test if answer]


def _count(words: Sequence[str], follow: dict[str, Counter[str]]) -> None:
    for first, second in zip(words, words[1:], strict=False):  # noqa: RUF007
        follow[first][second] += 1


def _loss(answer: list[str], alike: float, copied: list[str], single: Counter[str], follow: Mapping[str, Counter[str]]) -> float:
    total, kinds = single.total(), len(single) + 1000
    copies, next_copied = Counter(copied), defaultdict[str, Counter[str]](Counter)
    _count(copied, next_copied)
    nats, before = 0.0, ""
    for word in answer:
        plain = (single[word] + 1) / (total + kinds)
        after = follow.get(before)
        smooth = BIGRAM * after[word] / after.total() + (1 - BIGRAM) * plain if after else plain
        copy = 0.0
        if copied:
            here = next_copied.get(before)
            copy = 0.7 * (here[word] / here.total() if here else 0.0) + 0.3 * copies[word] / len(copied)
        nats -= math.log(COPY * alike * copy + (1 - COPY * alike) * smooth)
        before = word
    return nats / len(answer)


class _Nearest:
    """The most similar trained question, by the weight of its words that are shared."""

    def __init__(self, train: Sequence[tuple[frozenset[str], list[str]]]) -> None:
        self.train, self.places = train, defaultdict[str, list[int]](list)
        for number, (question, _) in enumerate(train):
            for word in question:
                self.places[word].append(number)

    def find(self, question: frozenset[str]) -> tuple[float, list[str]]:
        """Likeness (0..1) and the words of its answer."""
        shared: dict[int, float] = defaultdict(float)
        for word in sorted(question):
            weight = self._weight(word)
            for number in self.places.get(word, ()):
                shared[number] += weight
        if not shared:
            return 0.0, []
        best = min(shared, key=lambda number: (-shared[number], number))
        whole = sum(map(self._weight, sorted(question | self.train[best][0])))
        return shared[best] / whole, self.train[best][1]

    def _weight(self, word: str) -> float:
        return math.log((len(self.train) + 1) / (len(self.places.get(word, ())) + 1)) + 0.1
