"""When two questions are the same question: normal form, similarity, and a search that finds every near-duplicate.

Used by synth (one of two near-duplicates goes) and by shape (none may stand on both sides of a split).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

NEAR_DUPLICATE = 0.7
"""Character 3-gram or token overlap (Jaccard) from which two questions count as one."""

WORD = re.compile(r"[^\W_]+(?:[-_.'’+#/][^\W_]+)*|--?\w[\w-]*")
ARTICLES = {"a", "an", "the"}
FRAMING_TEXT = """
    a an the what which who whom whose when where why how is are was were be been do does did has have had can could
    should would will may must of in on at by for from to with about as and or not it its this that these those there i
    you we me my one say says said tell explain describe define definition defined meaning mean means meant term word
    phrase documents document section part point name named called summarize summary main list listed lists items
    contain contains under complete sentence fill blank missing gap role purpose use used reason stated happens happen
    give given according put read own someone somebody asks know known wants something anything much many add belong
    belongs apply applies applied observed
"""
FRAMING = frozenset(FRAMING_TEXT.split())
"""Words that frame a question in any subject. What is left of a question is what it asks about."""

LEANING = re.compile(
    r"\b(?:[Tt]h(?:is|at) (?:passage|paragraph|section|chapter|page|document|article|paper|book|appendix|cheat sheet|example|listing|figure"
    r"|table|code|command|output|error|line|program|snippet|file|function|method|variable|macro)\b|[Tt]h(?:e|ese|ose) (?:above|below|following|previous|preceding|next"
    r"|examples?|authors?|listing|figure|diagram|last section|first section|code (?:in|above|below|shown))\b|(?:[Aa]bove|[Bb]elow|earlier"
    r"|[Pp]reviously|as follows|shown here|later on|last chapter|next chapter)\b|(?:[Ll]isting|[Ff]igure|Fig\.|[Tt]able|[Cc]hapter|[Ss]ection"
    r"|[Aa]ppendix|[Ss]tep) (?:\d|[A-Z]\b)|[Ss]ee also\b|[Aa]s (?:mentioned|discussed|described|shown|noted|seen|explained)\b)|\[\d+\]"
)
"""Words that lean on the page they stand on: the reader of the answer does not have that page."""


def normalize(question: str) -> str:
    """The question in lower case without punctuation and articles: equal normal forms are one question."""
    return " ".join(word for word in words(question) if word not in ARTICLES)


def words(text: str) -> list[str]:
    """The words of a text in lower case; hyphens, dots and underscores inside a word stay."""
    return WORD.findall(text.casefold())


def subject(question: str) -> frozenset[str]:
    """The words of a question that are not framing: what it asks about."""
    return frozenset(words(question)) - FRAMING


def trigrams(question: str) -> frozenset[str]:
    """The character 3-grams of the normal form."""
    text = f" {normalize(question)} "
    return frozenset(text[i : i + 3] for i in range(len(text) - 2))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared members as a share of all members; 0 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 0.0


def similarity(a: str, b: str) -> float:
    """The larger of 3-gram and token Jaccard, 0..1."""
    return max(jaccard(trigrams(a), trigrams(b)), jaccard(_tokens(a), _tokens(b)))


def near_duplicates(left: Sequence[str], right: Sequence[str], at_least: float = NEAR_DUPLICATE) -> list[tuple[int, int, float]]:
    """Every (i, j, similarity) with similarity(left[i], right[j]) >= at_least, exactly, sorted.

    Two prefix-filtered joins (Bayardo et al. 2007): sets that reach a Jaccard of t share one of the
    |x| - ceil(t |x|) + 1 rarest members, so only those are looked up.
    """
    pairs = _join(left, right, at_least, _tokens)
    for key, value in _join(left, right, at_least, trigrams).items():
        pairs[key] = max(value, pairs.get(key, 0.0))
    return sorted((i, j, value) for (i, j), value in pairs.items())


def near_texts(left: Sequence[str], right: Sequence[str], at_least: float) -> list[tuple[int, int]]:
    """Every (i, j) whose texts share their runs of three words to at least this Jaccard, sorted; the same list twice: pairs i < j.

    For texts of any length, where near_duplicates() is for questions: one other word in a sentence of twenty leaves 0.7.
    """
    return sorted(_join(left, right, at_least, _word_trigrams))


def same_subject(left: Sequence[str], right: Sequence[str], at_least: float = NEAR_DUPLICATE) -> list[tuple[int, int]]:
    """Every (i, j) whose questions are near-duplicates in what they ask about and in how they ask it, sorted.

    Both the subjects and the 3-grams reach `at_least`: "What is a lease?" and "What is a run?" differ in the first.
    """
    pairs = _join(left, right, at_least, subject)
    return sorted((i, j) for i, j in pairs if jaccard(trigrams(left[i]), trigrams(right[j])) >= at_least)


def clusters(questions: Sequence[str], at_least: float = NEAR_DUPLICATE) -> list[int]:
    """For each question the index of the first one of its cluster; near-duplicates always share a cluster."""
    parent = list(range(len(questions)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j, _ in near_duplicates(questions, questions, at_least):
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    return [root(i) for i in range(len(questions))]


Split = Callable[[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class _Entry:
    members: frozenset[str]
    prefix: tuple[str, ...]


def _tokens(question: str) -> frozenset[str]:
    return frozenset(normalize(question).split())


def _word_trigrams(text: str) -> frozenset[str]:
    found = words(text)
    return frozenset(" ".join(found[i : i + 3]) for i in range(max(1, len(found) - 2))) if found else frozenset()


def _join(left: Sequence[str], right: Sequence[str], at_least: float, split: Split) -> dict[tuple[int, int], float]:
    lefts: list[frozenset[str]] = [split(text) for text in left]
    rights = lefts if right is left else [split(text) for text in right]
    count = Counter(member for members in (*lefts, *(rights if right is not left else ())) for member in members)
    index: dict[str, list[int]] = {}
    for j, entry in enumerate(_entries(rights, count, at_least)):
        for member in entry.prefix:
            index.setdefault(member, []).append(j)
    found = {}
    for i, entry in enumerate(_entries(lefts, count, at_least)):
        for j in sorted({j for member in entry.prefix for j in index.get(member, ())}):
            if right is left and j <= i:
                continue
            value = jaccard(entry.members, rights[j])
            if value >= at_least:
                found[i, j] = value
    return found


def _entries(sets: Iterable[frozenset[str]], count: Counter[str], at_least: float) -> Iterable[_Entry]:
    for members in sets:
        ordered = sorted(members, key=lambda member: (count[member], member))
        keep = len(ordered) - math.ceil(at_least * len(ordered) - 1e-9) + 1
        yield _Entry(members, tuple(ordered[:keep]))
