"""What a row of a table looks like when it stands in a passage."""

from __future__ import annotations

import re

FIELD = re.compile(r"(?P<column>[A-Za-z][\w /()-]{0,39}): (?P<value>[^;]+?)(?:; |$)")


def is_record(line: str) -> bool:
    """True for "phase: prep; order: 1; where: engine"."""
    return line.count("; ") >= 1 and len(FIELD.findall(line)) == line.count("; ") + 1


def is_pipes(line: str) -> bool:
    """True for a row of a pipe table."""
    return line.strip().startswith("|") and line.count("|") >= 3
