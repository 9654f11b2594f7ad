"""Mailboxes (mbox): one message after the other, never the whole file. A message that cannot be read costs only itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from forge.errors import ExtractError
from forge.plugins.extractors.mail.message import read_message
from forge.protocols import Embedded
from forge.records import Piece

ENVELOPE = re.compile(rb"From [^\n]{0,400}?\d{1,2}:\d\d[^\n]{0,60}?\d{4}")
"""The line before each message: sender, then a date with a time and a year. "From here on" in a text has neither."""

ESCAPED = re.compile(rb"^>+From ")
MAX_MESSAGE = 64 << 20
"""Bytes of one message that are read; the largest that mail servers take today is 50 MB."""

LINE_BYTES = 1 << 20


def messages(path: Path) -> Iterator[Piece | Embedded]:
    """The pieces of every message, in order, with locators "message=3". Raises ExtractError when there is none."""
    number = 0
    for number, (data, over) in enumerate(_split(path), 1):
        locator = f"message={number}"
        try:
            yield from read_message(data, locator, folder=f"message-{number}/", lenient=True)
        except ExtractError as error:
            yield Piece(text="", locator=locator, dropped=f"message that cannot be read ({error.fact})"[:200])
        if over:
            yield Piece(text="", locator=locator, dropped=f"rest of a message over {MAX_MESSAGE >> 20} MiB")
    if not number:
        raise ExtractError("not a mailbox: it holds no message")


def _split(path: Path) -> Iterator[tuple[bytes, bool]]:
    """(bytes of a message without its envelope, whether it was cut)."""
    lines: list[bytes] = []
    size, blank, started, over = 0, True, False, False
    with path.open("rb") as file:
        while line := file.readline(LINE_BYTES):
            if blank and line.startswith(b"From ") and (ENVELOPE.match(line) or not started):
                if started:
                    yield b"".join(lines), over
                lines, size, started, over = [], 0, True, False
            elif started or line.strip():
                started = True  # a mailbox that lacks its first envelope
                over |= size + len(line) > MAX_MESSAGE
                if not over:
                    lines.append(line[1:] if ESCAPED.match(line) else line)
                    size += len(line)
            blank = not line.strip()
    if started and (lines or over):
        yield b"".join(lines), over
