#!/usr/bin/env python3
"""How fast and how right is near-duplicate removal? Ours beside datasketch, against the exact answer.

    python bench/dedup/run.py FOLDER [--n 20000] [--threshold 0.85] [--work DIR]

FOLDER holds text (.txt .md .rst .html .gz of these), such as /usr/share/doc after `apt-get install linux-doc rust-doc`.
Its words are cut into passages of 45 to 350; 12 % of the passages are copies of others with a few words exchanged or added,
at similarities on both sides of the threshold. The exact answer is an all-pairs join on sets of shingles, without hashing tricks.

recall     true pairs of which at least one side was dropped
precision  dropped passages that have a kept partner at or above the threshold
CPU time   of a whole process: interpreter start, reading, parsing, deduplication, writing
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

WORDS_PER_SHINGLE = 5
COPIES_SHARE = 0.12
SUFFIXES = {".txt", ".md", ".rst", ".html"}

METHODS = {
    "forge (exact, default)": "ours",
    "datasketch update(), defaults": "update",
    "datasketch bulk, defaults": "bulk",
    "forge datasketch engine": "engine",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=20_000, help="passages")
    parser.add_argument("--threshold", type=float, default=0.85)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", type=Path, help="keep the corpus here instead of in a temporary folder")
    parser.add_argument("--skip-slow", action="store_true", help="leave out datasketch's update()")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        corpus = work / "passages.jsonl"
        count = write_corpus(options.folder, corpus, options.n, random.Random(options.seed))
        pairs = exact_pairs(corpus, options.threshold)
        print(f"{count:,} passages, {len(pairs):,} pairs at a Jaccard similarity of {options.threshold} or more\n")
        print(
            "| method | CPU s | passages / CPU s | peak MB | dropped | recall | precision |\n|---|---|---|---|---|---|---|"
        )
        for label, method in METHODS.items():
            if not (options.skip_slow and method == "update"):
                print(
                    measure(label, method, corpus, work / "kept.jsonl", count, pairs, options.threshold), flush=True
                )


def measure(
    label: str, method: str, corpus: Path, out: Path, count: int, pairs: list[tuple[str, str]], threshold: float
) -> str:
    """One table row: `method` run in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = Path(__file__).with_name("methods.py")
    done = subprocess.run(
        [sys.executable, str(script), method, str(corpus), str(out), str(threshold)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    ids, kept = read_ids(corpus), read_ids(out)
    dropped = ids - kept
    caught = sum(one not in kept or two not in kept for one, two in pairs)
    justified = {one for pair in pairs for one, two in (pair, pair[::-1]) if one in dropped and two in kept}
    recall, precision = caught / max(1, len(pairs)), len(justified) / max(1, len(dropped))
    return (
        f"| {label} | {seconds:.1f} | {count / seconds:,.0f} | {int(done.stdout) / 1000:.0f} | {len(dropped):,} "
        f"| {recall:.4f} | {precision:.4f} |"
    )


def read_ids(file: Path) -> set[str]:
    with file.open(encoding="utf-8") as lines:
        return {json.loads(line)["id"] for line in lines}


# --- the corpus ------------------------------------------------------------------------------------------------


def write_corpus(folder: Path, out: Path, n: int, rng: random.Random) -> int:
    """Passages in random order, each planted copy somewhere after its original."""
    wanted = int(n * (1 - COPIES_SHARE))
    originals = []
    for passage in passages(folder, rng):
        originals.append(passage)
        if len(originals) == wanted:
            break
    if len(originals) < 100:
        sys.exit(f"{folder} holds too little text")
    vocabulary = sorted(
        {word for text in originals[:4000] for word in text.split() if word.isalpha() and len(word) > 3}
    )
    placed = [(float(at), text) for at, text in enumerate(originals)]
    for at in rng.sample(range(len(originals)), int(len(originals) * COPIES_SHARE / (1 - COPIES_SHARE))):
        copy = altered(originals[at], rng, vocabulary)
        placed.append((at + rng.random() * (len(originals) - at), copy))
    placed.sort()
    with out.open("w", encoding="utf-8") as file:
        for number, (_, text) in enumerate(placed):
            file.write(json.dumps({"id": f"p{number:07d}", "text": text}) + "\n")
    return len(placed)


def passages(folder: Path, rng: random.Random) -> Iterator[str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and is_text(path))
    rng.shuffle(files)
    seen = set()
    for file in files:
        found = text_of(file).split()
        while len(found) >= 45:
            length = min(350, max(45, int(rng.lognormvariate(4.75, 0.5))))
            passage = " ".join(found[:length])
            found = found[length:]
            if passage.lower() not in seen and sum(c.isalpha() or c == " " for c in passage) > 0.8 * len(passage):
                seen.add(passage.lower())
                yield passage


def is_text(path: Path) -> bool:
    return (path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix) in SUFFIXES


def text_of(path: Path) -> str:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", "ignore")
    if ".html" in path.suffixes:
        text = html.unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL))
    return text


def altered(text: str, rng: random.Random, vocabulary: list[str]) -> str:
    """A copy: the same words in another case, with words added at one end, or with some exchanged (J about .5 to .97)."""
    found = text.split()
    kind = rng.randrange(10)
    if kind == 0:
        return text.upper()
    if kind == 1:
        added = [rng.choice(vocabulary) for _ in range(max(3, int(len(found) * rng.uniform(0.02, 0.15))))]
        return " ".join(added + found if rng.random() < 0.5 else found + added)
    target = rng.choice((0.5, 0.7, 0.8, 0.83, 0.85, 0.87, 0.9, 0.95))
    exchanged = max(1, round(len(found) * (1 - target) / (1 + target) / WORDS_PER_SHINGLE))
    for at in rng.sample(range(len(found)), exchanged):
        found[at] = rng.choice(vocabulary)
    return " ".join(found)


# --- the exact answer ------------------------------------------------------------------------------------------


def exact_pairs(corpus: Path, threshold: float) -> list[tuple[str, str]]:
    """All pairs with Jaccard >= threshold. Two sets that similar share one of their (1-t)n+1 rarest shingles (prefix filter)."""
    ids, sets, frequency = [], [], Counter[str]()
    with corpus.open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            found = re.findall(r"\w+", record["text"].lower())
            n = max(1, len(found) - WORDS_PER_SHINGLE + 1)
            shingles = {sys.intern(" ".join(found[i : i + WORDS_PER_SHINGLE])) for i in range(n)}
            ids.append(record["id"])
            sets.append(shingles)
            frequency.update(shingles)
    index: defaultdict[str, list[int]] = defaultdict(list)
    pairs = []
    for one, shingles in enumerate(sets):
        rarest = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
        prefix = [s for s in rarest[: int((1 - threshold) * len(rarest)) + 2] if frequency[s] > 1]
        for two in {other for shingle in prefix for other in index[shingle]}:
            shared = len(shingles & sets[two])
            if shared / (len(shingles) + len(sets[two]) - shared) >= threshold:
                pairs.append((ids[two], ids[one]))
        for shingle in prefix:
            index[shingle].append(one)
    return pairs


if __name__ == "__main__":
    main()
