"""The only module that prints: results to stdout; progress, notices and errors to stderr.

Colour and redrawing only on a terminal; plain text without NO_COLOR's help anywhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from forge.errors import ForgeError, WaitingAtGate

MAX_WIDTH = 100
"""Lines longer than this are hard to read, however wide the terminal is."""

GREEN, RED, DIM, BOLD = "32", "31;1", "2", "1"


def prepare() -> None:
    """Make both streams able to take every character: ✓ becomes ? where the locale has none."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def out(text: str = "") -> None:
    """A line of the result."""
    _write(sys.stdout, text + "\n")


def say(text: str = "") -> None:
    """A line for the person at the terminal."""
    _write(sys.stderr, text + "\n")


def stream(pieces: Iterable[str]) -> str:
    """A result that is shown as it comes, without the blank space around it; returns the whole of it."""
    told = ""
    for piece in pieces:
        shown, told = told.rstrip(), (told + piece).lstrip()
        _write(sys.stdout, told[len(shown) :].rstrip())   # trailing blanks wait until something follows them
    _write(sys.stdout, "\n")
    return told.rstrip()


def lines(rows: Iterable[str]) -> None:
    """Several lines of the result."""
    for row in rows:
        out(row)


def out_json(value: Any) -> None:
    """A result as JSON."""
    out(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def next_step(command: str) -> None:
    """The last line of a human output: what to do now."""
    out(f"{paint(DIM, 'next:')} {command}")


def show_error(error: ForgeError, *, as_json: bool = False) -> None:
    """Fact / why / next on stderr, or one JSON object."""
    if as_json:
        fields = {"error": error.fact, "why": error.why, "next": error.next, "exit_code": error.exit_code}
        say(json.dumps(fields, ensure_ascii=False))
        return
    waits = error.exit_code == WaitingAtGate.exit_code
    say(f"{paint(BOLD, 'waiting:', err=True) if waits else paint(RED, 'error:', err=True)} {error.fact}")
    if error.why:
        say(f"  why: {error.why}")
    if error.next:
        say(f"  next: {error.next}")


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> None:
    """Aligned columns under a heading line; the last column wraps instead of leaving the screen."""
    for line in table_lines(rows, head):
        out(line)


def table_lines(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    """The lines of a table; none without rows."""
    if not rows:
        return []
    cells = [list(head), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    indent = sum(widths[:-1]) + 2 * (len(head) - 1)
    room = max(30, width() - indent)
    found = []
    for index, row in enumerate(cells):
        first = "".join(cell.ljust(wide) + "  " for cell, wide in zip(row[:-1], widths, strict=False))
        wrapped = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
        for number, part in enumerate(wrapped):
            line = ((first if number == 0 else " " * indent) + part).rstrip()
            found.append(paint(DIM, line) if index == 0 else line)
    return found


def width() -> int:
    """Columns to write in: the terminal's, at most MAX_WIDTH; MAX_WIDTH where there is no terminal."""
    return min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)


def paint(code: str, text: str, *, err: bool = False) -> str:
    """The text in a colour, where the stream is a terminal and NO_COLOR is not set."""
    stream = sys.stderr if err else sys.stdout
    return f"\x1b[{code}m{text}\x1b[0m" if is_terminal(stream) and not os.environ.get("NO_COLOR") else text


def ask(question: str) -> bool:
    """A yes/no question on the terminal; anything but y is no."""
    _write(sys.stderr, f"{question} [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_interactive() -> bool:
    """True when a person can be asked."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def is_terminal(stream: Any) -> bool:
    """True for a terminal that can redraw; False for pipes, files, closed streams and TERM=dumb."""
    return stream is not None and not stream.closed and bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def status_line(text: str) -> None:
    """Redraw the last line of the terminal's stderr; "" removes it."""
    _write(sys.stderr, "\r\x1b[2K" + text[: shutil.get_terminal_size((MAX_WIDTH, 24)).columns - 1])


class Repainted:
    """A block of lines on stdout that is drawn over its former self; elsewhere than on a terminal only changes are printed."""

    def __init__(self) -> None:
        self._height, self._last = 0, ""

    def show(self, rows: Sequence[str], key: str) -> None:
        """Draw the block. `key`: what has to differ for a stream that cannot redraw to print it again."""
        if not is_terminal(sys.stdout):
            if key != self._last:
                lines(rows)
            self._last = key
            return
        columns = shutil.get_terminal_size((MAX_WIDTH, 24)).columns
        up = f"\x1b[{self._height}F\x1b[J" if self._height else ""
        _write(sys.stdout, up + "".join(f"{row}\n" for row in rows))
        self._height = sum(1 + max(0, len(row) - 1) // columns for row in rows)


def _write(stream: Any, text: str) -> None:
    if stream is None or stream.closed:
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:   # `forge … | head`: the reader has what it wanted; the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
