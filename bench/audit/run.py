#!/usr/bin/env python3
"""What audit costs, in one process and in shards, and what datatrove's rules cost on the same passages.

    python bench/audit/run.py FOLDER [--documents 20000] [--shards 0 2 4] [--workers 2] [--datatrove PYTHON] [--work DIR]

FOLDER holds text (.txt .md .rst .html .gz of these, copyright). A document is one to four stretches of its paragraphs, in which every
sixth word is exchanged; one in sixteen is a copy of another, half of its passages with a word changed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PEER = Path(__file__).with_name("peer.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--shards", type=int, nargs="*", default=[0, 2, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--datatrove", help="a Python that has it")
    parser.add_argument("--work", type=Path, help="keep corpus and outputs here instead of in a temporary folder")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        return audit(options.folder, options.one, options.workers)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        count, characters = write_corpus(options.folder, work, options.documents)
        print(f"{options.documents:,} documents, {count:,} passages, {characters / 1e6:.1f} million characters\n")
        print("| shards | CPU s of the engine | CPU s of the shards | wall s | peak MB of the engine | outputs |\n|---|---|---|---|---|---|")
        outputs = {measure(work, shards, options.workers) for shards in options.shards}
        if options.datatrove:
            compare(work, options.datatrove)
    sys.exit("the outputs differ" if len(outputs) > 1 else 0)


def measure(work: Path, shards: int, workers: int) -> str:
    """One row of the table; returns the hash of the outputs."""
    done = subprocess.run([sys.executable, __file__, str(work), "--one", str(shards), "--workers", str(workers)], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    print(f"| {shards or 'none'} | {found['engine']:.1f} | {found['shards']:.1f} | {found['wall']:.1f} | {found['peak']:.0f} | {found['outputs'][:12]} |", flush=True)
    return str(found["outputs"])


def audit(work: Path, shards: int, workers: int) -> None:
    """Audit the corpus in this process; prints what it took."""
    from forge.phases.audit import phase
    from forge.testing import run_phase

    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        run = run_phase(phase, Path(folder), inputs={name: work / f"{name}.jsonl" for name in ("documents", "passages")}, shards=shards, workers=workers)
        outputs = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(run.out.iterdir()))).hexdigest()
    engine, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))[0]
    print(json.dumps({
        "engine": engine.ru_utime + engine.ru_stime, "shards": others.ru_utime + others.ru_stime, "wall": time.monotonic() - began,
        "peak": int(peak) / 1000, "outputs": outputs,
    }))  # fmt: skip


def compare(work: Path, python: str) -> None:
    """Microseconds of CPU time that each rule takes for a passage, ours and theirs. Rules that look for the same stand beside each other."""
    from forge import private
    from forge.phases.audit.prose import prose_of
    from forge.phases.audit.quality import hard_signal, soft_signals

    texts = [json.loads(line)["text"] for line in (work / "passages.jsonl").open(encoding="utf-8")]
    ours = {
        "quality rules": per_text(lambda text: (hard_signal(text), soft_signals(text, prose_of(text))), texts),
        "private data": per_text(private.find, texts),
    }
    told = subprocess.run([python, str(PEER), str(work / "passages.jsonl")], check=True, stdout=subprocess.PIPE, text=True).stdout
    theirs = json.loads(told.splitlines()[-1])
    print(f"\n| per passage | forge | datatrove {theirs['version']} |\n|---|---|---|")
    for name, microseconds in ours.items():
        print(f"| {name}: {theirs['rules'][name]['what']} | {microseconds:,.0f} us | {theirs['rules'][name]['microseconds']:,.0f} us |")


def per_text(rule: Callable[[str], object], texts: list[str]) -> float:
    rule(texts[0])
    began = time.process_time()
    for text in texts:
        rule(text)
    return (time.process_time() - began) / len(texts) * 1e6


# --- the corpus ------------------------------------------------------------------------------------------------


def write_corpus(folder: Path, out: Path, documents: int) -> tuple[int, int]:
    """Write documents.jsonl and passages.jsonl, masked as prep masks; returns how many passages and characters."""
    from forge import private
    from forge.records import Document, Passage, Source, digest, write_jsonl

    out.mkdir(parents=True, exist_ok=True)
    rng, found, passages = random.Random(3), paragraphs(folder), []
    vocabulary = sorted({word for text in found[:20_000] for word in text.split() if word.isalpha() and len(word) > 3})
    texts: list[list[str]] = []
    for number in range(documents):
        own = copied(rng.choice(texts), rng) if texts and rng.random() < 1 / 16 else fresh(found, vocabulary, rng)
        texts.append([private.mask(text)[0] for text in own])
        source = Source(path=f"doc-{number:06d}.md", sha256=digest(str(number)))
        passages += [
            Passage(id=f"{source.path}-{at:04d}", source=source, group=source.path, text=text, tokens=len(text) // 4, meta={"heading": "", "kind": "prose"})
            for at, text in enumerate(texts[-1])
        ]
    sources = {passage.group: passage.source for passage in passages}
    write_jsonl(out / "documents.jsonl", [Document(id=name, source=source, media_type="text/markdown", status="ok") for name, source in sources.items()])
    write_jsonl(out / "passages.jsonl", passages)
    return len(passages), sum(len(passage.text) for passage in passages)


def fresh(found: list[str], vocabulary: list[str], rng: random.Random) -> list[str]:
    texts = []
    for _ in range(rng.choice((1, 1, 2, 2, 3, 4))):
        size, at, parts = rng.randint(300, 1500), rng.randrange(len(found)), list[str]()
        while sum(map(len, parts)) < size:
            words = found[at % len(found)].split(" ")
            for _ in range(max(1, len(words) // 6)):
                words[rng.randrange(len(words))] = rng.choice(vocabulary)
            parts.append(" ".join(words))
            at += 1
        texts.append("\n\n".join(parts)[:4000])
    return texts


def copied(texts: list[str], rng: random.Random) -> list[str]:
    return [text if rng.random() < 0.5 else re.sub(r"\bthe\b", "this", text, count=1) for text in texts]


def paragraphs(folder: Path) -> list[str]:
    found: dict[str, None] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        if not re.search(r"(?:\.(?:txt|md|rst|html)(?:\.gz)?|/copyright|changelog.*\.gz)$", str(file)):
            continue
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode("utf-8", "ignore")[:200_000]
        text = re.sub(r"<[^>]+>", " ", text) if ".html" in file.suffixes else text
        found |= dict.fromkeys(one.strip("\n") for one in re.split(r"\n\s*\n", text) if 60 < len(one) < 1500)
    if len(found) < 1000:
        sys.exit(f"{folder} holds too little text")
    return list(found)


if __name__ == "__main__":
    main()
