"""Good files of many kinds, each with a sentence of its own that must be found again."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import corpus
from tests.corpus import archives


def marker(number: int) -> str:
    """What only file `number` says."""
    return f"Vessel{number:04d}"


def text(number: int) -> str:
    """Four sentences with the marker."""
    return (
        f"{marker(number)} lies at the quay of the old harbour since the spring. Her crew of {number % 7 + 2} repairs the nets every morning. "
        f"When the tide turns, {marker(number)} leaves for the banks in the north and comes back after {number % 5 + 3} days. "
        "The harbour master writes both into his book.\n"
    )


def write(folder: Path, count: int) -> dict[str, str]:
    """Write `count` files, the kinds in turn; returns the marker of each by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for number in range(count):
        ending, build = KINDS[number % len(KINDS)]
        name = f"{number:04d}{ending}"
        content = build(text(number))
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        made[name] = marker(number)
    return made


def xlsx(rows: Sequence[Sequence[str]], far: tuple[int, int, str] | None = None) -> bytes:
    """A workbook; far: one more cell by row and column from 0."""
    import xlsxwriter

    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(buffer, {"in_memory": True})
    sheet = book.add_worksheet()
    for number, row in enumerate(rows):
        sheet.write_row(number, 0, row)
    if far:
        sheet.write_string(*far)
    book.close()
    return buffer.getvalue()


def pptx(words: str) -> bytes:
    """A presentation of one slide."""
    import pptx as library

    made = library.Presentation()
    slide = made.slides.add_slide(made.slide_layouts[1])
    slide.shapes.title.text = "The harbour"
    slide.placeholders[1].text = words
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


def epub(words: str) -> bytes:
    """A book of one chapter."""
    return corpus.packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="c.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
            "c.opf": '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>'
            '</manifest><spine><itemref idref="a"/></spine></package>',
            "a.xhtml": f'<html xmlns="http://www.w3.org/1999/xhtml"><body><p>{words}</p></body></html>',
        }
    )


def odt(words: str) -> bytes:
    """An OpenDocument text."""
    spaces = 'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    body = f"<office:body><office:text><text:p>{words}</text:p></office:text></office:body>"
    return corpus.packed({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": f"<office:document-content {spaces}>{body}</office:document-content>"})


def pdf(words: str) -> bytes:
    """A page with a line for each sentence."""
    return corpus.pdf([corpus.lines([sentence.strip() for sentence in words.split(".") if sentence.strip()])])


def mail(words: str) -> str:
    """A message."""
    return f"From: Master <master@example.org>\nTo: crew@example.org\nSubject: The harbour\nDate: Mon, 1 Jan 2024 10:00:00 +0000\n\n{words}"


def page(words: str) -> str:
    """A web page."""
    return f"<!doctype html><html><head><title>Harbour</title></head><body><main><h1>Harbour</h1><p>{words}</p></main></body></html>"


def cells(words: str) -> str:
    """A notebook."""
    return corpus.notebook([{"cell_type": "markdown", "metadata": {}, "source": "# Harbour\n" + words}])


def table(words: str) -> str:
    """A table of two rows."""
    return f'place,entry\nquay,"{words.strip()}"\nmill,"The mill has no quay of its own, and no boat ever comes here."\n'


def rows(words: str) -> str:
    """Questions and answers."""
    return json.dumps({"question": "Where does she lie?", "answer": words.strip()}) + "\n"


def seven_zip(words: str) -> bytes:
    """A 7z with a text."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return archives.seven_zip(Path(folder) / "a.7z", {"entry.txt": words.encode()})


KINDS: tuple[tuple[str, Callable[[str], str | bytes]], ...] = (
    (".txt", str), (".md", lambda words: f"# Harbour\n\n{words}"), (".html", page), (".rst", lambda words: f"Harbour\n=======\n\n{words}"), (".csv", table),
    (".docx", lambda words: corpus.docx(corpus.paragraph(words))), (".pptx", pptx), (".xlsx", lambda words: xlsx([["place", "entry"], ["quay", words]])),
    (".pdf", pdf), (".ipynb", cells), (".eml", mail), (".epub", epub), (".odt", odt), (".zip", lambda words: corpus.packed({"in/entry.md": words})),
    (".tar.gz", lambda words: archives.tar({"entry.txt": words.encode()}, mode="w:gz")), (".txt.gz", lambda words: gzip.compress(words.encode(), mtime=0)),
    (".7z", seven_zip), (".rar", lambda words: archives.rar({"entry.txt": words.encode()}, packed=True)), (".jsonl", rows),
    (".tex", lambda words: f"\\documentclass{{article}}\\begin{{document}}\\section{{Harbour}}\n{words}\\end{{document}}\n"),
)  # fmt: skip
