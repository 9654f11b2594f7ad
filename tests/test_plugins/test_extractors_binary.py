"""Files that nobody else reads are described in one piece of metadata, and pickles are never opened."""

from __future__ import annotations

import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from forge.errors import ExtractError
from forge.plugins.extractors.binary import PICKLE, TORCH, UNKNOWN, extractor
from forge.protocols import Reading
from forge.records import Piece


def read(path: Path, media_type: str = UNKNOWN) -> list[Piece]:
    return list(extractor.extract(path, Reading(media_type)))


def test_an_unknown_file_gives_size_kind_and_strings_as_metadata(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x7fELF\x02\x01" + bytes(50) + b"/lib/ld-example.so.2\0short\0" + bytes(20))
    (piece,) = read(tmp_path / "a.bin")
    assert piece.kind == "metadata"
    for fact in ("ELF program", "Size: 103 bytes", "First bytes: 7f 45 4c 46", "String: /lib/ld-example.so.2"):
        assert fact in piece.text
    assert "short" not in piece.text


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (random.Random(1).randbytes(20_000), "unknown, compressed or encrypted"),
        (bytes(40), "unknown"),
        (bytes(32769) + b"CD001", "CD image"),
        (b"GGUF\3\0\0\0", "GGUF model"),
        (pickle.dumps({"a": 1}), "perhaps a Python pickle"),
    ],
)
def test_first_bytes_and_entropy_tell_the_kind(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a").write_bytes(data)
    assert read(tmp_path / "a")[0].text.splitlines()[0] == f"Binary file: {kind}"


def test_what_the_router_knows_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x01\x02 new")
    assert "application/x-new" in read(tmp_path / "a", "application/x-new")[0].text


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.path)!r}, 'w')",))


def test_pickles_and_pytorch_models_are_named_and_never_opened(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for protocol in (0, 2, 5):
        data = pickle.dumps(Trap(sprung), protocol)
        (tmp_path / "a.pkl").write_bytes(data)
        assert extractor.accepts(data, "m/a.pkl") == PICKLE
        about, loss = read(tmp_path / "a.pkl", PICKLE)
        assert "Python pickle" in about.text
        assert "runs code" in loss.dropped
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Trap(sprung)))
    assert extractor.accepts((tmp_path / "m.pt").read_bytes(), "m.pt") == TORCH
    assert "PyTorch" in read(tmp_path / "m.pt", TORCH)[0].text
    assert not sprung.exists()


def test_text_that_is_called_pickle_stays_text() -> None:
    assert extractor.accepts(b"How to pickle gherkins", "a.pkl") == ""
    assert extractor.accepts(b"", "a.pkl") == ""
    assert extractor.accepts(b"PK\x03\x04", "a.zip") == ""


def test_a_large_file_takes_little_memory_and_an_empty_one_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 32)
    tracemalloc.start()
    assert "4,294,967,296 bytes" in read(tmp_path / "large")[0].text
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ExtractError):
        read(tmp_path / "empty")
