"""Real files with bytes flipped, cut off and spliced, through all of prep: each ends with a status, and nothing else happens.

    FORGE_MUTATIONS=2000 FORGE_FUZZ_CORPUS=FOLDER pytest tests/test_phases/test_prep_mutations.py     the long form
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from forge.phases.prep import PrepSettings, phase
from forge.records import Document, Passage, read_jsonl
from forge.testing import run_phase
from tests import corpus
from tests.corpus import archives
from tests.hostile import harmless

ROOT = Path(__file__).resolve().parents[2]
SEED = 20261121
BATCH = 100
MAX_BYTES = 400_000
"""Of a real file that is mutated: larger ones only take longer."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def originals(folder: Path) -> dict[str, bytes]:
    """Small real files of every family by name: made here, the example corpus, samples of other tests, FORGE_FUZZ_CORPUS."""
    made = {f"made{number}{ending}": as_bytes(build(harmless.text(number))) for number, (ending, build) in enumerate(harmless.KINDS)}
    made |= {name: build(folder / name) for name, build in BUILDERS.items()}
    places = [ROOT / "examples/handbook", ROOT / "tests"]
    places += [Path(extra)] if (extra := FUZZ_CORPUS) else []
    for place in places:
        for path in sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.suffix not in (".py", ".pyc") and path.stat().st_size <= MAX_BYTES:
                made["_".join(path.relative_to(place).parts)] = path.read_bytes()
    return {name: content for name, content in sorted(made.items()) if content}


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


TEXT = harmless.text(0).encode()


def written(write: Callable[[Path], object]) -> Callable[[Path], bytes]:
    """What `write` writes to a path."""

    def build(path: Path) -> bytes:
        write(path)
        return path.read_bytes()

    return build


def _sqlite(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE harbour(name TEXT, note TEXT)")
        database.executemany("INSERT INTO harbour VALUES(?, ?)", [(harmless.marker(number), harmless.text(number)) for number in range(40)])
    database.close()


def _wave(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))


def _picture(path: Path) -> None:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(picture).text((10, 20), "Vessel lies at the quay", fill="black")
    picture.save(path)


def _h5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["boats/length"] = list(range(20))
        file["boats/length"].attrs["unit"] = "metres over all"


def _tiff(path: Path) -> None:
    import numpy
    import tifffile

    tifffile.imwrite(path, numpy.zeros((8, 8), "uint8"), description="soundings of the harbour basin")


def _xls(path: Path) -> None:
    import xlwt

    book = xlwt.Workbook()
    sheet = book.add_sheet("boats")
    for row in range(20):
        sheet.write(row, 0, harmless.marker(row))
        sheet.write(row, 1, row)
    book.save(str(path))


def _parquet(path: Path) -> None:
    from pyarrow import parquet, table

    parquet.write_table(table({"name": [harmless.marker(row) for row in range(50)], "note": [harmless.text(row) for row in range(50)]}), path)


def _shapes(path: Path) -> None:
    import shapefile

    with shapefile.Writer(str(path), shapeType=shapefile.POINT) as writer:
        writer.field("NAME", "C", size=40)
        for row in range(5):
            writer.point(row, row)
            writer.record(harmless.marker(row))


BUILDERS: Mapping[str, Callable[[Path], bytes]] = {
    "boats.sqlite": written(_sqlite), "sound.wav": written(_wave), "sign.png": written(_picture), "sign.jpg": written(_picture), "sign.gif": written(_picture),
    "boats.h5": written(_h5), "basin.tif": written(_tiff), "boats.xls": written(_xls), "boats.parquet": written(_parquet), "boats.shp": written(_shapes),
    "solid.rar": lambda path: archives.rar({"a.txt": TEXT, "b.txt": TEXT * 2}, packed=True, solid=True), "stored.rar": lambda path: archives.rar({"a.txt": TEXT}),
    "plain.tar": lambda path: archives.tar({"a.txt": TEXT, "b/c.md": TEXT}), "t.tar.xz": lambda path: archives.tar({"a.txt": TEXT}, mode="w:xz"),
    "t.tar.bz2": lambda path: archives.tar({"a.txt": TEXT}, mode="w:bz2"), "locked.7z": lambda path: archives.seven_zip(path, {"a.txt": TEXT}, password="x"),
    "nested.zip": lambda path: corpus.packed({"in.zip": corpus.packed({"a.docx": corpus.docx(corpus.paragraph(TEXT.decode()))}), "b.eml": harmless.mail(TEXT.decode())}),
    "cube.stl": lambda path: b"solid cube\n" + b"facet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendloop\nendfacet\n" * 12 + b"endsolid cube\n",
    "place.geojson": lambda path: b'{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"name":"quay"},"geometry":{"type":"Point","coordinates":[1,2]}}]}',
    "drawing.svg": lambda path: b'<svg xmlns="http://www.w3.org/2000/svg"><title>Harbour</title><text>' + TEXT + b"</text></svg>",
    "letter.rtf": lambda path: b"{\\rtf1\\ansi{\\fonttbl\\f0 Arial;}\\f0 " + TEXT + b"\\par}", "book.xml": lambda path: b"<?xml version='1.0'?><book><p>" + TEXT + b"</p></book>",
    "box.mbox": lambda path: b"From a@example.org Mon Jan  1 10:00:00 2024\n" + harmless.mail(TEXT.decode()).encode() + b"\n",
    "program.py": lambda path: b'"""Moors a boat."""\n\n\ndef moor(boat: str) -> str:\n    """The line that holds it."""\n    return boat + " is moored"\n',
}  # fmt: skip


