"""Small documents of every family, made from a few lines of Python: what they must contain is then known exactly."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CONTENT_TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'

Text = tuple[float, float, float, str]
"""(font size, x, y, text) in points from the lower left corner of a 600 x 800 page."""


def pdf(pages: Sequence[Sequence[Text]], *, encrypted: bool = False, image_only: Sequence[int] = ()) -> bytes:
    """A PDF with text at given places. `image_only`: pages (from 0) that hold a 1-pixel picture instead."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    pixel = "<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>\nstream\n0\nendstream"
    objects.append(pixel)
    kids = []
    for number, page in enumerate(pages):
        content = "".join(f"BT /F1 {size} Tf {x} {y} Td ({_escaped(text)}) Tj ET\n" for size, x, y, text in page)
        if number in image_only:
            content = "q 500 0 0 700 50 50 cm /Im Do Q\n"
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects) + 2} 0 R"
            " /Resources << /Font << /F1 3 0 R >> /XObject << /Im 4 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}endstream")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    if encrypted:
        objects.append(f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{'4f' * 32}> /U <{'55' * 32}> >>")
    return _assembled(objects, f" /Encrypt {len(objects)} 0 R /ID [<00> <00>]" if encrypted else "")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")


def _assembled(objects: Sequence[str], trailer: str) -> bytes:
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start = len(out)
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}".encode()
    return out + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R{trailer} >>\nstartxref\n{start}\n%%EOF\n".encode()


def lines(texts: Sequence[str], *, size: float = 10, x: float = 72, top: float = 700, step: float = 12) -> list[Text]:
    """Texts as lines below each other."""
    return [(size, x, top - step * row, text) for row, text in enumerate(texts)]


def packed(parts: Mapping[str, str | bytes]) -> bytes:
    """A ZIP file of the given parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name)  # dated 1980, so that the same parts make the same bytes
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def docx(body: str, *, head: str = "", **parts: str) -> bytes:
    """A .docx around the XML of its body. parts: relationship type -> XML of that part's content ("header", "comments")."""
    wrap = f'{head}<w:{{0}} xmlns:w="{WORD}" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">{{1}}</w:{{0}}>'
    links = "".join(f'<Relationship Id="r{kind}" Type="{OFFICE}/{kind}" Target="{kind}.xml"/>' for kind in parts)
    roots = {"header": "hdr", "footer": "ftr"}
    return packed(
        {
            "[Content_Types].xml": CONTENT_TYPES,
            "_rels/.rels": _relationships(f'<Relationship Id="r1" Type="{OFFICE}/officeDocument" Target="word/document.xml"/>'),
            "word/document.xml": wrap.format("document", f"<w:body>{body}</w:body>"),
            "word/_rels/document.xml.rels": _relationships(links),
            **{f"word/{kind}.xml": wrap.format(roots.get(kind, kind), xml) for kind, xml in parts.items()},
        }
    )


def _relationships(inner: str) -> str:
    return f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inner}</Relationships>'


def paragraph(text: str, style: str = "") -> str:
    """A Word paragraph."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'


def styles(**named: str) -> str:
    """Word styles: id = name."""
    return "".join(f'<w:style w:styleId="{identifier}"><w:name w:val="{name}"/></w:style>' for identifier, name in named.items())


def notebook(cells: Sequence[Mapping[str, object]]) -> str:
    """A Jupyter notebook, format 4."""
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)})
