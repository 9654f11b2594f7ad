"""Books: chapters by the spine, contents and titles dropped, protected ones refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.epub import extractor
from forge.protocols import Reading
from forge.records import Piece

CONTAINER = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
LINKS = "".join(f'<li><a href="c{n}.xhtml">Chapter {n}</a></li>' for n in range(9))


def book(chapters: dict[str, str], *, properties: str = "", guide: str = "", **extra: str) -> bytes:
    items = "".join(f'<item id="{name}" href="{name}.xhtml" media-type="application/xhtml+xml" {properties if name == "nav" else ""}/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    facts = "<dc:title>The Ledger</dc:title><dc:creator>Ada</dc:creator><dc:language>en</dc:language>"
    package = f'<package xmlns:dc="x"><metadata>{facts}</metadata><manifest>{items}</manifest><spine>{spine}</spine>{guide}</package>'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, text in {"META-INF/container.xml": CONTAINER, "OPS/book.opf": package, **{key.replace("__", "/"): value for key, value in extra.items()}}.items():
            archive.writestr(name, text)
        for name, text in reversed(chapters.items()):  # order in the ZIP is not order in the book
            archive.writestr(f"OPS/{name}.xhtml", text)
    return out.getvalue()


def chapter(body: str) -> str:
    return f'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>The Ledger</title></head><body>{body}</body></html>'


def read(tmp_path: Path, data: bytes) -> list[Piece]:
    path = tmp_path / "book.epub"
    path.write_bytes(data)
    return list(extractor.extract(path, Reading("application/epub+zip")))


def kept(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if not piece.dropped and piece.kind != "metadata"]


def dropped(pieces: list[Piece]) -> dict[str, str]:
    return {piece.dropped: piece.text for piece in pieces if piece.dropped}


def test_chapters_come_in_the_order_of_the_spine_below_the_title(tmp_path: Path) -> None:
    pieces = read(tmp_path, book({"b": chapter("<h1>Two</h1><p>First words.</p>"), "a": chapter("<p>It goes on&nbsp;here.</p>")}))
    assert kept(pieces) == ["Two", "First words.", "It goes on here."]
    assert [(piece.locator, piece.heading) for piece in pieces if piece.kind == "prose" and not piece.dropped] == [
        ("chapter=1", "The Ledger > Two"), ("chapter=2", "The Ledger > Two"),
    ]  # fmt: skip
    assert pieces[0].text == "Title: The Ledger\nAuthor: Ada\nLanguage: en"


def test_the_table_of_contents_is_dropped_and_a_chapter_that_begins_with_one_is_not(tmp_path: Path) -> None:
    contents = chapter(f"<nav><ol>{LINKS}</ol></nav>")
    pieces = read(tmp_path, book({"nav": contents, "a": chapter("<p>Words.</p>")}, properties='properties="nav"'))
    assert kept(pieces) == ["Words."]
    assert "Chapter 8" in dropped(pieces)["table of contents"]
    guide = '<guide><reference type="toc" href="a.xhtml#contents"/></guide>'
    assert len(kept(read(tmp_path, book({"a": chapter(f"<ul>{LINKS}</ul><p>{'Long text. ' * 40}</p>")}, guide=guide)))) == 10


def encryption(part: str, algorithm: str) -> str:
    return f'<encryption><EncryptedData><EncryptionMethod Algorithm="{algorithm}"/><CipherData><CipherReference URI="{part}"/></CipherData></EncryptedData></encryption>'


def test_obfuscated_fonts_do_not_matter_and_encrypted_chapters_are_refused(tmp_path: Path) -> None:
    chapters = {"a": chapter("<p>Words.</p>")}
    fonts = encryption("OPS/font.otf", "http://www.idpf.org/2008/embedding")
    assert kept(read(tmp_path, book(chapters, **{"META-INF__encryption.xml": fonts}))) == ["Words."]
    sealed = encryption("OPS/a.xhtml", "http://www.w3.org/2001/04/xmlenc#aes128-cbc")
    with pytest.raises(ExtractError, match="DRM") as caught:
        read(tmp_path, book(chapters, **{"META-INF__encryption.xml": sealed}))
    assert caught.value.refused


def test_entity_bombs_in_any_part_are_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE html [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><html><body>&b;</body></html>'
    for data in (book({"a": bomb}), book({"a": chapter("")}, **{"META-INF__encryption.xml": bomb})):
        with pytest.raises(ExtractError) as caught:
            read(tmp_path, data)
        assert caught.value.refused


def test_a_missing_chapter_is_reported_and_a_book_without_chapters_is_damaged(tmp_path: Path) -> None:
    data = book({"a": chapter("<p>Words.</p>")}).replace(b'<itemref idref="a"/>', b"")
    with pytest.raises(ExtractError):
        read(tmp_path, data)
    made = book({"a": chapter("<p>Words.</p>"), "gone": ""})
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(made)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name != "OPS/gone.xhtml":
                new.writestr(name, old.read(name))
    pieces = read(tmp_path, out.getvalue())
    assert kept(pieces) == ["Words."]
    assert [piece.locator for piece in pieces if piece.dropped == "missing chapter"] == ["chapter=2"]
