"""Documents are data: finds text that gives orders to a model that reads it, and what such orders leave in pairs.

Two tiers. A passage that uses such an order is poisoned and is shown to no teacher. A passage that only mentions one (in
quotation marks or code, while it writes about attacks or chat templates) stays, and its pairs are searched for what
stands in the order and nowhere else. Everything is matched on unfolded text: NFKC, without invisible characters, with
look-alike letters, spaced-out words, entities, base64, reversed and rot13 text read as what they stand for.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from forge.phases.synth.poison_patterns import (
    ABOUT,
    CANARY,
    HARD,
    ORDERED_WORDS,
    REPORTED,
    SOFT,
    SQUEEZED,
    SQUEEZED_TRIGGERS,
    TRIGGERS,
)
from forge.records import Pair, Passage

STRETCH = 160
"""Characters of a finding that are shown."""
SOFT_NEEDED, CLOSE = 2, 200
"""Weak signals that make a strong one, and how many characters may lie between them."""
CONCERNS = ("about_answers", "speaks_of_model", "end_marker")
ZERO_WIDTH = re.compile("[\u200b-\u200d\u2060-\u2064\ufeff]")
HIDDEN_IN_WORD = re.compile("[A-Za-z][\u200b-\u200d\u2060-\u2064\ufeff][A-Za-z]")
HIDDEN_RUN = re.compile("[\u200b\u200c\u2060-\u2064\ufeff]{6,}|(?:[\u200b-\u200d\u2060\ufeff]){12,}")
TURNED = re.compile("[\u202a-\u202e\u2066-\u2069]")
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufefc]")
TAGS = re.compile("[\U000e0001-\U000e007f]{4,}")
INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]")
HIDDEN_WORDS_MIN = 3
SUBJECT_WORDS = 2
"""Different words of ABOUT that show that a text is about orders to models."""
LOOKALIKES = str.maketrans("аеорсухіѕјԁһոАВЕКМНОРСТХІЅЈαονιερΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "aeopcyxisjdhnABEKMHOPCTXISJaoviepABEZHIKMNOPTYX")
LEET = str.maketrans("013457@$", "oieastas")
MIXED = re.compile(r"\b(?=\w*[A-Za-z])(?=\w*[\u0370-\u03ff\u0400-\u052f\u0578])\w+\b")
LEET_WORD = re.compile(r"(?<![\w@$])(?=[\w@$]*[A-Za-z]{2})(?=[\w@$]*[013457@$])[A-Za-z013457@$]{4,}(?![\w@$])")
SPACED = re.compile(r"(?<!\w)(?:[A-Za-z][ .\-_*]){4,}[A-Za-z](?!\w)")
BLOB = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{24,}={0,2}(?![A-Za-z0-9+/=_-])")
QUOTED = re.compile(r"```.*?```|`[^`\n]+`|\"[^\"\n]{2,300}\"|“[^”]{2,300}”|«[^»]{2,300}»|(?<!\w)'[^'\n]{2,300}'(?!\w)|<code>.*?</code>", re.DOTALL)
SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*(?:[.!?]+|\n|$)")


class Finding(NamedTuple):
    """Why a stretch of text looks like an order to a model. `mention`: it is quoted by a text about such orders."""

    reason: str
    stretch: str
    mention: bool = False


class Poison(NamedTuple):
    """What was found in one passage. `poisoned`: no teacher should see it. `canaries`: words that stand only in orders."""

    findings: tuple[Finding, ...]
    canaries: frozenset[str]

    @property
    def poisoned(self) -> bool:
        """True when an order is used, not only mentioned."""
        return any(not finding.mention for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The names of what was found and used, sorted."""
        return tuple(sorted({finding.reason for finding in self.findings if not finding.mention}))


def inspect(passage: Passage) -> Poison:
    """What the text and the heading of a passage try to make a reading model do. Pure."""
    return _inspect(f"{passage.meta.get('heading', '')}\n{passage.text}")


def poisoned_pair(pair: Pair, found: Poison | None) -> str:
    """Why a pair carries an order, or what an order asked for; "" when it does not.

    found: what inspect() said about the pair's passage; None for pairs without one. The question of a pair to abstain
    from may be an order: refusing it is what it teaches.
    """
    text = "\n".join([*(turn.content for turn in pair.earlier), pair.question, pair.answer])
    if pair.passage and any(not finding.mention for finding in _findings(text, pair=True)):
        return "instruction_in_pair"
    words = unfold(text).casefold() if found is not None and found.canaries else ""
    return "canary" if found is not None and any(canary in words for canary in found.canaries) else ""


def unfold(text: str) -> str:
    """The text as a reader of tricks would read it: NFKC, no invisible characters, plain letters, no entities."""
    plain = unicodedata.normalize("NFKC", INVISIBLE.sub("", html.unescape(text)))
    plain = MIXED.sub(lambda match: match.group().translate(LOOKALIKES), plain) if not plain.isascii() else plain
    plain = SPACED.sub(lambda match: re.sub(r"[ .\-_*]", "", match.group()), plain)
    return LEET_WORD.sub(lambda match: match.group().translate(LEET), plain)


@lru_cache(maxsize=4096)
def _inspect(text: str) -> Poison:
    plain = unfold(text)
    findings = tuple(_findings(text))
    orders = list(dict.fromkeys(_orders(plain)))
    rest = plain
    for order in orders:
        rest = rest.replace(order, " ")
    rest = rest.casefold()
    return Poison(findings, frozenset(word for order in orders for word in _canaries(order) if word not in rest))


