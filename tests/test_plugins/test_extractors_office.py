"""Word, PowerPoint and OpenDocument files: every part that a reader sees, and the files inside."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors import epub, slides, word
from forge.protocols import Embedded, Option, Reading
from forge.records import Piece
from tests import corpus

ODT, ODP = "application/vnd.oasis.opendocument.text", "application/vnd.oasis.opendocument.presentation"
SPACES = 'xmlns:office="o" xmlns:text="t" xmlns:table="b" xmlns:draw="d" xmlns:presentation="p" xmlns:style="s"'


def read(extractor: Any, tmp_path: Path, data: bytes, media_type: str = "", **options: Option) -> list[Piece | Embedded]:
    path = tmp_path / "file"
    path.write_bytes(data)
    return list(extractor.extract(path, Reading(media_type or extractor.media_types[0], options=options)))


def kept(items: list[Piece | Embedded]) -> list[tuple[str, str]]:
    return [(one.kind, one.text) for one in items if isinstance(one, Piece) and not one.dropped and one.text]


def dropped(items: list[Piece | Embedded]) -> dict[str, str]:
    return {one.dropped: one.text for one in items if isinstance(one, Piece) and one.dropped}


def embedded(tmp_path: Path, extractor: Any, data: bytes, **options: Option) -> dict[str, int]:
    """Names and sizes of the files inside, each read before the next item is asked for, as prep does."""
    path = tmp_path / "inside"
    path.write_bytes(data)
    found = {}
    for one in extractor.extract(path, Reading(extractor.media_types[0], options=options)):
        if isinstance(one, Embedded):
            found[one.name] = sum(map(len, one.chunks))
    return found


def picture(size: int) -> bytes:
    """A PNG of one pixel, padded to a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return head + chunk(b"tEXt", b"Comment\0" + b"x" * size) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def with_parts(data: bytes, parts: Mapping[str, str | bytes]) -> bytes:
    import zipfile

    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


# --- word ------------------------------------------------------------------------------------------------------


def test_hidden_and_deleted_words_are_dropped_and_symbols_are_read(tmp_path: Path) -> None:
    body = (
        "<w:p><w:r><w:t>Seen </w:t></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>secret</w:t></w:r><w:r><w:rPr><w:vanish w:val='0'/></w:rPr><w:t>too </w:t></w:r>"
        "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom><w:r><w:sym w:font='Symbol' w:char='F0B0'/></w:r></w:p>"
    )
    items = read(word.extractor, tmp_path, corpus.docx(body))
    assert kept(items) == [("prose", "Seen too °")]
    assert dropped(items) == {"hidden text": "secret", "deleted text": "gone\nmoved"}


def test_alternative_texts_of_people_are_notes_and_those_of_programs_are_nothing(tmp_path: Path) -> None:
    def drawing(text: str) -> str:
        return f'<w:p><w:r><w:drawing><wp:inline xmlns:wp="wp"><wp:docPr id="1" name="x" descr="{text}"/></wp:inline></w:drawing></w:r></w:p>'

    boxed = f"<w:p><w:r><w:txbxContent>{drawing('Inside a box')}</w:txbxContent></w:r></w:p>"
    assert kept(read(word.extractor, tmp_path, corpus.docx(boxed))) == [("notes", "Inside a box")]
    body = drawing("The ledger after a crash") + drawing("image1.png") + drawing("A screenshot of a computer&#10;Description automatically generated")
    assert kept(read(word.extractor, tmp_path, corpus.docx(body))) == [("notes", "The ledger after a crash")]


def test_word_charts_and_diagrams_are_read_where_they_stand(tmp_path: Path) -> None:
    body = (
        corpus.paragraph("Before")
        + '<w:p><w:r><w:drawing><c:chart xmlns:c="c" xmlns:r="r" r:id="rC"/></w:drawing></w:r><w:r><w:drawing><d:relIds xmlns:d="d" xmlns:r="r" r:dm="rD"/></w:drawing></w:r></w:p>'
        + corpus.paragraph("After")
    )
    chart = '<c:chart xmlns:c="c"><c:ser><c:tx><c:v>Runs</c:v></c:tx><c:cat><c:v>2025</c:v></c:cat><c:val><c:v>3</c:v></c:val></c:ser></c:chart>'
    diagram = '<d:data xmlns:d="d" xmlns:a="a"><d:t><a:p><a:r><a:t>Plan</a:t></a:r></a:p><a:p><a:r><a:t>Build</a:t></a:r></a:p></d:t></d:data>'
    links = '<Relationships><Relationship Id="rC" Type="x/chart" Target="charts/chart1.xml"/><Relationship Id="rD" Type="x/diagramData" Target="diagrams/data1.xml"/></Relationships>'
    book = '<Relationships><Relationship Id="r1" Type="x/package" Target="../embeddings/Sheet1.xlsx"/></Relationships>'
    parts = {
        "word/_rels/document.xml.rels": links, "word/charts/chart1.xml": chart, "word/diagrams/data1.xml": diagram,
        "word/charts/_rels/chart1.xml.rels": book, "word/embeddings/Sheet1.xlsx": "PK", "word/document.xml": "",
    }  # fmt: skip
    parts["word/document.xml"] = f'<w:document xmlns:w="w"><w:body>{body}</w:body></w:document>'
    items = read(word.extractor, tmp_path, corpus.packed(parts))
    assert kept(items) == [("prose", "Before"), ("table", "Runs: 2025 3"), ("list", "Plan\nBuild"), ("prose", "After")]
    assert embedded(tmp_path, word.extractor, corpus.packed(parts)) == {}  # the chart's workbook was read with the chart


