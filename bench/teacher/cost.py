"""What synth costs with the cheapest current model at batch rates: the served bill, by kind of request, scaled to 2,370 passages.

    python bench/teacher/cost.py --corpus examples/handbook [--passages 400]

Cuts a folder of Markdown into passages of the size of the reference corpus (2,370 passages, 1,644,187 tokens at four characters a
token: 694 each), runs the real phase with the real client against the Messages server of the tests, and adds up what that server
billed. The server writes what it is asked for, in sentences of the passages; it counts tokens as tests/servers/claude_facts.py says.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from forge.phases.synth import SynthSettings, phase
from forge.records import Pair, Passage, Source, read_jsonl, write_jsonl
from forge.testing import run_phase
from tests.servers.claude import ClaudeServer

REFERENCE_PASSAGES, REFERENCE_TOKENS = 2_370, 1_644_187
CHARS_PER_TOKEN = 4
PASSAGE_CHARS = CHARS_PER_TOKEN * REFERENCE_TOKENS // REFERENCE_PASSAGES


ONCE = "test of the judge"


class Cost(NamedTuple):
    """What was served: micro-dollars by kind of request, and how much text and how many accepted pairs that was for."""

    micro_usd: Counter[str]
    requests: Counter[str]
    passages: int
    tokens: float
    pairs: int
    abstentions: int
    checks: dict[str, Any]

    def scaled_usd(self, kind: str = "") -> float:
        """Dollars for the reference corpus, all kinds or one: by its text, except the test of the judge, which is made once."""
        if not kind:
            return sum(self.scaled_usd(name) for name in self.micro_usd)
        return self.micro_usd[kind] / 1e6 * (1 if kind == ONCE else REFERENCE_TOKENS / self.tokens)

    @property
    def pairs_per_passage(self) -> float:
        """Accepted answers for a passage of the reference size."""
        return self.pairs / self.tokens * REFERENCE_TOKENS / REFERENCE_PASSAGES


def passages_of(corpus: Path, most: int) -> list[Passage]:
    """Passages of about the reference size, by whole paragraphs; a file is a document."""
    found = []
    for path in sorted(corpus.rglob("*.md")):
        name = path.relative_to(corpus).as_posix()
        for number, text in enumerate(_cut(path.read_text(encoding="utf-8", errors="ignore"))):
            found.append(Passage(id=f"{name}-{number:03}", source=Source(path=name, sha256="0" * 64), group=name, text=text, meta={"heading": path.stem}))
    return found[:most]


def served_cost(passages: list[Passage], folder: Path, **settings: Any) -> Cost:
    """Run synth on the passages by batches and add up the server's bill."""
    write_jsonl(folder / "clean.jsonl", passages)
    with ClaudeServer() as server:
        chosen = SynthSettings.model_validate({"teacher": "anthropic", "endpoint": server.url, "mode": "batch", "max_failed_share": 1.0, **settings})
        made = run_phase(phase, folder, settings=chosen, inputs={"clean": folder / "clean.jsonl"})
        bills = server.books.bills
    micro: Counter[str] = Counter()
    requests: Counter[str] = Counter()
    for asked, amounts in bills.items():
        micro[_kind(asked)] += sum(amounts)
        requests[_kind(asked)] += len(amounts)
    pairs = list(read_jsonl(made.out / "pairs.jsonl", Pair))
    answers = sum(bool(pair.passage) for pair in pairs)
    checks = json.loads((made.out / "checks.json").read_text(encoding="utf-8"))
    tokens = sum(len(passage.text) for passage in passages) / CHARS_PER_TOKEN
    return Cost(micro, requests, len(passages), tokens, answers, len(pairs) - answers, checks)


def _kind(asked: str) -> str:
    """What a request was for, by its text."""
    if "items begin]" in asked:
        return "round trip and judge" if "passage 2 begins]" in asked else ONCE
    if "Under `facts`" in asked:
        return "pairs, with questions to abstain from" if " Write: factual" in asked or "factual " in asked.partition("[")[0][-200:] else "more to abstain from"
    return "questions from outside"


def _cut(text: str) -> Iterator[str]:
    """Whole paragraphs until the size is reached."""
    kept = ""
    for paragraph in text.split("\n\n"):
        if kept and len(kept) + len(paragraph) > PASSAGE_CHARS * 1.15:
            yield kept
            kept = ""
        kept = f"{kept}\n\n{paragraph}" if kept else paragraph
    if len(kept) > PASSAGE_CHARS / 4:
        yield kept


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("examples/handbook"))
    parser.add_argument("--passages", type=int, default=400)
    options = parser.parse_args()
    os.environ["ANTHROPIC_API_KEY"] = "bench"
    with tempfile.TemporaryDirectory() as folder:
        cost = served_cost(passages_of(options.corpus, options.passages), Path(folder))
    print(f"{cost.passages:,} passages, {cost.tokens / cost.passages:,.0f} tokens each (four characters a token); {cost.pairs:,} answers and {cost.abstentions:,} to abstain from accepted")
    for kind in sorted(cost.micro_usd):
        print(f"  {kind:38} {cost.requests[kind]:6,} requests  ${cost.micro_usd[kind] / 1e6:.4f}  scaled ${cost.scaled_usd(kind):.3f}")
    print(f"{REFERENCE_PASSAGES:,} passages of {REFERENCE_TOKENS / REFERENCE_PASSAGES:.0f} tokens: ${cost.scaled_usd():.3f}; {cost.pairs_per_passage:.1f} accepted answers a passage")
    print(f"checked: {json.dumps(cost.checks['checked'])}; refused: {json.dumps(cost.checks['refused'])}")
    print(f"buckets: {json.dumps(cost.checks['targets']['made'])}")


if __name__ == "__main__":
    main()