def _findings(text: str, *, pair: bool = False) -> Iterator[Finding]:
    """pair: it belongs to a passage that was judged already; take it that it is about such orders, and leave out weak signals."""
    yield from _hidden(text)
    plain = unfold(text)
    found, encoded = list(_hard(plain)), list(_encoded(plain))
    about = bool(found or encoded) and (pair or len({match.casefold() for match in ABOUT.findall(plain)}) >= SUBJECT_WORDS)
    quotes = _quotes(plain) if about else []
    names_tokens = any(reason == "control_tokens" and _inside(match, quotes) for reason, match in found)
    for reason, match in found:
        mention = about and (_mentioned(plain, match, quotes) or (names_tokens and reason == "control_tokens"))
        yield Finding(reason, _shown(plain, match), mention)
    for decoded, match in encoded:
        yield Finding("encoded_order", decoded[:STRETCH], about and _inside(match, quotes))
    if not pair:
        yield from _soft(plain)
    if not found:
        yield from _squeezed(plain)


def _quotes(plain: str) -> list[tuple[int, int]]:
    return [match.span() for match in QUOTED.finditer(plain)]


def _hard(plain: str) -> Iterator[tuple[str, re.Match[str]]]:
    low = plain.casefold()
    for reason, pattern in HARD.items():
        if any(trigger in low for trigger in TRIGGERS[reason]):
            for match in pattern.finditer(plain):
                yield reason, match


def _soft(plain: str) -> Iterator[Finding]:
    """Signals that are common alone: two different ones close together count, and one must concern models or answers."""
    if not any(SOFT[reason].search(plain) for reason in CONCERNS):
        return
    quotes = _quotes(plain)
    found = [(match.start(), reason, match) for reason, pattern in SOFT.items() for match in pattern.finditer(plain) if not _inside(match, quotes)]
    found.sort(key=lambda item: (item[0], item[1]))
    for index, (start, reason, match) in enumerate(found):
        near = {other for at, other, _ in found[index + 1 :] if at - start <= CLOSE} | {reason}
        if len(near) >= SOFT_NEEDED and near & set(CONCERNS):
            yield Finding("+".join(sorted(near)), _shown(plain, match))
            return


def _hidden(text: str) -> Iterator[Finding]:
    if text.isascii():
        return
    if TAGS.search(text):
        yield Finding("hidden_characters", "tag characters")
    if HIDDEN_RUN.search(text) or len(HIDDEN_IN_WORD.findall(text)) >= HIDDEN_WORDS_MIN:
        yield Finding("hidden_characters", f"{len(ZERO_WIDTH.findall(text))} zero-width characters")
    if TURNED.search(text) and not RIGHT_TO_LEFT.search(text):
        yield Finding("hidden_characters", "characters that turn the writing direction")


def _squeezed(plain: str) -> Iterator[Finding]:
    """Orders whose letters stand apart, backwards or in rot13."""
    letters = re.sub(r"[^a-z]", "", plain.casefold())
    for variant in (letters, letters[::-1], codecs.encode(letters, "rot13")):
        if any(trigger in variant for trigger in SQUEEZED_TRIGGERS) and (match := SQUEEZED.search(variant)):
            yield Finding("disguised_order", match.group()[:STRETCH])


def _encoded(plain: str) -> Iterator[tuple[str, re.Match[str]]]:
    for match in BLOB.finditer(plain):
        decoded = _decoded(match.group())
        if decoded and (any(True for _ in _hard(decoded)) or ORDERED_WORDS.search(decoded)):
            yield decoded, match


def _decoded(blob: str) -> str:
    """The text in a base64 blob; "" when there is none."""
    try:
        raw = base64.urlsafe_b64decode(blob.replace("+", "-").replace("/", "_").rstrip("=") + "=" * (-len(blob.rstrip("=")) % 4))
        text = raw.decode("ascii")
    except (binascii.Error, ValueError):
        return ""
    return text if text.isprintable() and " " in text else ""


def _mentioned(plain: str, match: re.Match[str], quotes: list[tuple[int, int]]) -> bool:
    """True when the match stands in quotation marks or code, or its sentence reports it."""
    if _inside(match, quotes):
        return True
    start = max(plain.rfind(mark, 0, match.start()) for mark in (". ", "\n", "! ", "? ")) + 1
    return bool(REPORTED.search(plain[start : match.start()]))


def _inside(match: re.Match[str], quotes: list[tuple[int, int]]) -> bool:
    return any(start <= match.start() and match.end() <= end for start, end in quotes)


def _shown(plain: str, match: re.Match[str]) -> str:
    start = max(0, match.start() - 20)
    return " ".join(plain[start : start + STRETCH].split())


def _orders(plain: str) -> Iterator[str]:
    """The sentences that give orders, each with the one after it, which may name what to put out."""
    spots = [match.start() for _, match in _hard(plain)] + [match.start() for match in ORDERED_WORDS.finditer(plain)]
    after = False
    for match in SENTENCE.finditer(plain) if spots else ():
        sentence = match.group().strip()
        ordering = any(match.start() <= spot < match.end() for spot in spots)
        if sentence and (ordering or (after and CANARY.search(sentence))):
            yield sentence
        after = ordering if sentence else after


def _canaries(order: str) -> Iterator[str]:
    """Words of an order that are no words of a language: addresses, codes, and what it quotes."""
    for match in CANARY.finditer(order):
        word = next(part for part in match.groups() if part).strip().rstrip(".,;:!?\"'”")
        if len(word) >= 4 and not any(True for _ in _hard(word)):
            yield word.casefold()
