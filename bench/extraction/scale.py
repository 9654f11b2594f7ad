#!/usr/bin/env python3
"""Does memory stay flat, and is an unchanged file left alone?  python bench/extraction/scale.py [--sizes 1000,10000]

Writes that many small original documents (Markdown, HTML, .docx, PDF, CSV; the same ones every time), then runs
`forge run CORPUS --until prep --new` over them three times: as they are, again, and with one file changed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from measure import Taken, run  # noqa: E402

from tests import corpus  # noqa: E402

FILES_PER_FOLDER = 500
WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000", help="numbers of documents")
    parser.add_argument("--work", type=Path, help="keep corpora and runs here instead of in a temporary folder")
    options = parser.parse_args()
    print("| documents | run | wall s | CPU s | prep s | peak MB | files read | from cache |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for size in map(int, options.sizes.split(",")):
            measure(size, work)


def measure(size: int, work: Path) -> None:
    """Print the three rows of one size."""
    folder, home = work / f"corpus-{size}", work / f"home-{size}"
    write_corpus(folder, size)
    walls = []
    for label in ("first", "again", "one changed"):
        if label == "one changed":
            (folder / "0000" / "00000.md").write_text(f"# Changed\n\n{prose(random.Random(-1), 200)}\n", encoding="utf-8")
        taken, done = forge_prep(folder, home, work)
        walls.append(taken.wall)
        numbers = done["metrics"]
        print(
            f"| {size:,} | {label} | {taken.wall:.2f} | {taken.cpu:.2f} | {done['seconds']:.2f} | {taken.peak / 1e6:.0f} "
            f"| {numbers['files_read']:,} | {numbers['from_cache']:,} |", flush=True,
        )
    print(f"| | first / again: {walls[0] / walls[1]:.1f} | | | | | | |", flush=True)


def forge_prep(folder: Path, home: Path, work: Path) -> tuple[Taken, dict[str, Any]]:
    """One new run up to prep: what the command took, and prep's own event."""
    command = [sys.executable, "-m", "forge", "run", str(folder), "--until", "prep", "--new", "--budget", "1", "--quiet"]
    taken = run(command, {**os.environ, "FORGE_HOME": str(home)}, work, work / "log")
    if taken.code:
        sys.exit((work / "log").read_text(encoding="utf-8"))
    newest = max((home / "runs").iterdir(), key=lambda path: (path / "run.json").stat().st_mtime_ns)
    events = [json.loads(line) for line in (newest / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return taken, next(event for event in events if event["event"] == "phase_done" and event["phase"] == "prep")


def write_corpus(folder: Path, size: int) -> None:
    """`size` documents of 200 to 1,500 words, none like another; times in the past, as those of real files are."""
    for number in range(size):
        chance = random.Random(number)
        writer = WRITERS[number % len(WRITERS)]
        extension, content = writer(number, chance)
        path = folder / f"{number // FILES_PER_FOLDER:04d}" / f"{number:05d}{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (1.7e9, 1.7e9))


def prose(chance: random.Random, words: int) -> str:
    """Sentences of 8 to 20 words."""
    found: list[str] = []
    while len(found) < words:
        sentence = chance.choices(WORDS, k=chance.randint(8, 20))
        found += [sentence[0].capitalize(), *sentence[1:-1], sentence[-1] + "."]
    return " ".join(found)


def markdown(number: int, chance: random.Random) -> tuple[str, bytes]:
    parts = [f"## Part {part}\n\n{prose(chance, chance.randint(80, 300))}\n" for part in range(chance.randint(2, 5))]
    return ".md", f"# Note {number}\n\n{chr(10).join(parts)}".encode()


def html(number: int, chance: random.Random) -> tuple[str, bytes]:
    menu = "<nav><ul>" + "".join(f"<li><a href='/{name}'>{name}</a></li>" for name in ("home", "news", "contact")) + "</ul></nav>"
    parts = "".join(f"<h2>Part {part}</h2><p>{prose(chance, chance.randint(80, 300))}</p>" for part in range(chance.randint(2, 5)))
    return ".html", f"<!doctype html><html><body>{menu}<main><h1>Page {number}</h1>{parts}</main></body></html>".encode()


def docx(number: int, chance: random.Random) -> tuple[str, bytes]:
    return ".docx", corpus.docx("".join(corpus.paragraph(f"{number} {prose(chance, chance.randint(60, 200))}") for _ in range(6)))


def pdf(number: int, chance: random.Random) -> tuple[str, bytes]:
    pages = []
    for page in range(chance.randint(1, 4)):
        words = f"{number} {page} {prose(chance, 300)}".split()
        pages.append(corpus.lines([" ".join(words[start : start + 10]) for start in range(0, len(words), 10)]))
    return ".pdf", corpus.pdf(pages)


def table(number: int, chance: random.Random) -> tuple[str, bytes]:
    rows = [f"{number}-{row},{chance.choice(WORDS)},{chance.randint(1, 10**6)},{prose(chance, 8)}" for row in range(chance.randint(20, 80))]
    return ".csv", ("id,word,count,remark\n" + "\n".join(rows) + "\n").encode()


WRITERS = (markdown, html, docx, pdf, table)

if __name__ == "__main__":
    main()
