"""A table as text: the same rows read from Word, slides or Markdown give the same lines, so that copies are recognised."""

from __future__ import annotations

from collections.abc import Sequence


def table_text(rows: Sequence[Sequence[str]], *, header: bool) -> str:
    """The header row, then "header: value; header: value" for each row below it; plain rows where headers are unclear.

    header: the first row names the columns. Names that are empty, repeated or too few for a row are not used.
    """
    if not rows:
        return ""
    names = list(rows[0])
    named = header and len(rows) > 1 and len(names) > 1 and all(names) and len(set(names)) == len(names)
    if not named or any(len(row) != len(names) for row in rows):
        return "\n".join(" | ".join(row) for row in rows)
    lines = ["; ".join(f"{name}: {value}" for name, value in zip(names, row, strict=True) if value) for row in rows[1:]]
    return "\n".join([" | ".join(names), *lines])
