"""Documents that blow up, point outside, never end, or are cut off."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests import corpus
from tests.hostile import Case
from tests.hostile.harmless import epub, odt, pptx, xlsx

TEXT = "The ferry crosses the river four times a day, and in summer once more at night.\n"
WORD = corpus.WORD
LAUGHS = '<!ENTITY a "ha">' + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True))
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def cases(url: str) -> Iterator[Case]:
    """PDF, Office, XML, pictures, nesting, texts, data."""
    yield from _pdfs(url)
    yield from _office(url)
    yield from _markup(url)
    yield from _nested()
    yield from _texts()
    yield from _data()


def _pdfs(url: str) -> Iterator[Case]:
    whole = corpus.pdf([corpus.lines([TEXT[:70]])])
    yield Case("pdf/encrypted.pdf", corpus.pdf([corpus.lines([TEXT])], encrypted=True), "refused", "encrypted")
    yield Case("pdf/truncated.pdf", whole[: len(whole) // 3], "failed", "damaged PDF")
    yield Case("pdf/flate_bomb.pdf", flate_bomb(), "refused", "unpacks to")
    yield Case("pdf/page_loop.pdf", whole.replace(b"/Kids [5 0 R]", b"/Kids [2 0 R]"), "failed", "damaged PDF")
    yield Case("pdf/million_pages.pdf", whole.replace(b"/Count 1", b"/Count 9999999"), "ok|failed|refused")
    yield Case("pdf/pixels.pdf", picture_bomb(20_000), "skipped|refused|failed")
    wide = whole.replace(b"/MediaBox [0 0 600 800]", b"/MediaBox [0 0 9e9 9e9]")
    yield Case("pdf/huge_page.pdf", wide, "ok|failed|refused|skipped")
    calls = whole.replace(b"/Type /Catalog", f"/Type /Catalog /OpenAction << /S /URI /URI ({url}/pdf) >>".encode())
    yield Case("pdf/calls_home.pdf", calls, "ok", keeps="ferry crosses")


def picture_bomb(side: int) -> bytes:
    """A page that is one picture of `side` times `side` pixels."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(b"\xff" * side) for _ in range(side)) + packer.flush()
    head = f"/Width {side} /Height {side} /ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /FlateDecode /Length {len(data)} >>\nstream\n"
    whole = corpus.pdf([corpus.lines(["x"])], image_only=[0])
    start, end = whole.index(b"/Width"), whole.index(b"\nendstream")
    return whole[:start] + head.encode() + data + whole[end:]


def flate_bomb() -> bytes:
    """A page whose content is a gigabyte of spaces, deflated twice (2 kB)."""
    packer = zlib.compressobj(9)
    block = b" " * (1 << 20)
    once = b"".join(packer.compress(block) for _ in range(1024)) + packer.flush()
    twice = zlib.compress(once, 9)
    whole = corpus.pdf([corpus.lines([TEXT[:70]])])
    start, end = whole.index(b"<< /Length", whole.index(b"/Contents")), whole.index(b"endstream", whole.index(b"/Contents"))
    stream = f"<< /Length {len(twice)} /Filter [/FlateDecode /FlateDecode] >>\nstream\n".encode() + twice + b"\n"
    return whole[:start] + stream + whole[end:]


