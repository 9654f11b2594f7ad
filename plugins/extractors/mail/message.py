"""One MIME message: its headers, the best form of its text, its attachments.

Parsed with the compat32 policy: the default policy parses every address. A To: line with 10,000 recipients took it
5.6 s, compat32 5 ms (measured 2026-11-21), and its header parser raises IndexError on some malformed ones.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header
from email.message import Message

from forge.errors import ExtractError
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._html import page
from forge.plugins.extractors._htmltree import parse_html, visible_text
from forge.plugins.extractors.mail.body import body_pieces, html_pieces
from forge.protocols import Embedded
from forge.records import Piece

HEADERS = ("Subject", "From", "To", "Cc", "Date")
FAULTS = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, OverflowError, binascii.Error, MessageError)
"""What the standard library's parser raises on malformed messages."""

MAX_DEPTH, MAX_PARTS = 50, 5_000
"""Multiparts within multiparts; mail programs write up to 5 levels."""

SMALL_IMAGE = 20_000
"""Bytes below which a picture in a mail is a logo, an icon or a tracking pixel."""

MOSTLY = 0.4
"""A plain text with less than this share of the HTML's text says "your program cannot show HTML" or shortens."""

SIGNATURES = {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature", "application/pgp-keys"}
ENDINGS = {
    "text/html": ".html", "text/plain": ".txt", "text/calendar": ".ics", "text/csv": ".csv", "application/pdf": ".pdf", "image/png": ".png",
    "image/jpeg": ".jpg", "message/rfc822": ".eml", "application/json": ".json", "application/xml": ".xml", "text/xml": ".xml",
}  # fmt: skip


def read_message(data: bytes, locator: str, *, folder: str = "", lenient: bool = False) -> Iterator[Piece | Embedded]:
    """Headers, then text and attachments in order. Raises ExtractError unless it is a mail.

    folder: goes before the names of attachments. lenient: a message without headers is read too (mailboxes have them).
    """
    message, encoding = _parse(data)
    if not message.keys() and not lenient:
        raise ExtractError("not a mail: it has no headers")
    subject = " ".join(header(message, "Subject").split()).replace(" > ", " › ")
    fields = [f"{name}: {value}" for name in HEADERS if (value := " ".join(header(message, name).split()))]
    yield Piece(text="\n".join(fields), locator=locator, heading=subject, kind="header")
    yield from _Parts(locator, subject, folder, encoding).pieces(message)


def read_saved_page(data: bytes) -> Iterator[Piece]:
    """The main text of a page that a browser saved with its pictures (.mht); frames in it are dropped."""
    message, encoding = _parse(data)
    pages = [part for part in _leaves(message) if part.get_content_type() in {"text/html", "application/xhtml+xml"}]
    if not pages:
        raise ExtractError("a saved web page (MHTML) without a page in it")
    yield from page(_text(pages[0], encoding))
    for part in pages[1:]:
        root = parse_html(_text(part, encoding))
        if root is not None:
            yield Piece(text=visible_text(root), dropped="frame of the page")


def header(message: Message, name: str) -> str:
    """A header as readable text: encoded words decoded, raw 8-bit letters as UTF-8 or windows-1252."""
    raw = next((value for key, value in message.raw_items() if key.lower() == name.lower()), "")
    return decode_words(str(raw))


def decode_words(raw: str) -> str:
    """A header's value with its encoded words decoded; as it stands when they are malformed."""
    text = _eight_bit(raw)
    if "=?" not in text:
        return text
    try:
        parts = decode_header(text)
    except FAULTS:
        return text
    return "".join(_word(part, charset) if isinstance(part, bytes) else part for part, charset in parts)


def _word(text: bytes, charset: str | None) -> str:
    if charset is None:
        return text.decode("raw-unicode-escape")  # how decode_header stores what was not encoded
    try:
        return text.decode(charset)
    except (LookupError, ValueError):
        return text.decode("cp1252", "replace")


def _eight_bit(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _parse(data: bytes) -> tuple[Message, str]:
    """(message, the encoding of its unencoded text when that is already known)."""
    encoding = ""
    if data[:5].strip().isdigit() and b"\n" in data[:12]:  # .emlx: the length stands before the message, a property list after
        count, _, data = data.partition(b"\n")
        data = data[: int(count)]
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or data[:3] == b"\xef\xbb\xbf" or b"\0" in data[:64]:
        data, encoding = decode(data).encode("utf-8", "replace"), "utf-8"
    try:
        return message_from_bytes(data), encoding
    except FAULTS as error:
        fact = "nested too deeply" if isinstance(error, RecursionError) else f"malformed ({type(error).__name__})"
        raise ExtractError(f"the mail is {fact}", refused=isinstance(error, RecursionError)) from error


def _leaves(message: Message) -> Iterator[Message]:
    """All parts that hold content, in order, without recursion; messages inside the message count as leaves."""
    pending, count = [(message, 0)], 0
    while pending:
        part, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_PARTS:
            raise ExtractError(f"the mail is nested more than {MAX_DEPTH} levels deep or has more than {MAX_PARTS:,} parts", refused=True)
        if part.get_content_maintype() == "multipart" and part.is_multipart():
            pending += [(child, depth + 1) for child in reversed(_children(part))]
        else:
            yield part


def _children(part: Message) -> list[Message]:
    children = part.get_payload()
    return [child for child in children if isinstance(child, Message)] if isinstance(children, list) else []


def _text(part: Message, encoding: str) -> str:
    """A text part's text: its declared charset if that fits, else what the bytes look like."""
    data = _bytes(part)
    stored = str(part.get("Content-Transfer-Encoding", "")).strip().lower()
    declared = encoding if encoding and stored not in {"base64", "quoted-printable"} else _charset(part)
    try:
        return data.decode(declared).replace("\r\n", "\n").replace("\r", "\n")
    except (LookupError, ValueError):
        return decode(data, html=part.get_content_type() == "text/html")


def _charset(part: Message) -> str:
    """The declared charset. Latin-1 and ASCII are read as what mail programs mean by them; "" fails on purpose."""
    try:
        name = (part.get_content_charset() or "").lower()
    except FAULTS:
        return "unknown"
    if part.get_content_type() == "text/html" and name in {"", "us-ascii"}:
        return "unknown"  # what the page says counts
    return {"iso-8859-1": "cp1252", "latin1": "cp1252", "us-ascii": "ascii", "": "utf-8"}.get(name, name)


def _bytes(part: Message) -> bytes:
    try:
        data = part.get_payload(decode=True)
    except FAULTS:
        return b""
    return data if isinstance(data, bytes) else b""


class _Parts:
    """Decides part by part what is text, what is an attachment, and what is neither."""

    def __init__(self, locator: str, subject: str, folder: str, encoding: str) -> None:
        self.locator, self.subject, self.folder, self.encoding = locator, subject, folder, encoding
        self.attachments = self.parts = 0

    def pieces(self, part: Message, depth: int = 0) -> Iterator[Piece | Embedded]:
        """A part and all below it."""
        self.parts += 1
        if depth > MAX_DEPTH or self.parts > MAX_PARTS:
            raise ExtractError(f"the mail is nested more than {MAX_DEPTH} levels deep or has more than {MAX_PARTS:,} parts", refused=True)
        kind, children = part.get_content_type(), _children(part)
        if kind in {"multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"}:
            yield from self._sealed(part)
        elif kind == "multipart/alternative" and children:
            yield from self._best(children, depth)
        elif part.get_content_maintype() == "multipart" and children:
            for child in children:
                yield from self.pieces(child, depth + 1)
        elif kind in SIGNATURES:
            return
        elif kind in {"message/rfc822", "message/global"}:
            yield self._nested(part)
        elif part.get_content_maintype() == "message" or (kind == "text/rfc822-headers"):
            yield Piece(text=_report(part), locator=self.locator, heading=self.subject, dropped="delivery report")
        elif self._is_body(part):
            yield from self._body(part)
        else:
            yield from self._attachment(part)

    def _is_body(self, part: Message) -> bool:
        if part.get_content_type() not in {"text/plain", "text/html", "text/enriched", "text/markdown"}:
            return False
        return part.get_content_disposition() != "attachment" and not file_name(part)

    def _body(self, part: Message) -> Iterator[Piece]:
        text = _text(part, self.encoding)
        if part.get_content_type() == "text/html":
            yield from html_pieces(text, self.locator, self.subject)
        else:
            flowed = str(part.get_param("format", "")).lower() == "flowed"
            yield from body_pieces(text, self.locator, self.subject, flowed=flowed)

    def _best(self, children: list[Message], depth: int) -> Iterator[Piece | Embedded]:
        """Plain text before HTML, unless the plain text only says that there is HTML. The copies are dropped as such."""
        plain = next((one for one in children if one.get_content_type() == "text/plain"), None)
        rich = next((one for one in children if one is not plain and _holds(one, "text/html")), None)
        chosen = plain if plain is not None else rich if rich is not None else next(iter(children), None)
        if plain is not None and rich is not None:
            text = _text(plain, self.encoding)
            shown = _shown(rich, self.encoding)
            if len("".join(text.split())) < MOSTLY * len("".join(shown.split())):
                chosen = rich
            copy = shown if chosen is plain else text
            yield Piece(text=copy, locator=self.locator, dropped="same text in another form")
        for child in children:
            if child is chosen:
                yield from self.pieces(child, depth + 1)
            elif child is not plain and child is not rich:
                yield from self.pieces(child, depth + 1) if child.get_content_maintype() != "text" else self._attachment(child)
            elif child is rich:
                for leaf in (one for one in _leaves(child) if one.get_content_maintype() != "text"):
                    yield from self.pieces(leaf, depth + 1)

    def _sealed(self, part: Message) -> Iterator[Piece | Embedded]:
        if str(part.get_param("smime-type", "")).lower() == "signed-data":
            yield Piece(text="", locator=self.locator, dropped="body wrapped in an S/MIME signature")
        else:
            yield Piece(text="", locator=self.locator, dropped="encrypted body")

    def _nested(self, part: Message) -> Embedded:
        self.attachments += 1
        inner = next(iter(_children(part)), None)
        name = f"{self.folder}{file_name(part) or f'message-{self.attachments}.eml'}"
        try:
            data = inner.as_bytes() if inner is not None else _bytes(part)
        except FAULTS as error:
            return Embedded(name, note=f"a message inside the message that cannot be taken out ({type(error).__name__})")
        return Embedded(name if name.lower().endswith(".eml") else f"{name}.eml", (data,))

    def _attachment(self, part: Message) -> Iterator[Piece | Embedded]:
        data, kind = _bytes(part), part.get_content_type()
        if kind.startswith("image/") and len(data) < SMALL_IMAGE and (part.get("Content-ID") or part.get_content_disposition() != "attachment"):
            yield Piece(text="", locator=self.locator, dropped="small inline picture")
            return
        self.attachments += 1
        name = file_name(part) or f"attachment-{self.attachments}{ENDINGS.get(kind, '')}"
        yield Embedded(f"{self.folder}{name}", (data,))


def file_name(part: Message) -> str:
    """An attachment's name as its sender wrote it; "" without one."""
    try:
        return " ".join(decode_words(part.get_filename() or "").split())
    except FAULTS:
        return ""


def _holds(part: Message, kind: str) -> bool:
    return any(one.get_content_type() == kind for one in _leaves(part))


def _shown(part: Message, encoding: str) -> str:
    page_part = next(one for one in _leaves(part) if one.get_content_type() == "text/html")
    root = parse_html(_text(page_part, encoding))
    return "" if root is None else visible_text(root)


def _report(part: Message) -> str:
    if children := _children(part):
        return "\n".join(f"{key}: {_eight_bit(str(value))}" for child in children for key, value in child.raw_items())
    return _eight_bit(str(part.get_payload()))
