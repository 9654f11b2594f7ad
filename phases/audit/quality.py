"""Signals that a passage is not worth learning from. One alone proves nothing; two of different families, or a hard one, do.

The signals and most thresholds are those of Gopher (Rae et al. 2021, arXiv 2112.11446, A1.1), C4 (Raffel et al. 2020) and FineWeb
(Penedo et al. 2024), read in datatrove 0.10.1. Those rules are for web pages; on passages of technical documents each of
them alone is often wrong (tables, code, short lists), so they count instead of deciding.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from forge.phases.audit.prose import word_list

Signals = dict[str, dict[str, float]]
"""Values of signals by family."""

REPEATED_BY_ITSELF = 0.6
"""Share of repeated 5-grams that needs no second signal."""
MIN_WORDS_FOR_SHARES = 40
"""Shares of repeated n-grams and of stop words mean nothing below this."""

_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "is", "for", "it"}
_BULLET = re.compile(r"^\s*(?:[-*+•●‣]|\d+[.)])\s")
_ENDS = re.compile(r"[.!?:;\"'”’)\]。！？…»]\s*$")
_POLICY = re.compile(
    r"(?i)enable javascript|javascript is (?:disabled|required)|use of cookies|uses cookies"
    r"|cookie policy|privacy policy|terms of use|all rights reserved|click here|subscribe now|sign up for"
)
_POLICY_WORDS = ("enable javascript", "javascript is ", "cookie", "privacy policy", "terms of use", "all rights reserved", "click here", "subscribe now", "sign up for")
"""Each match of _POLICY holds one of these; counting them takes a tenth of the time."""
_FOLDED = "\u0130\u0131\u017f\u212a"
"""Letters that (?i) takes for i, s and k, and lower() does not."""
_LOREM_WORDS = ("lorem", "dolor", "amet", "consectetur", "adipiscing", "eiusmod", "tempor", "incididunt")
_LOREM = re.compile(rf"\b(?:{'|'.join(_LOREM_WORDS)})\b")
_DAMAGED = re.compile(
    r"[\ufffd\x00-\x08\x0b\x0c\x0e-\x1f\ue000-\uf8ff]|Ã[\x80-\xbf©¨¤¶¼Ÿ]|â€[™œ\x9d“”¢¦]|\(cid:\d+\)"
)


def hard_signal(text: str) -> str:
    """A reason that is enough by itself, or ""."""
    lowered = text.lower()
    if sum(word in lowered for word in _LOREM_WORDS) >= 4 and len(set(_LOREM.findall(lowered))) >= 4:
        return "lorem ipsum"
    damaged = sum(len(match[0]) for match in _DAMAGED.finditer(text))
    if damaged > 0.05 * len(text):
        return f"{damaged / len(text):.0%} damaged characters"
    return ""


def soft_signals(text: str, prose: str, language: str = "en", kind: str = "prose") -> Signals:
    """The signals that a passage shows, with their values, by family: words, shape, repetition, page.

    Signals of one family come and go together and count once. Only `prose`, from prose_of(text), is looked at: a passage
    that is mostly code shows nothing, and rows of a table or list are no sentences.
    """
    words = word_list(prose)
    if kind == "code" or len(prose) < 0.4 * len(text) or not words:
        return {}
    lines = [line.strip() for line in prose.split("\n") if line.strip()]
    found = {"words": _word_signals(prose, words, language), "page": _page_signals(prose)}
    if kind != "table":
        found["repetition"] = {**_repetition(words), **_repeated_lines([line for line in lines if len(line) >= 10])}
    if kind not in {"table", "list"}:
        found["shape"] = _line_shape(lines)
    return {family: signals for family, signals in found.items() if signals}


def without_stop_words(signals: Signals) -> Signals:
    """What soft_signals() tells of the same text when it is not taken for English."""
    others = {family: {name: value for name, value in values.items() if name != "stop_words"} for family, values in signals.items()}
    return {family: values for family, values in others.items() if values}


def is_poor(signals: Signals, least: int) -> bool:
    """Whether signals of `least` families are enough to let a passage go; mere repetition can be enough alone."""
    return len(signals) >= least or signals.get("repetition", {}).get("repeated_5_grams", 0) >= REPEATED_BY_ITSELF


def describe(signals: Signals) -> str:
    """`alphabetic_words=0.52, short_lines=0.86`."""
    return ", ".join(
        f"{name}={value:.2f}" for family in sorted(signals) for name, value in sorted(signals[family].items())
    )


def _word_signals(prose: str, words: list[str], language: str) -> dict[str, float]:
    found = {}
    mean = sum(map(len, words)) / len(words)
    if not (2.5 if not prose.isascii() else 3) <= mean <= 11 and not _is_unspaced(words):
        found["mean_word_length"] = mean
    symbols = (prose.count("#") + prose.count("...") + prose.count("…")) / len(words)
    if symbols > 0.1:
        found["symbols_per_word"] = symbols
    alphabetic = sum(not word.isdigit() for word in words) / len(words)
    if alphabetic < 0.7:
        found["alphabetic_words"] = alphabetic
    if language == "en" and len(words) >= MIN_WORDS_FOR_SHARES:
        stop_words = sum(word.lower() in _STOP_WORDS for word in words) / len(words)
        if stop_words < 0.04:
            found["stop_words"] = stop_words
    return found


def _page_signals(prose: str) -> dict[str, float]:
    lowered = prose.lower()
    if sum(map(lowered.count, _POLICY_WORDS)) < 2 and not any(letter in prose for letter in _FOLDED):
        return {}
    phrases = len(_POLICY.findall(prose))
    return {"page_phrases": float(phrases)} if phrases >= 2 else {}


def _repeated_lines(lines: list[str]) -> dict[str, float]:
    if len(lines) < 4:
        return {}
    found = {}
    counts = Counter(lines)
    repeated = sum(count - 1 for count in counts.values()) / len(lines)
    repeated_chars = sum(len(line) * (count - 1) for line, count in counts.items()) / sum(map(len, lines))
    if repeated > 0.3:
        found["duplicate_lines"] = repeated
    if repeated_chars > 0.2:
        found["duplicate_line_characters"] = repeated_chars
    return found


def _line_shape(lines: list[str]) -> dict[str, float]:
    if len(lines) < 4:
        return {}
    found = {}
    if (bullets := _share(lines, lambda line: bool(_BULLET.match(line)))) > 0.9:
        found["bullet_lines"] = bullets
    if (ellipses := _share(lines, lambda line: line.endswith(("...", "…", ". .")))) > 0.3:
        found["ellipsis_lines"] = ellipses
    if len(lines) >= 6 and (short := _share(lines, lambda line: len(line) <= 30)) > 0.8:
        found["short_lines"] = short
    if len(lines) >= 6 and (ended := _share(lines, lambda line: bool(_ENDS.search(line)))) < 0.12:
        found["lines_with_an_end"] = ended
    return found


def _share(lines: list[str], claim: Callable[[str], bool]) -> float:
    return sum(map(claim, lines)) / len(lines)


def _repetition(words: list[str]) -> dict[str, float]:
    """Shares of characters in the most frequent 2..4-gram and in repeated 5-grams (Gopher's table A1)."""
    if len(words) < MIN_WORDS_FOR_SHARES:
        return {}
    lowered = [word.lower() for word in words]
    total = sum(map(len, lowered))
    widest = max(count * len(word) for word, count in Counter(lowered).items())
    found = {}
    for n, limit in ((2, 0.20), (3, 0.18), (4, 0.16)):
        if n * widest <= limit * total:
            continue   # an n-gram is no more frequent than any of its words
        gram, count = Counter(zip(*(lowered[i:] for i in range(n)), strict=False)).most_common(1)[0]
        share = count * sum(map(len, gram)) / total
        if count > 1 and share > limit:
            found[f"top_{n}_gram"] = share
    if len(set(zip(*(lowered[i:] for i in range(5)), strict=False))) == len(lowered) - 4:
        return found   # no 5-gram twice
    repeated = _repeated_characters(lowered, 5) / total
    if repeated > 0.25:  # Gopher: 0.15, for whole pages; worked examples in a tutorial reach 0.25
        found["repeated_5_grams"] = repeated
    return found


def _repeated_characters(words: list[str], n: int) -> int:
    """Characters of the words that lie in an n-gram which occurred before."""
    seen: set[tuple[str, ...]] = set()
    chars, at = 0, 0
    while at <= len(words) - n:
        gram = tuple(words[at : at + n])
        if gram in seen:
            chars += sum(map(len, gram))
            at += n
        else:
            seen.add(gram)
            at += 1
    return chars


def _is_unspaced(words: list[str]) -> bool:
    return sum(len(word) == 1 and not word.isascii() for word in words) > len(words) / 2
