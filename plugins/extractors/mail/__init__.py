"""Mail: single messages (.eml, .emlx, maildir), mailboxes (.mbox), Outlook messages (.msg), saved web pages (.mht)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from forge.phase import Requirement
from forge.plugins.extractors.mail.mailbox import ENVELOPE, messages
from forge.plugins.extractors.mail.message import read_message, read_saved_page
from forge.plugins.extractors.mail.outlook import read_outlook
from forge.protocols import Embedded, Reading
from forge.records import Piece

MESSAGE, MAILBOX, OUTLOOK, SAVED_PAGE = "message/rfc822", "application/mbox", "application/vnd.ms-outlook", "multipart/related"
HEADER = re.compile(rb"^([!-9;-~]{2,76}):|^[ \t]")
SURE = {b"from", b"received", b"return-path", b"message-id", b"delivered-to"}
LIKELY = SURE | {b"to", b"subject", b"date", b"mime-version", b"content-type", b"cc", b"sender"}


class MailExtractor:
    """Headers, body and attachments; the attachments go back through prep's walk.

    Plain text needs nothing; HTML bodies and .msg need the [docs] extra.
    """

    name: ClassVar[str] = "mail"
    media_types: ClassVar[tuple[str, ...]] = (MESSAGE, MAILBOX, OUTLOOK, SAVED_PAGE)
    extensions: ClassVar[Mapping[str, str]] = {
        ".eml": MESSAGE, ".emlx": MESSAGE, ".mbox": MAILBOX, ".mbx": MAILBOX, ".msg": OUTLOOK, ".mht": SAVED_PAGE, ".mhtml": SAVED_PAGE,
    }  # fmt: skip
    magic: ClassVar[Mapping[bytes, str]] = {}
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, head: bytes, name: str) -> str:
        """Claims text that starts with a mail's headers or with a mailbox's "From " line, whatever its name."""
        start = head[:8192].lstrip(b"\xef\xbb\xbf\xff\xfe").replace(b"\0", b"")
        if ENVELOPE.match(start):
            return MAILBOX
        names, lines = set[bytes](), re.split(rb"\r?\n", start)
        for line in lines[:-1]:
            match = HEADER.match(line)
            if not match:
                break
            names.add((match[1] or b"").lower())
        if not names & SURE or len(names & LIKELY) < 2 or (lines and lines[0][:1].isspace()):
            return ""
        top = start.split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].lower()
        saved = b"multipart/related" in top and (b"<saved by" in top or b"snapshot-content-location" in top)
        return SAVED_PAGE if saved or (b"multipart/related" in top and name.lower().endswith((".mht", ".mhtml"))) else MESSAGE

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
        """Yield each message's headers, text and attachments ("message=3"). Raises ExtractError when it is no mail."""
        if ctx.media_type == OUTLOOK:
            yield from read_outlook(path)
        elif ctx.media_type == SAVED_PAGE:
            yield from read_saved_page(path.read_bytes())
        elif ctx.media_type == MAILBOX:
            yield from messages(path)
        else:
            yield from read_message(path.read_bytes(), "message=1")


extractor = MailExtractor()
