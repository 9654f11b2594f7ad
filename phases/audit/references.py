"""Tells lists of references from text: by the heading they stand under and by how their entries look.

Markers of citations inside running text ("[12]", "(Smith et al., 2020)") are the business of forge/citations.py.
"""

from __future__ import annotations

import re

from forge.records import Passage

ENTRY_SHARE = 0.5
"""Share of entries from which a passage is a list of references wherever it stands."""
ENTRY_SHARE_UNDER_HEADING = 0.25
LISTED_SHARE = 0.6
"""Share of lines under such a heading that are links, or titles in a list."""
MIN_ENTRIES = 3

_HEADING = re.compile(
    r"(?i)^[\W\d]*(?:references(?: cited| and notes| and further reading)?|bibliography|works cited|literature cited|literatur(?:verzeichnis)?"
    r"|quellen(?:verzeichnis)?|bibliographie|références(?: bibliographiques)?|bibliografía|referencias(?: bibliográficas)?|bibliografia"
    r"|riferimenti bibliografici|referências(?: bibliográficas)?|参考文献)\W*$"
)
_AFTER = re.compile(r"(?i)^[#\s\d.]*(?:appendix|appendices|anhang|annexe?|supplement(?:ary)?\b)")
_YEAR = re.compile(
    r"\(\s*(?:18|19|20)\d\d[a-z]?\s*\)|[,.;:]\s*(?:18|19|20)\d\d[a-z]?\b\s*(?:[.,;:)]|$)|\b(?:18|19|20)\d\d;\s*\d+"
)
_TRACE = re.compile(
    r"(?i)\bdoi\b|10\.\d{4,9}/|arxiv|\bpp?\.\s*\d|\bet al\b|\bvol\.|\bno\.\s*\d|https?://|\bisbn\b|\bproceedings\b|\bproc\.|\bjournal\b|\bin:\s"
    r"|\beds?\.|\bpress\b|\bretrieved\b|\baccessed\b|\d+\s*\(\d+\)\s*[:,]\s*\d+|;\s*\d+(?:\(\d+\))?:\d+|\b[A-Z][\w'’-]+,\s(?:[A-Z]\.\s?)+"
)
_START = re.compile(
    r"^\s*(?:[-*•]\s+)?(?:\[\w{1,12}\]|\(\d{1,3}\)|\d{1,3}[.)])\s+|^\s*[A-Z][\w'’-]+,\s(?:[A-Z]\.|[A-Z][a-z]+)"
)
_NUMBERED = re.compile(r"(?<=[.\s])(?=\[\d{1,3}\]\s+[A-Z])")
_LINK_LINE = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])?\s*(?:\[[^\]]+\]\([^)]+\)|<?https?://\S+|\[[^\]]+\]:)")

_TITLE_LINE = re.compile(
    r"^\s*(?:[-*•]|\d{1,3}[.)])\s+(?!.*[.!?]\s*$)\S"
)  # an item that does not end like a sentence


def reference_share(text: str) -> tuple[float, int]:
    """Share (0..1) of the lines, or of the numbered entries in one paragraph, that look like references; and how many lines."""
    lines = [line for line in text.split("\n") if line.strip() and not _is_heading(line)]
    if len(lines) < MIN_ENTRIES:
        lines = [part for line in lines for part in _NUMBERED.split(line) if part.strip()]
    hits = sum(_is_entry(line) for line in lines)
    return (hits / len(lines) if lines else 0.0), len(lines)


def is_reference_list(passage: Passage) -> tuple[bool, str]:
    """Whether the passage is a list of references, and what shows it."""
    return is_list(passage.text, passage.meta.get("heading", ""))


def is_list(text: str, heading: str) -> tuple[bool, str]:
    """The same of a text under a heading; what shows it is "" where it is none."""
    share, count = reference_share(text)
    under_heading = bool(_HEADING.match(heading.split(" > ")[-1])) or bool(_HEADING.match(text.split("\n", 1)[0].strip()))
    if under_heading:
        lines = [line for line in text.split("\n") if line.strip() and not _is_heading(line)]
        listed = sum(bool(_LINK_LINE.match(line) or _TITLE_LINE.match(line)) for line in lines) / max(1, len(lines))
        if share >= ENTRY_SHARE_UNDER_HEADING or listed >= LISTED_SHARE:
            return True, f"under a heading for references; {max(share, listed):.0%} of {len(lines)} lines are entries"
    if share > ENTRY_SHARE and count >= MIN_ENTRIES:
        return True, f"{share:.0%} of {count} lines are entries"
    return False, ""


def without_list(text: str) -> tuple[str, str]:
    """The text without a list of references at its end, and that list: for pages whose headings nobody marked. An appendix behind it stays."""
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if at and _HEADING.match(line.strip().lstrip("# ")):
            end = next((place for place in range(at + 1, len(lines)) if _AFTER.match(lines[place])), len(lines))
            share, count = reference_share("\n".join(lines[at + 1 : end]))
            if share > ENTRY_SHARE and count >= MIN_ENTRIES:
                return "\n".join(lines[:at] + lines[end:]).strip("\n"), "\n".join(lines[at:end])
    return text, ""


def _is_heading(line: str) -> bool:
    return line.lstrip().startswith("#") or bool(_HEADING.match(line.strip()))


def _is_entry(line: str) -> bool:
    """A year, and a trace of a publication or the start of an entry; or two traces at the start of an entry."""
    has_year, starts = bool(_YEAR.search(line)), bool(_START.match(line))
    if has_year and starts:
        return True
    traces = len(set(_TRACE.findall(line))) if has_year or starts else 0
    return traces >= (1 if has_year else 2)
