"""What a PDF holds beside its pages' text: comments, filled-in form fields, attached files. By pypdfium2."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from forge.protocols import Embedded

MAX_ANNOTATIONS = 5_000
"""Of one page; a hostile file can have millions."""

MAX_ATTACHMENTS = 1_000
CHUNK_BYTES = 1 << 20
FORM_BUTTON, FORM_CHECKBOX, FORM_RADIO = 1, 2, 3
UNCHECKED = {"", "Off"}


def read_notes(document: Any, page: Any) -> list[str]:
    """The comments on a page and its form fields ("City: Bonn"), in the order of the file."""
    from pypdfium2 import raw

    notes = []
    for index in range(min(raw.FPDFPage_GetAnnotCount(page), MAX_ANNOTATIONS)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if annotation:
            notes.append(_note(document, annotation))
            raw.FPDFPage_CloseAnnot(annotation)
    return [note for note in notes if note]


def attached_files(path: Path) -> Iterator[Embedded]:
    """The attachments, each read when it is asked for."""
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    try:
        for index in range(min(document.count_attachments(), MAX_ATTACHMENTS)):
            attachment = document.get_attachment(index)
            yield Embedded(attachment.get_name() or f"attachment-{index + 1}", _chunks(attachment))
    finally:
        document.close()


def _chunks(attachment: Any) -> Iterator[bytes]:
    import pypdfium2

    try:
        data = memoryview(attachment.get_data())
    except pypdfium2.PdfiumError:  # pdfium says so of an empty file
        return
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(data[start : start + CHUNK_BYTES])


def _note(document: Any, annotation: Any) -> str:
    from pypdfium2 import raw

    kind = raw.FPDFAnnot_GetSubtype(annotation)
    if kind == raw.FPDF_ANNOT_WIDGET:
        return _field(document.formenv, annotation) if document.formenv else ""
    if kind in {raw.FPDF_ANNOT_POPUP, raw.FPDF_ANNOT_LINK}:  # a pop-up repeats its comment
        return ""
    return _string(lambda buffer, size: raw.FPDFAnnot_GetStringValue(annotation, b"Contents", buffer, size))


def _field(form: Any, annotation: Any) -> str:
    from pypdfium2 import raw

    def asked(function: Callable[..., int]) -> str:
        return _string(lambda buffer, size: function(form, annotation, buffer, size))

    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    value = asked(raw.FPDFAnnot_GetFormFieldValue)
    if kind in {FORM_CHECKBOX, FORM_RADIO} and not raw.FPDFAnnot_IsChecked(form, annotation):
        return ""
    if kind == FORM_BUTTON or value in UNCHECKED:
        return ""
    name = asked(raw.FPDFAnnot_GetFormFieldAlternateName) or asked(raw.FPDFAnnot_GetFormFieldName)
    return f"{name}: {value}" if name else value


def _string(ask: Callable[[Any, int], int]) -> str:
    """A UTF-16 string by pdfium's habit: asked for its size in bytes, then for itself."""
    size = ask(None, 0)
    if size <= 2:
        return ""
    buffer = ctypes.create_string_buffer(size)
    ask(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return buffer.raw.decode("utf-16-le", "replace").rstrip("\0").strip()
