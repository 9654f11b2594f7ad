#!/usr/bin/env python3
"""One method of bench/dedup/run.py in a process of its own:  methods.py METHOD IN OUT THRESHOLD; prints its peak memory in kB."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def ours(source: Path, out: Path, threshold: float) -> None:
    """What `forge dedup` runs."""
    from forge.phases.audit.tool import dedup

    dedup(source, out, threshold=threshold, on_progress=lambda read: None)


def datasketch_engine(source: Path, out: Path, threshold: float) -> None:
    """audit.dedup_engine=datasketch: datasketch proposes, the exact check decides."""
    from forge.phases.audit.datasketch_engine import find_near_duplicates

    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    matches = find_near_duplicates((json.loads(line)["text"] for line in lines), threshold)
    out.write_text(
        "".join(line for line, match in zip(lines, matches, strict=True) if match.duplicate_of is None),
        encoding="utf-8",
    )


def datasketch_update(source: Path, out: Path, threshold: float) -> None:
    """datasketch as its README shows it: update() for each shingle, 128 permutations."""
    from datasketch import MinHash

    def sketches(texts: list[str]) -> Iterator[MinHash]:
        for text in texts:
            sketch = MinHash(num_perm=128)
            for shingle in shingles(text):
                sketch.update(shingle)
            yield sketch

    _keep_first(source, out, threshold, sketches)


def datasketch_bulk(source: Path, out: Path, threshold: float) -> None:
    """datasketch at its fastest with the default hash: MinHash.generator, 128 permutations."""
    from datasketch import MinHash

    _keep_first(source, out, threshold, lambda texts: MinHash.generator(map(shingles, texts), num_perm=128))


def shingles(text: str) -> list[bytes]:
    found = re.findall(r"\w+", text.lower())
    return [shingle.encode() for shingle in {" ".join(found[i : i + 5]) for i in range(max(1, len(found) - 4))}]


def _keep_first(source: Path, out: Path, threshold: float, sketches: Callable[[list[str]], Iterator[object]]) -> None:
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=128)
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    with out.open("w", encoding="utf-8") as file:
        for number, sketch in enumerate(sketches([json.loads(line)["text"] for line in lines])):
            if not index.query(sketch):
                index.insert(number, sketch, check_duplication=False)
                file.write(lines[number])


def peak_kilobytes() -> int:
    """Peak memory of this process. Not ru_maxrss: that starts at what the parent used when it forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0])


METHODS = {"ours": ours, "update": datasketch_update, "bulk": datasketch_bulk, "engine": datasketch_engine}

if __name__ == "__main__":
    METHODS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
    print(peak_kilobytes())
