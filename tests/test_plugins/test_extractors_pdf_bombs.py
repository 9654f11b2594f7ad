"""PDF streams are measured before pdfium inflates them."""

from __future__ import annotations

import zlib

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.pdf import bombs
from forge.plugins.extractors.pdf.bombs import refuse_bombs


def stream(content: bytes, *, layers: int = 1, kind: str = "") -> bytes:
    for _ in range(layers):
        content = zlib.compress(content, 9)
    filters = " ".join(["/FlateDecode"] * layers)
    return f"1 0 obj\n<< {kind} /Length {len(content)} /Filter [{filters}] >>\nstream\n".encode() + content + b"\nendstream\nendobj\n"


def test_a_stream_that_inflates_past_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "MAX_STREAM_BYTES", 1 << 20)
    for layers in (1, 2, 3):
        with pytest.raises(ExtractError, match="unpacks to") as raised:
            refuse_bombs(b"%PDF-1.4\n" + stream(b"BT ET") + stream(b" " * (2 << 20), layers=layers))
        assert raised.value.refused


def test_streams_below_the_limit_pictures_and_damaged_ones_are_left_to_pdfium(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bombs, "MAX_STREAM_BYTES", 1 << 20)
    refuse_bombs(stream(b" " * 900_000, layers=2))
    refuse_bombs(stream(b" " * (2 << 20), layers=2, kind="/Subtype /Image"))
    refuse_bombs(stream(b" " * (2 << 20), layers=2).replace(b"\x78\xda", b"\xff\xff"))
    refuse_bombs(b"1 0 obj << /Filter /FlateDecode >> stream\n" + b"x" * 5000)
    refuse_bombs(b"")
