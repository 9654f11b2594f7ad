#!/usr/bin/env python3
"""How much of the text is found, and at what price? Ours beside any other extractor, in one run on one machine.

    python bench/extraction/run.py FOLDER --only pdf,docx,pptx,html,text,tabular,epub,ipynb,email \\
        --also 'markitdown=/tmp/markitdown/bin/python bench/extraction/markitdown_folder.py {in} {out}'

FOLDER has one folder per family and an expected.jsonl: {"path": ..., "must_contain": [...]} a line; "must_not_contain" and
"kind" may be there too (facts of kind "asr" need a speech model and are not counted). A command gets a copy of the families'
files in {in} and writes JSON lines with "path" and "text" to {out}; a path with "!/" counts for the file before it.

forge runs twice, with and without OCR: markitdown and most others read no picture, so the second row is the like for like.
Each command runs --repeat times, in turn with the others; the table shows each one's fastest run. Facts are compared
without white space, case, width forms and Markdown marks, so that no tool is better for how it formats.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from measure import Taken, run

OURS = f"{shlex.quote(str(Path(sys.executable).with_name('forge')))} extract {{in}} --out {{out}}"
QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"'})
MARKS = re.compile(r"[\s|*_\\`#>~-]+")


@dataclass
class Score:
    """What one tool found: facts by family, what it missed, what it should not have shown, and its fastest run."""

    found: Counter[str] = field(default_factory=Counter)
    missed: list[tuple[str, str]] = field(default_factory=list)
    unwanted: list[tuple[str, str]] = field(default_factory=list)
    runs: list[Taken] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="families, separated by commas; all unless told")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=COMMAND", help="another extractor; repeat for more")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="FOLDER", help="read this corpus too, for its time; no facts")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="list the facts that were missed")
    options = parser.parse_args()
    commands = {"forge": OURS, "forge, no OCR": f"{OURS} --set prep.ocr=off", **dict(also.split("=", 1) for also in options.also)}
    facts = [fact for fact in read_facts(options.folder) if not options.only or family(fact) in options.only.split(",")]
    scores = {name: Score() for name in commands}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        size = copy_families(options.folder, work / "in", {family(fact) for fact in facts}, options.beside)
        for _ in range(options.repeat):
            for name, command in commands.items():
                out = work / f"{name}.jsonl"
                out.unlink(missing_ok=True)
                words = command.replace("{in}", shlex.quote(str(work / "in"))).replace("{out}", shlex.quote(str(out)))
                scores[name].runs.append(run(words, os.environ, Path.cwd(), work / f"{name}.log"))
        for name, score in scores.items():
            count_facts(facts, read_texts(work / f"{name}.jsonl", work / "in"), score)
    show(scores, facts, size, options.verbose)


def read_facts(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "expected.jsonl").read_text(encoding="utf-8").splitlines()
    return [fact for line in lines if (fact := json.loads(line)).get("kind") != "asr"]


def family(fact: dict[str, Any]) -> str:
    return str(fact["path"]).partition("/")[0]


def copy_families(source: Path, target: Path, families: set[str], beside: list[Path]) -> int:
    """Copy the folders of the families and the corpora beside them; returns all bytes. A tool could write beside what it reads."""
    for name in sorted(families):
        shutil.copytree(source / name, target / name, symlinks=True)
    for corpus in beside:
        shutil.copytree(corpus, target / f"beside-{corpus.name}", symlinks=True)
    return sum(path.stat().st_size for path in target.rglob("*") if path.is_file())


def read_texts(out: Path, root: Path) -> dict[str, str]:
    """All text for each file, with what was found inside it."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for line in out.read_bytes().splitlines() if out.exists() else ():   # text.splitlines() also cuts at U+2028
        row = json.loads(line.decode(errors="replace"))
        path = row["path"].partition("!/")[0]
        texts[path if not Path(path).is_absolute() else Path(path).relative_to(root).as_posix()].append(row.get("text") or "")
    return {path: plain("\n".join(parts)) for path, parts in texts.items()}


def plain(text: str) -> str:
    return MARKS.sub("", unicodedata.normalize("NFKC", text).translate(QUOTES)).casefold()


def count_facts(facts: list[dict[str, Any]], texts: dict[str, str], score: Score) -> None:
    for fact in facts:
        text = texts.get(fact["path"], "")
        for wanted in fact["must_contain"]:
            if plain(wanted) in text:
                score.found[family(fact)] += 1
            else:
                score.missed.append((fact["path"], wanted))
        score.unwanted += [(fact["path"], other) for other in fact.get("must_not_contain", ()) if plain(other) in text]


def show(scores: dict[str, Score], facts: list[dict[str, Any]], size: int, verbose: bool) -> None:
    total = sum(len(fact["must_contain"]) for fact in facts)
    print(f"{size / 1e6:.1f} MB, {total} facts in {len(facts)} files\n")
    print("| tool | facts | wall s | CPU s | peak MB | not wanted | exit |\n|---|---|---|---|---|---|---|")
    for name, score in scores.items():
        best = min(score.runs, key=lambda taken: taken.wall)
        peak = max(taken.peak for taken in score.runs)
        print(
            f"| {name} | {sum(score.found.values())} | {best.wall:.2f} | {min(one.cpu for one in score.runs):.2f} "
            f"| {peak / 1e6:.0f} | {len(score.unwanted)} | {best.code} |"
        )
    print("\n| family | facts | " + " | ".join(scores) + " |\n|---|---|" + "---|" * len(scores))
    for name in sorted({family(fact) for fact in facts}):
        wanted = sum(len(fact["must_contain"]) for fact in facts if family(fact) == name)
        print(f"| {name} | {wanted} | " + " | ".join(str(score.found[name]) for score in scores.values()) + " |")
    for name, score in scores.items() if verbose else ():
        for path, missed in score.missed:
            print(f"{name} missed {path}: {missed}")


if __name__ == "__main__":
    main()