def _office(url: str) -> Iterator[Case]:
    for name, dtd, entity in (("laughs", LAUGHS, "j"), ("xxe", f'<!ENTITY e SYSTEM "file:///etc/passwd"><!ENTITY f SYSTEM "{url}/docx">', "e;&f")):
        xml = f'<?xml version="1.0"?><!DOCTYPE w [{dtd}]><w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>&{entity};</w:t></w:r></w:p></w:body></w:document>'
        yield Case(f"office/{name}.docx", corpus.packed({"[Content_Types].xml": "", "word/document.xml": xml}), "refused")
    remote = f'<Relationships xmlns="{corpus.OFFICE}"><Relationship Id="x" Type="{OFFICE}/attachedTemplate" Target="{url}/t.dotm" TargetMode="External"/></Relationships>'
    with zipfile.ZipFile(io.BytesIO(corpus.docx(corpus.paragraph(TEXT + "remote")))) as made:
        members = {name: made.read(name) for name in made.namelist()}
    yield Case("office/remote_template.docx", corpus.packed({**members, "word/_rels/settings.xml.rels": remote}), "ok", keeps="ferry crosses")
    whole = {"docx": corpus.docx(corpus.paragraph(TEXT)), "xlsx": xlsx([[TEXT]]), "pptx": pptx(TEXT), "epub": epub(TEXT), "odt": odt(TEXT)}
    for ending, content in whole.items():
        yield Case(f"office/truncated.{ending}", content[: len(content) // 2], "failed", "damaged")
    parts = {"docx": "word/document.xml", "xlsx": "xl/worksheets/sheet1.xml", "pptx": "ppt/slides/slide1.xml", "epub": "a.xhtml", "odt": "content.xml"}
    for ending, part in parts.items():
        yield Case(f"office/garbled.{ending}", garbled(whole[ending], part), "failed", "damaged")
    locked = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le") + bytes(600)
    yield Case("office/encrypted.xlsx", locked, "refused", "encrypted")
    yield Case("office/extent.xlsx", xlsx([["first cell"]], far=(1_048_575, 16_383, "last cell")), "ok", keeps="last cell")
    sheet = f'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{"<row>" * 100_000}'
    yield Case("office/unclosed.xlsx", replaced(xlsx([["a"]]), "xl/worksheets/sheet1.xml", sheet.encode()), "failed", "damaged XML")
    yield Case("office/noise.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "Workbook".encode("utf-16-le") + bytes(2000), "failed", "damaged workbook")


def garbled(container: bytes, name: str) -> bytes:
    """A ZIP whose directory is whole and one of whose parts no longer inflates."""
    start = container.index(name.encode()) + len(name)
    return container[:start] + b"\xff" * 30 + container[start + 30 :]


def replaced(container: bytes, name: str, content: bytes) -> bytes:
    """A ZIP with one part exchanged."""
    with zipfile.ZipFile(io.BytesIO(container)) as archive:
        return corpus.packed({one: content if one == name else archive.read(one) for one in archive.namelist()})


def _markup(url: str) -> Iterator[Case]:
    xxe = f'<!ENTITY e SYSTEM "file:///etc/passwd"><!ENTITY % p SYSTEM "{url}/p.dtd"> %p;'
    for name, root in (("svg", "svg"), ("xml", "note")):
        text = "<text>&{};</text>" if name == "svg" else "{}"
        space = ' xmlns="http://www.w3.org/2000/svg"' if name == "svg" else ""
        for kind, dtd, entity in (("laughs", LAUGHS, "j"), ("xxe", xxe, "e")):
            body = text.format(entity) if name == "svg" else f"&{entity};"
            yield Case(f"markup/{kind}.{name}", f'<?xml version="1.0"?><!DOCTYPE {root} [{dtd}]><{root}{space}>{body}</{root}>'.encode(), "refused")
    quadratic = f'<?xml version="1.0"?><!DOCTYPE n [<!ENTITY a "{"x" * 60_000}">]><n>{"&a;" * 60_000}</n>'
    yield Case("markup/quadratic.xml", quadratic.encode(), "refused")
    include = f'<?xml version="1.0"?><n xmlns:xi="http://www.w3.org/2001/XInclude">{TEXT}<xi:include href="file:///etc/passwd" parse="text"/><xi:include href="{url}/x"/></n>'
    yield Case("markup/include.xml", include.encode(), "ok", keeps="ferry crosses")
    external = f'<!DOCTYPE html SYSTEM "{url}/x.dtd"><html><head><link rel="stylesheet" href="{url}/a.css"><script src="{url}/a.js"></script></head>'
    page = external + f'<body><article><p>{TEXT * 3}</p><img src="{url}/a.png"><iframe src="file:///etc/passwd"></iframe></article></body></html>'
    yield Case("markup/calls_home.html", page.encode(), "ok", keeps="ferry crosses")
    yield Case("markup/calls_home.md", f"# Ferry\n\n{TEXT}\n![]({url}/a.png) [x](file:///etc/passwd)\n".encode(), "ok", keeps="ferry crosses")
    yield Case("picture/pixels.png", png(30_000, 30_000), "refused", "pixels")
    yield Case("picture/truncated.png", png(64, 64)[:60], "failed|refused|skipped")
    yield Case("picture/noise.jpg", b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20, "failed|refused|skipped")


def png(width: int, height: int) -> bytes:
    """A white picture of one bit a pixel; 900 megapixels are 110 kB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    row = b"\0" + b"\xff" * -(-width // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 1, 0, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _nested() -> Iterator[Case]:
    yield Case("nested/200.json", ("[" * 200 + f'"{TEXT.strip()}"' + "]" * 200).encode(), "ok|skipped|failed|refused")
    yield Case("nested/100000.json", b"[" * 100_000, "ok|skipped|failed|refused")
    yield Case("nested/200000.ipynb", b'{"nbformat":4,"cells":' + b"[" * 200_000, "failed", "notebook")
    yield Case("nested/200.html", f"<html><body>{'<div>' * 200}<p>{TEXT * 3}</p></body></html>".encode(), "ok", keeps="ferry crosses")
    yield Case("nested/50000.html", f"<html>{'<div>' * 50_000}{TEXT}".encode(), "refused", "nested")
    yield Case("nested/50000.xml", f"<?xml version='1.0'?>{'<a>' * 50_000}".encode(), "failed", "depth")
    yield Case("nested/200.eml", mime(200), "refused", "nested")
    yield Case("nested/messages.eml", messages(200), "ok", members={"message-1.eml" + "!/message-1.eml" * 5: "refused: lies more than"})
    yield Case("nested/quotes.md", (">" * 50_000 + " deep\n\n" + TEXT).encode(), "ok")
    yield Case("nested/lists.md", "".join(f"{' ' * depth}- item {depth}\n" for depth in range(2000)).encode(), "ok")
    yield Case("nested/braces.tex", ("\\section{A}\n" + TEXT + "{" * 100_000).encode(), "ok|failed")


def mime(levels: int) -> bytes:
    """A multipart in a multipart in a multipart ..."""
    head = "From: a@example.org\nSubject: deep\nMIME-Version: 1.0\n"
    opened = "".join(f'Content-Type: multipart/mixed; boundary="b{level}"\n\n--b{level}\n' for level in range(levels))
    closed = "".join(f"--b{level}--\n" for level in reversed(range(levels)))
    return (head + opened + f"Content-Type: text/plain\n\n{TEXT}\n" + closed).encode()


def messages(levels: int) -> bytes:
    """A message that forwards a message that forwards a message ..."""
    part = f"From: a@example.org\nSubject: innermost\n\n{TEXT}"
    for level in range(levels):
        part = f"From: a@example.org\nSubject: {level}\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\n{part}"
    return part.encode()


def _texts() -> Iterator[Case]:
    """What backtracking and quadratic parsers choke on; a line of 50 MB in a table."""
    long = {
        "brackets.md": "[" * 200_000, "parentheses.md": "[a](" * 100_000, "stars.md": "*a " * 200_000, "ticks.md": "`" * 200_001, "underscores.rst": "`a_" * 100_000,
        "angles.html": "<html><body>" + "<" * 300_000, "attributes.html": "<html><body><p " + "a=b " * 100_000, "entities.html": "<html><body>" + "&" * 300_000,
        "spaces.txt": " " * 2_000_000 + "x", "words.txt": "a" * 2_000_000, "addresses.txt": "a@" * 500_000, "links.txt": "http://" * 200_000, "tabs.csv": "\t" * 1_000_000,
        "quotes.csv": '"' * 999_999, "dollars.tex": "$" * 300_001, "backslashes.tex": "\\" * 300_001, "dashes.md": "-" * 500_000, "pipes.md": "|" * 300_000 + "\n" + "|-" * 150_000 + "\n",
        "lines.md": "\n" * 2_000_000 + "x", "newlines.csv": "a,b\n" + "\n" * 1_000_000, "semicolons.csv": ";" * 1_000_000, "hashes.md": "#" * 500_000, "digits.txt": "1" * 1_000_000,
        "commas.py": "x = (" + "(" * 50_000, "front.md": "---\n" + "a: &a [*a, *a]\n" * 50_000,
    }  # fmt: skip
    for name, content in long.items():
        yield Case(f"text/{name}", content.encode(), "ok|skipped|refused|failed")
    yield Case("text/one_line.csv", lambda path: wide_row(path), "ok|skipped|refused|failed")


def wide_row(path: Path) -> None:
    """A table whose second line is 50 MB long."""
    with path.open("wb") as file:
        file.write(b"name,notes\nferry,")
        for _ in range(50):
            file.write(b"crosses the river " * 58_000)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("open('pickled.txt', 'w').write('out')",))


def _data() -> Iterator[Case]:
    yield Case("data/evil.pkl", pickle.dumps(_Evil(), 4), "skipped|ok|failed|refused")
    array = b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    yield Case("data/evil.npy", array + pickle.dumps(_Evil(), 4), "skipped|ok|failed|refused")
    yield Case("data/endless_view.sqlite", endless_view, "ok|skipped|failed|refused")
    yield Case("data/truncated.sqlite", b"SQLite format 3\0" + bytes(range(256)) * 8, "failed|skipped|refused")
    yield Case("data/truncated.h5", b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8, "failed|skipped|refused")
    yield Case("data/truncated.dcm", bytes(128) + b"DICM" + bytes(range(256)) * 4, "failed|skipped|refused|ok")
    yield Case("data/truncated.parquet", b"PAR1" + bytes(600) + b"PAR1", "failed|skipped|refused")
    yield Case("data/huge.stl", bytes(80) + b"\xff\xff\xff\xff" + bytes(500), "failed|skipped|refused|ok")
    yield Case("data/no_end.jsonl", (json.dumps({"question": "q", "answer": "a"})[:-1] + "\n").encode() * 2000, "ok|skipped|failed")
    yield Case("data/huge_number.json", b'{"a": ' + b"9" * 200_000 + b"}", "ok|skipped|failed|refused")


def endless_view(path: Path) -> None:
    """A database with a view that counts for ever."""
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ferry(name TEXT, port TEXT)")
        database.execute("INSERT INTO ferry VALUES('Marie crosses the river all day', 'the old port below the mill')")
        database.execute("CREATE VIEW forever AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n")
    database.close()
