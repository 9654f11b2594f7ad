"""What of a passage is prose: without code, formulas, addresses and markup. Language and quality are judged on that."""

from __future__ import annotations

import re
from itertools import islice
from string import ascii_letters

_FENCED = re.compile(r"^[ \t]*(```+|~~~+).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PIECES = r"`[^`\n]+`|\$\$.{1,1000}?\$\$|\$[^$\n ][^$\n]{0,80}\$|https?://\S+|<[A-Za-z/!][^<>\n]{0,200}>"
_INLINE = re.compile(_PIECES, re.DOTALL)
_INLINE_OR_ADDRESS = re.compile(_PIECES + r"|[^\s@]{1,64}@[^\s@]{1,255}", re.DOTALL)
"""Looking for addresses takes a try at every character: only where there is an @."""
_CODE_MARKS = str.maketrans("", "", "{}()[];=<>_\\/|&$#*+~^:")
_LINKED = re.compile(r"\[([^\[\]\n]{0,300})\](?:\([^)\s]{0,1000}\)|\[[^\[\]\n]{0,300}\])")
PROSE = {"prose", "notes"}
"""Kinds of passages that are running text."""
CODE_MARKS_SHARE = 0.12
"""Prose has about 2 % of such marks, tables of words 5 %, code 15 % and more (Rust book, OWASP)."""

UNSPACED = "\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:['’-][^\W_{UNSPACED}]+)*")
_ASCII_WORD = re.compile(r"[A-Za-z0-9]+(?:['-][A-Za-z0-9]+)*")  # the same on ASCII, in a third of the time
_LETTERS = re.compile(r"[^\W\d_]+")
_NO_ASCII_LETTERS = dict.fromkeys(map(ord, ascii_letters))


def prose_of(text: str) -> str:
    """The text without fenced and inline code, code-like lines, formulas, addresses and tags."""
    text = _FENCED.sub("\n", text) if "```" in text or "~~~" in text else text
    text = _LINKED.sub(r"\1", text) if "]" in text else text
    text = (_INLINE_OR_ADDRESS if "@" in text else _INLINE).sub(" ", text)
    return "\n".join(line for line in text.split("\n") if not _looks_like_code(line))


def word_list(text: str) -> list[str]:
    """Words of letters or digits; in scripts written without spaces, each character."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def has_words(text: str, least: int) -> bool:
    """Whether the text has at least so many words. Stops counting there."""
    return sum(1 for _ in islice(_WORD.finditer(text), least)) == least


def letters_in(text: str) -> int:
    """How many letters, of any script."""
    if text.isascii():
        return len(text) - len(text.translate(_NO_ASCII_LETTERS))
    return sum(map(len, _LETTERS.findall(text)))


def _looks_like_code(line: str) -> bool:
    stripped = line.strip()
    if not stripped:
        return False
    body = stripped.lstrip("#*-+>| ")
    marks = len(body) - len(body.translate(_CODE_MARKS))
    return marks > CODE_MARKS_SHARE * len(stripped) or stripped.endswith((";", "{", "}"))
