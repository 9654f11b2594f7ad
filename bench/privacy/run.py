#!/usr/bin/env python3
"""How much of what is private is found, how much else is hit, and how fast?

    python bench/privacy/run.py FOLDER... [--megabytes 60] [--show]

FOLDERs hold clean text (.md .txt .rst .html .py .pod .json .csv .xml, man pages, .gz of these), such as /usr/share/doc.
Recall is measured on made-up items with right check digits (tests/planted.py), in the words they come in, with a seed
that no test uses. On clean text, mail and machine addresses are hits by their form (--show lists them too); everything
else that is hit is counted as false until somebody has looked at it: --show prints each with what is around it.
CPU seconds are those of the search alone; the rules are read once before (about 50 ms).
"""

from __future__ import annotations

import argparse
import gzip
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge import private
from tests.planted import PERSONAL, SECRETS, plant

SUFFIXES = {".md", ".txt", ".rst", ".html", ".py", ".pod", ".json", ".csv", ".xml", ".1", ".2", ".3", ".5", ".7", ".8", ""}
BY_FORM = {"email", "ip_address"}
ITEMS_OF_EACH, SEED = 2000, 2027


def main() -> None:
    """Print the three numbers, and with --show what they are made of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    measure_recall()
    measure_clean(options.folders, options.megabytes, show=options.show)


def measure_recall() -> None:
    """Recall by kind; nothing counts as found while any part of the value is left."""
    for title, table in (("secrets", SECRETS), ("personal", PERSONAL)):
        planted, found = Counter[str](), Counter[str]()
        for item in plant(table, ITEMS_OF_EACH, SEED):
            planted[item.kind] += 1
            masked = private.mask(item.line)[0]
            found[item.kind] += not any(part in masked for part in item.parts)
        print(f"{title}: recall {found.total() / planted.total():.4f} of {planted.total():,} in {len(planted)} kinds")
        for kind in planted:
            if found[kind] < planted[kind]:
                print(f"  {kind}: {found[kind]} of {planted[kind]}")


def measure_clean(folders: list[Path], megabytes: float, *, show: bool) -> None:
    """Hits on clean text by kind, and the speed."""
    read, seconds, hits = 0, 0.0, Counter[str]()
    share = megabytes / len(folders)
    for folder in folders:
        size = 0
        for path, text in texts(folder):
            if size >= share * 1e6:
                break
            began = time.process_time()
            found = private.find(text)
            seconds += time.process_time() - began
            size += len(text.encode("utf-8"))
            for hit in found:
                hits[hit.kind] += 1
                if show:
                    around = f"{text[max(0, hit.start - 50) : hit.start]}>>>{text[hit.start : hit.end][:80]}<<<{text[hit.end : hit.end + 20]}"
                    print(f"  {hit.kind} | {path.name} | {' '.join(around.split())}")
        print(f"{folder}: {size / 1e6:.1f} MB")
        read += size
    others = sum(count for kind, count in hits.items() if kind not in BY_FORM)
    print(f"clean text: {read / 1e6:.1f} MB; hits {dict(sorted(hits.items()))}")
    print(f"hits other than addresses: {others}, {others / (read / 1e7):.2f} for each 10 MB")
    print(f"speed: {read / 1e6 / seconds:.1f} MB for each CPU second")


def texts(folder: Path) -> Iterator[tuple[Path, str]]:
    """The UTF-8 texts below a folder, in the order of their names."""
    for path in sorted(folder.rglob("*")):
        name = path.with_suffix("") if path.suffix == ".gz" else path
        if path.is_symlink() or not path.is_file() or name.suffix not in SUFFIXES:
            continue
        data = path.read_bytes()
        try:
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
        except (UnicodeDecodeError, OSError, EOFError):
            continue
        if not re.search("\x00", text):
            yield path, text


if __name__ == "__main__":
    main()
