"""The text of a message without what is not its own: the quoted mail below it, the signature, armour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from forge.plugins.extractors._html import whole
from forge.plugins.extractors._htmltree import parse_html
from forge.plugins.extractors._outline import blocks, unwrap
from forge.records import Piece

SIGNATURE = re.compile(r"^-- ?$")
"""RFC 3676, 4.3: dash dash space stands before a signature."""

MAX_SIGNATURE_LINES = 12
ATTRIBUTION = re.compile(
    r"(\b(wrote|writes|schrieb|escribió|escreveu|scrisse|ha scritto|a écrit|skrev|schreef|napisał|kirjoitti|написал|пишет|写道)\b.*|@.*|\d{4}.*)[:：]\s*$", re.IGNORECASE
)
ENCRYPTED = re.compile(r"^-----BEGIN PGP MESSAGE-----$.*?(?:^-----END PGP MESSAGE-----$|\Z)", re.MULTILINE | re.DOTALL)
ARMOUR = re.compile(
    r"^-----BEGIN PGP SIGNED MESSAGE-----\n(?:Hash: [^\n]*\n)*|^-----BEGIN PGP (?:SIGNATURE|PUBLIC KEY BLOCK)-----$.*?(?:^-----END PGP (?:SIGNATURE|PUBLIC KEY BLOCK)-----$|\Z)",
    re.MULTILINE | re.DOTALL,
)


def body_pieces(text: str, locator: str, subject: str, *, flowed: bool = False) -> Iterator[Piece]:
    """Paragraphs of a plain text body. flowed: a line that ends with a space goes on in the next one (RFC 3676)."""
    dropped: list[tuple[str, str]] = []
    for reason, pattern in (("encrypted body", ENCRYPTED), ("PGP signature", ARMOUR)):
        dropped += [(reason, match[0]) for match in pattern.finditer(text)]
        text = pattern.sub("", text)
    lines = _flow(text.split("\n")) if flowed else text.split("\n")
    start = next((n for n in range(len(lines) - 1, -1, -1) if SIGNATURE.match(lines[n])), len(lines))
    if 0 < len(lines) - start <= MAX_SIGNATURE_LINES and any(line.strip() for line in lines[:start]):
        dropped.append(("signature", "\n".join(lines[start:])))
        lines = lines[:start]
    first, last = quoted(lines)
    dropped += [("quoted reply", "\n".join(lines[first:last]))] if last else []
    for _, block in [*blocks(lines[:first] if last else lines), *blocks(lines[last:] if last else [])]:
        yield Piece(text=unwrap(block), locator=locator, heading=subject)
    for reason, lost in dropped:
        yield Piece(text=lost, locator=locator, dropped=reason)


def quoted(lines: list[str]) -> tuple[int, int]:
    """Where the mail that is answered stands, from its attribution to its last ">" line; (0, 0) when nowhere.

    Only one block of quotes below a line such as "On 1 May, Ada wrote:" is one. Several blocks are answered point by
    point, and the answers mean nothing without them.
    """
    marked = [number for number, line in enumerate(lines) if line.startswith(">")]
    if not marked:
        return 0, 0
    first, last = marked[0], marked[-1] + 1
    if any(lines[number].strip() and not lines[number].startswith(">") for number in range(first, last)):
        return 0, 0
    above = [number for number in range(first - 1, -1, -1) if lines[number].strip()][:1]
    if not above or first - above[0] > 2 or not ATTRIBUTION.search(lines[above[0]]):
        return 0, 0
    begin = above[0]
    if begin and lines[begin - 1].strip() and re.match(r"^(On|Am|Le|El|Em|Il|Den|Op)\b", lines[begin - 1]):
        begin -= 1  # a long attribution is wrapped
    return begin, last


def html_pieces(text: str, locator: str, subject: str) -> Iterator[Piece]:
    """The blocks of an HTML body, below the subject; the mail that it answers is dropped."""
    root = parse_html(text)
    if root is None:
        return
    quotes = [node for node in root.iter() if isinstance(node.tag, str) and _is_quote(node)]
    own = len("".join(root.itertext())) - sum(len("".join(node.itertext())) for node in quotes)
    for piece in whole(root, locator=locator, quotes=quotes if own > 0 else ()):
        if piece.dropped or not subject:
            yield piece
        else:
            yield piece.model_copy(update={"heading": f"{subject} > {piece.heading}" if piece.heading and piece.heading != subject else subject})


def _is_quote(node: Any) -> bool:
    """Marked by the mail program itself: Thunderbird and Apple cite, Gmail and Yahoo by class, outermost only."""
    above = node.getparent()
    names = set((node.get("class") or "").split())
    marked = (node.tag == "blockquote" and node.get("type") == "cite") or bool(names & {"gmail_quote", "yahoo_quoted", "moz-cite-prefix"})
    return marked and not any(one.tag == "blockquote" and one.get("type") == "cite" for one in ([] if above is None else [above, *above.iterancestors()]))


def _flow(lines: list[str]) -> list[str]:
    joined: list[str] = []
    open_line = False
    for line in lines:
        text = line[1:] if line.startswith(" ") else line
        soft = line.endswith(" ") and line != "-- "
        if open_line and not line.startswith(">"):
            joined[-1] += text
        else:
            joined.append(text)
        open_line = soft and not line.startswith(">")
    return joined
