"""Numbers over predictions: likelihood, abstention, names, overlap. Each is a ratio that can be resampled by group."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from forge.protocols import Prediction
from forge.stats import clopper_pearson, cluster_bootstrap

Ratio = tuple[float, float]
"""(numerator, denominator) of one item; a metric is the sum of the first over the sum of the second."""

WORD = re.compile(r"[^\W_]+(?:[-_.+#/'’][^\W_]+)*")
ARTICLES = {"a", "an", "the"}


def interval(
    rows: Sequence[Prediction], ratio: Callable[[Prediction], Ratio], *, seed: int
) -> tuple[float, tuple[float, float]] | None:
    """Estimate and 95 % interval, resampling whole groups; a row without a group is its own. None without anything to count."""
    clusters: dict[str, list[Ratio]] = defaultdict(list)
    for row in rows:
        clusters[row.group or row.id].append(ratio(row))
    if not any(bottom for items in clusters.values() for _, bottom in items):
        return None
    estimate, low, high = cluster_bootstrap(clusters, seed=seed)
    return estimate, (low, high)


def share_interval(
    rows: Sequence[Prediction], ratio: Callable[[Prediction], Ratio], *, seed: int
) -> tuple[float, tuple[float, float]] | None:
    """The same for a share of countable items: never narrower than Clopper and Pearson's exact interval.

    A bootstrap of 40 hits in 40 says 1 to 1; exact is 0.91 to 1.
    """
    found = interval(rows, ratio, seed=seed)
    if found is None:
        return None
    counts = [ratio(row) for row in rows]
    low, high = clopper_pearson(round(sum(hit for hit, _ in counts)), round(sum(of for _, of in counts)))
    return found[0], (min(low, found[1][0]), max(high, found[1][1]))


def says(text: str, sentence: str) -> bool:
    """True when the whole answer is the sentence, white space and case apart."""
    return flat(text) == flat(sentence)


def contains(text: str, sentence: str) -> bool:
    """True when the answer has the sentence anywhere in it."""
    return flat(sentence) in flat(text)


def token_f1(answer: str, gold: str) -> float:
    """Overlap of words, SQuAD's way (Rajpurkar et al. 2016): lower case, articles and punctuation left out."""
    given, wanted = Counter(_content(answer)), Counter(_content(gold))
    common = sum((given & wanted).values())
    if not common:
        return float(given == wanted)
    precision, recall = common / sum(given.values()), common / sum(wanted.values())
    return 2 * precision * recall / (precision + recall)


def name_counts(answer: str, names: frozenset[str], vocabulary: frozenset[str]) -> Ratio:
    """(names written exactly, those plus corrupted ones) in one answer.

    Corrupted: a word, or as many words as the name has, that is not in the vocabulary and is a protected name in other case,
    or 1 to max(2, 0.3 x length) edits away from one ("Mesh-Seg-Label", "meshsegnet" for "MeshSegNet"; eval research, task A).
    A name that is a plain lower-case word ("read", "bucket") is not looked at: half the dictionary is two edits from it.
    """
    bare = {" ".join(WORD.findall(name)) for name in names} - {""}  # "--dry-run" is looked for as "dry-run"
    shaped = frozenset(name for name in bare if not (name.isalpha() and name.islower()))
    words = WORD.findall(answer)
    widths = {len(WORD.findall(name)) for name in shaped}
    spans = [" ".join(words[i : i + width]) for width in sorted(widths) for i in range(len(words) - width + 1)]
    exact = sum(span in shaped for span in spans)
    corrupted = sum(_is_corrupted(span, shaped, vocabulary) for span in spans)
    return exact, exact + corrupted


def vocabulary_of(texts: Iterable[str]) -> frozenset[str]:
    """Every word that is written somewhere on purpose, as it is written."""
    return frozenset(word for text in texts for word in WORD.findall(text))


def flat(text: str) -> str:
    """The text in lower case with single spaces."""
    return " ".join(text.casefold().split())


def _is_corrupted(span: str, names: frozenset[str], vocabulary: frozenset[str]) -> bool:
    if span in names or all(word in vocabulary for word in span.split()):
        return False
    return any(_near(span, name) for name in names)


def _near(span: str, name: str) -> bool:
    if span.casefold() == name.casefold():
        return True
    allowed = max(2, int(0.3 * len(name))) if len(name) > 5 else int(len(name) > 3)
    return abs(len(span) - len(name)) <= allowed and edit_distance(span, name) <= allowed


def edit_distance(left: str, right: str) -> int:
    """Insertions, deletions and substitutions between two strings (Levenshtein 1966)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def _content(text: str) -> list[str]:
    return [word for word in WORD.findall(text.casefold()) if word not in ARTICLES]
