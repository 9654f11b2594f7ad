"""Outlook messages (.msg), read with python-oxmsg (MIT; the better known extract-msg is GPL)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from email.message import Message as Mime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._rtf import rtf_blocks
from forge.plugins.extractors.mail.body import body_pieces, html_pieces
from forge.plugins.extractors.mail.message import FAULTS, HEADERS, SMALL_IMAGE, header
from forge.protocols import Embedded
from forge.records import Piece
from forge.registry import require

PID_HTML, PID_RTF, PID_HEADERS, PID_CONTENT_ID, PID_CODE_PAGE = 0x1013, 0x1009, 0x007D, 0x3712, 0x3FDE
MSG_FAULTS = (*FAULTS, OSError, struct.error)
MAX_RTF = 64 << 20


def read_outlook(path: Path) -> Iterator[Piece | Embedded]:
    """Headers, body and attachments of a .msg. Raises ExtractError when it is damaged."""
    require((Requirement(module="oxmsg", extra="docs"), Requirement(module="compressed_rtf", extra="docs")), "reading Outlook messages")
    from oxmsg import Message
    from oxmsg.domain.model import UnrecognizedCodePageError, UnsupportedEncodingError

    try:
        message = Message.load(str(path))
        subject = " ".join(message.subject.split()).replace(" > ", " › ")
        yield Piece(text=_headers(message), locator="message=1", heading=subject, kind="header")
        yield from _body(message, subject)
        for number, attachment in enumerate(message.attachments, 1):
            yield from _attachment(attachment, number, message.message_class)
    except (*MSG_FAULTS, UnrecognizedCodePageError, UnsupportedEncodingError) as error:
        raise ExtractError(f"damaged Outlook message ({type(error).__name__}: {error})") from error


def _headers(message: Any) -> str:
    raw: Mime = HeaderParser().parsestr(message.properties.str_prop_value(PID_HEADERS) or "")
    found = {name: " ".join(header(raw, name).split()) for name in HEADERS}
    found["Subject"] = found["Subject"] or message.subject
    found["From"] = found["From"] or message.sender or ""
    if not found["To"]:
        people = ((one.name or "", one.email_address or "") for one in message.recipients)
        found["To"] = ", ".join(f"{name} <{address}>" if name and address and name != address else name or address for name, address in people)
    found["Date"] = found["Date"] or (message.sent_date.isoformat() if message.sent_date else "")
    return "\n".join(f"{name}: {found[name]}" for name in HEADERS if found[name].strip())


def _body(message: Any, subject: str) -> Iterator[Piece]:
    if text := (message.body or "").replace("\r\n", "\n"):
        yield from body_pieces(text, "message=1", subject)
    elif html := _html(message):
        yield from html_pieces(html, "message=1", subject)
    elif rtf := message.properties.binary_prop_value(PID_RTF):
        yield from body_pieces(_rtf_text(rtf), "message=1", subject)


def _html(message: Any) -> str:
    """The HTML body. Without a declared code page the library assumes Western European, where the bytes may say more."""
    data = message.properties.binary_prop_value(PID_HTML) or b""
    if data and not message.properties.int_prop_value(PID_CODE_PAGE):
        return decode(data, html=True)
    try:
        return message.html_body or ""
    except MSG_FAULTS:  # a code page that Python does not know, or bytes that do not fit it
        return decode(data, html=True)


def _rtf_text(data: bytes) -> str:
    """Outlook keeps some bodies only as compressed RTF. Raises ExtractError when it is damaged."""
    from compressed_rtf import decompress

    if len(data) < 16 or int.from_bytes(data[4:8], "little") > MAX_RTF:
        raise ExtractError("damaged Outlook message: its compressed text has no sound length")
    return "\n\n".join(block.text for block in rtf_blocks(decompress(data)) if not block.dropped)


def _attachment(attachment: Any, number: int, message_class: str) -> Iterator[Piece | Embedded]:
    name, kind, data = attachment.file_name or f"attachment-{number}", attachment.mime_type or "", attachment.file_bytes
    if data is None:
        yield Embedded(name, note="an Outlook item or a linked file inside the message: save it as a file of its own")
    elif message_class.startswith("IPM.Note.SMIME") and not message_class.endswith("MultipartSigned"):
        yield Piece(text="", locator="message=1", dropped="encrypted body")
    elif kind.startswith("image/") and len(data) < SMALL_IMAGE and attachment.properties.str_prop_value(PID_CONTENT_ID):
        yield Piece(text="", locator="message=1", dropped="small inline picture")
    else:
        yield Embedded(name, (data,))