def mutated(content: bytes, other: bytes, luck: random.Random) -> tuple[str, bytes]:
    """One to four mutations, with their names."""
    names, data = [], bytearray(content)
    for _ in range(luck.choice((1, 1, 1, 2, 2, 4))):
        name, mutate = luck.choice(MUTATIONS)
        mutate(data, other, luck)
        names.append(name)
    return "+".join(names), bytes(data)


def _flip(data: bytearray, other: bytes, luck: random.Random) -> None:
    for _ in range(luck.choice((1, 1, 4, 32))):
        if data:
            data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)


def _flip_head(data: bytearray, other: bytes, luck: random.Random) -> None:
    if data:
        data[luck.randrange(min(len(data), 512))] = luck.randrange(256)


def _truncate(data: bytearray, other: bytes, luck: random.Random) -> None:
    del data[luck.randrange(len(data) + 1) :]


def _splice(data: bytearray, other: bytes, luck: random.Random) -> None:
    at, start = luck.randrange(len(data) + 1), luck.randrange(len(other) + 1)
    data[at:at] = other[start : start + luck.randrange(1, 5000)]


def _overwrite(data: bytearray, other: bytes, luck: random.Random) -> None:
    at = luck.randrange(len(data) + 1)
    size = min(len(data) - at, luck.choice((1, 2, 4, 8, 64, 512)))
    data[at : at + size] = luck.choice((b"\0", b"\xff", b"\x7f", b"\x80", b"<", b'"')) * size


def _remove(data: bytearray, other: bytes, luck: random.Random) -> None:
    at = luck.randrange(len(data) + 1)
    del data[at : at + luck.choice((1, 2, 16, 300, 4000))]


def _repeat(data: bytearray, other: bytes, luck: random.Random) -> None:
    at = luck.randrange(len(data) + 1)
    data[at:at] = data[at : at + luck.choice((1, 16, 1000))] * luck.choice((1, 2, 50))


MUTATIONS: tuple[tuple[str, Callable[[bytearray, bytes, random.Random], None]], ...] = (
    ("flip", _flip), ("head", _flip_head), ("truncate", _truncate), ("splice", _splice), ("overwrite", _overwrite), ("remove", _remove), ("repeat", _repeat),
)  # fmt: skip


def batches(files: Mapping[str, bytes], count: int) -> Iterator[dict[str, bytes]]:
    """`count` mutated files, the originals in turn, by a name that tells how each was made."""
    names, batch = list(files), dict[str, bytes]()
    for number in range(count):
        luck = random.Random(f"{SEED}:{number}")
        name = names[number % len(names)]
        how, content = mutated(files[name], files[luck.choice(names)], luck)
        batch[f"{number:05d}-{how}-{name}"] = content
        if len(batch) == BATCH or number == count - 1:
            yield batch
            batch = {}


MUTANTS = int(os.environ.get("FORGE_MUTATIONS", "300"))
FUZZ_CORPUS = os.environ.get("FORGE_FUZZ_CORPUS", "")
"""Read here: no test sees the caller's FORGE_ variables."""


def test_mutated_files_end_with_a_status_and_touch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    outside = {name: tmp_path / "outside" / name for name in ("home", "tmp", "cwd")}
    for folder in outside.values():
        folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(outside["home"]))
    monkeypatch.setenv("TMPDIR", str(outside["tmp"]))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "originals").mkdir()
    files = originals(tmp_path / "originals")
    monkeypatch.chdir(outside["cwd"])
    counts: Counter[str] = Counter()
    for number, batch in enumerate(batches(files, MUTANTS)):
        ends = read(batch, tmp_path / str(number))
        assert sorted(ends) == sorted(batch)
        assert [name for name, one in ends.items() if one.status != "ok" and not one.reason] == []
        assert [(name, one.reason) for name, one in ends.items() if str(tmp_path) in one.reason] == []
        counts.update(one.status for one in ends.values())
        assert [path for folder in outside.values() for path in folder.rglob("*")] == [], batch.keys()
    record_property("measured", f"{MUTANTS:,} mutants of {len(files)} files: {dict(counts)}")
    assert counts.total() == MUTANTS
    assert len(counts) > 1
    assert children() == []


def read(batch: Mapping[str, bytes], place: Path) -> dict[str, Document]:
    """How each file ended, those inside it left out. The passages are read back too."""
    folder = place / "corpus"
    folder.mkdir(parents=True)
    for name, content in batch.items():
        (folder / name).write_bytes(content)
    (folder / "good.md").write_text(harmless.text(9999), encoding="utf-8")
    settings = PrepSettings(allowed_failed_share=1.0, seconds_per_file=20, memory_mib=1024)
    run = run_phase(phase, place / "run", corpus=folder, settings=settings)
    passages = list(read_jsonl(run.out / "passages.jsonl", Passage))
    assert any(harmless.marker(9999) in passage.text for passage in passages)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "good.md"} == batch
    documents = list(read_jsonl(run.out / "documents.jsonl", Document))
    return {one.source.path: one for one in documents if "!/" not in one.source.path and one.source.path != "good.md"}


def children() -> list[int]:
    import psutil

    return [one.pid for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]


def test_the_same_mutants_are_made_every_time() -> None:
    script = (
        "from tests.test_phases.test_prep_mutations import batches\nimport hashlib\n"
        "print(hashlib.sha256(repr(list(batches({'a': b'x' * 900, 'b': b'y' * 500}, 150))).encode()).hexdigest())"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    )
    assert first == second
