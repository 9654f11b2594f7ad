"""All settings as lines to read: by section, changed ones marked with where they came from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from forge import ui
from forge.config import Value

VALUE_WIDTH = 16


def config_lines(values: list[Value]) -> Iterator[str]:
    """Section headings, then `key  value  meaning`; a value that somebody set names its origin."""
    widest = max((len(_key(value)) for value in values), default=0)
    for section, group in groupby(values, key=lambda value: value.key.partition(".")[0]):
        yield ui.paint(ui.BOLD, section)
        for value in group:
            yield from _setting(value, widest)
        yield ""


def _setting(value: Value, widest: int) -> Iterator[str]:
    text, changed = _text(value.value), value.origin != "built-in"
    about = f"{value.description} (from {value.origin})" if changed else value.description
    start = f"{'*' if changed else ' '} {_key(value):<{widest}}  {text:<{VALUE_WIDTH}}  "
    indent = " " * (widest + VALUE_WIDTH + 6)
    if len(text) > VALUE_WIDTH:   # a long value gets lines of its own, its meaning the next
        hanging = " " * (widest + 4)
        yield from textwrap.wrap(start.rstrip(), ui.width(), subsequent_indent=hanging, break_on_hyphens=False, drop_whitespace=True)
        start = indent
    wrapped = textwrap.wrap(about, ui.width() - len(indent)) or [""]
    yield (start + wrapped[0]).rstrip()
    yield from (indent + line for line in wrapped[1:])


def _key(value: Value) -> str:
    return value.key.partition(".")[2]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "none"
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return "-" if value is None else str(value) or '""'