def test_files_inside_are_handed_back_and_small_pictures_counted(tmp_path: Path) -> None:
    parts = {
        "word/embeddings/Budget.xlsx": b"PK" * 10, "word/embeddings/oleObject1.bin": b"x", "word/media/image1.png": picture(30_000),
        "word/media/image2.png": picture(10), "word/media/image3.emf": b"x" * 30_000,
    }  # fmt: skip
    made = with_parts(corpus.docx(corpus.paragraph("Words")), parts)
    assert embedded(tmp_path, word.extractor, made) == {"word/embeddings/Budget.xlsx": 20, "word/media/image1.png": len(picture(30_000))}
    assert dropped(read(word.extractor, tmp_path, made)) == {"embedded OLE object": "", "small picture": ""}
    assert embedded(tmp_path, word.extractor, made, ocr="off") == {"word/embeddings/Budget.xlsx": 20}
    assert "picture (OCR is off)" in dropped(read(word.extractor, tmp_path, made, ocr="off"))


# --- opendocument ----------------------------------------------------------------------------------------------


def test_open_document_notes_boxes_headers_and_deletions(tmp_path: Path) -> None:
    content = (
        f"<office:body {SPACES}><text:tracked-changes><text:changed-region><text:deletion><text:p>never</text:p></text:deletion></text:changed-region></text:tracked-changes>"
        "<text:p>A lease<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>See page 3.</text:p></text:note-body></text:note> is timed."
        "<office:annotation><text:p>Really?</text:p></office:annotation><draw:frame><draw:text-box><text:p>Inside</text:p></draw:text-box></draw:frame></text:p></office:body>"
    )
    styles = f"<office:master-styles {SPACES}><style:header><text:p>Handbook</text:p></style:header><style:footer><text:p>Handbook</text:p></style:footer></office:master-styles>"
    items = read(word.extractor, tmp_path, corpus.packed({"content.xml": content, "styles.xml": styles}), ODT)
    assert kept(items) == [("prose", "A lease is timed."), ("prose", "Inside"), ("header", "Handbook"), ("notes", "See page 3."), ("notes", "Really?")]
    assert dropped(items) == {"deleted text": "never"}


def test_open_document_presentations_slide_by_slide(tmp_path: Path) -> None:
    content = (
        f'<office:body {SPACES}><draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>Gates</text:p></draw:text-box></draw:frame>'
        "<draw:frame><draw:text-box><text:p>One</text:p><text:list><text:list-item><text:p>two</text:p></text:list-item></text:list></draw:text-box></draw:frame>"
        '<draw:frame presentation:class="footer"><draw:text-box><text:p>ACME</text:p></draw:text-box></draw:frame>'
        "<draw:frame><table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell>"
        '</table:table-row></table:table></draw:frame><presentation:notes><draw:frame presentation:class="notes"><draw:text-box><text:p>Slowly</text:p></draw:text-box></draw:frame>'
        "</presentation:notes></draw:page><draw:page><draw:custom-shape><text:p>Last</text:p></draw:custom-shape></draw:page></office:body>"
    )
    items = read(slides.extractor, tmp_path, corpus.packed({"content.xml": content}), ODP)
    assert [(one.locator, one.text) for one in items if isinstance(one, Piece) and one.text and not one.dropped] == [
        ("slide=1", "Gates"), ("slide=1", "One\ntwo"), ("slide=1", "a | b"), ("slide=1 notes", "Slowly"), ("slide=2", "Last"),
    ]  # fmt: skip
    assert dropped(items) == {"slide footer": "ACME"}


# --- slides ----------------------------------------------------------------------------------------------------


def test_slides_name_table_values_and_tell_what_pictures_show(tmp_path: Path) -> None:
    from pptx import Presentation
    from pptx.util import Inches

    show, box = Presentation(), (Inches(1), Inches(1), Inches(3), Inches(2))
    slide = show.slides.add_slide(show.slide_layouts[6])
    table = slide.shapes.add_table(2, 2, *box).table
    for cell, text in zip(table.iter_cells(), ("key", "value", "seed", "7"), strict=True):
        cell.text = text
    shown = slide.shapes.add_picture(io.BytesIO(picture(25_000)), *box[:2])
    shown._element.nvPicPr.cNvPr.set("descr", "Loss falls with steps")
    buffer = io.BytesIO()
    show.save(buffer)
    items = read(slides.extractor, tmp_path, buffer.getvalue())
    assert kept(items) == [("table", "key | value\nkey: seed; value: 7"), ("notes", "Loss falls with steps")]
    assert list(embedded(tmp_path, slides.extractor, buffer.getvalue())) == ["ppt/media/image1.png"]


# --- damaged files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extractor", [word.extractor, slides.extractor, epub.extractor])
@pytest.mark.parametrize("damage", [lambda data: b"no zip", lambda data: data[: len(data) // 2], lambda data: data.replace(b"PK\x01\x02", b"PK\x01\xff")])
def test_a_damaged_container_is_an_extraction_error(tmp_path: Path, extractor: Any, damage: Any) -> None:
    with pytest.raises(ExtractError):
        read(extractor, tmp_path, damage(corpus.docx(corpus.paragraph("Words"))))


def test_a_damaged_picture_costs_itself(tmp_path: Path) -> None:
    made = with_parts(corpus.docx(corpus.paragraph("Words")), {"word/media/image1.png": picture(30_000)})
    broken = made.replace(b"x" * 30_000, b"y" * 30_000)
    found = [one for one in read(word.extractor, tmp_path, made) if isinstance(one, Embedded)]
    assert [one.name for one in found] == ["word/media/image1.png"]
    path = tmp_path / "file"
    path.write_bytes(broken)
    for one in word.extractor.extract(path, Reading(word.extractor.media_types[0])):
        if isinstance(one, Embedded):
            with pytest.raises(ExtractError):
                list(one.chunks)
