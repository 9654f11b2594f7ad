"""Citation marks out of a text: "[12]", "(Smith et al., 2020)", DOIs and PubMed ids name the page, not the fact.

Traps, from real abstracts: "(during 1996)" and "(since 2009)" are times, "[1,306]" is a number, "a[0]" and "[1, 2, 3]" are code.
"""

from __future__ import annotations

import re

MONTHS = r"(?!(?:Jan|Febr)uary\b|March\b|April\b|May\b|June\b|July\b|August\b|(?:Septem|Octo|Novem|Decem)ber\b|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\b|(?:Spring|Summer|Autumn|Fall|Winter|Version|Edition)\b)"
AUTHOR = rf"{MONTHS}(?:(?:van|von|de|der|den|la|le|di|al) ){{0,2}}[A-Z][\w'’-]+(?: [A-Z]\.)*"
YEAR = r"(?:1[89]|20)\d{2}[a-z]?"
ONE = rf"(?:{AUTHOR}(?:,? et al\.?,? | ?(?:,? and|,? &|,) {AUTHOR}(?:,? et al\.?)?,? |, ){YEAR}(?:, ?(?:pp?\. ?)?\d+(?:[-–]\d+)?)?)"
AUTHOR_YEAR = re.compile(rf" ?\((?:see |e\.g\.,? |cf\. |reviewed in )?{ONE}(?:; ?{ONE})*\)")
"""Case matters here: in any case "(during 1996)" would be an author and a year."""
NUMBERS = r"[1-9]\d{0,2}(?:(?:, ?|[-–])[1-9]\d{0,2})*"
BRACKETS = re.compile(rf"(?:(?<=[A-Za-z][a-z)”\"]) |(?<=[.,)”\"]) ?)((?:\[{NUMBERS}\] ?)*\[{NUMBERS}\])(?=\s|[.,](?:\s|$)|$)")
"""Set off by a space or after a full stop; "items[3]" is code, and what is left in doubt is refused as a leaning answer."""
THOUSANDS = re.compile(r"\[\d{1,3}(?:,\d{3})+\]")
VALUE_BEFORE = re.compile(
    r"(?:=|\(|\[|:|!|<|\b(?:arrays?|lists?|vectors?|slices?|values?|ranges?|intervals?|tuples?|sets?|ind(?:ex|ices|exes)|bytes?|between|in|from|of|is|are|be|to|with|like|equals?|returns?|gives?|and|or|by))\s*$",
    re.IGNORECASE,
)
IDENTIFIERS = re.compile(
    r" ?\(?\b(?:doi: ?|https?://(?:dx\.)?doi\.org/)?10\.\d{4,9}/[^\s\"<>\])]*[^\s\"<>\]).,;:]\)?| ?\(?\bPMID:? ?\d{4,9}\b\)?| ?\(?\bPMC\d{5,9}\b\)?",
    re.IGNORECASE,
)
GONE = "\0"
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def scrub(text: str) -> str:
    """The text without citation marks; the same text when there are none. Code in backticks is left alone."""
    if not any(mark in text for mark in ("[", "(", "10.", "PMID", "PMC", "pmid")):
        return text
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [_scrub(text[end : code.start()]), code.group()]
        end = code.end()
    parts.append(_scrub(text[end:]))
    return "".join(parts)


def _scrub(text: str) -> str:
    bare = BRACKETS.sub(lambda match: match.group() if _is_value(match, text) else GONE, text)
    bare = IDENTIFIERS.sub(_balanced, AUTHOR_YEAR.sub(GONE, bare))
    if GONE not in bare:
        return text
    bare = re.sub(rf" ?\(\s*{GONE}[\s;,{GONE}]*\)", GONE, bare)
    return re.sub(rf"(?: *{GONE})+(?= ?[.,;:)]|\s|$)", "", bare).replace(GONE, " ")


def _is_value(match: re.Match[str], text: str) -> bool:
    """True for a number or list that belongs to the sentence: "the range [1, 5]", "[1,306]"."""
    return bool(THOUSANDS.fullmatch(match[1]) or VALUE_BEFORE.search(text[: match.start()]))


def _balanced(match: re.Match[str]) -> str:
    """An identifier goes; a parenthesis that it has without its twin stays."""
    found = match.group()
    if found.count("(") > found.count(")"):
        return f" ({GONE}"
    return f"{GONE})" if found.count(")") > found.count("(") else GONE
