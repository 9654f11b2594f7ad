"""How close the pilot's forecast comes to the bill:  python bench/teacher/forecast.py CORPUS...

Forges each corpus from prep to synth with Claude as the teacher, by the real client against the Messages server of the
tests, and compares what the pilot said with what the server billed. Without arguments: the handbook, and a corpus made
here of which 90 % of the bytes are no text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.servers.claude import ClaudeServer  # noqa: E402

DOCUMENTS, PARAGRAPHS = 24, 12
SUBJECTS = "lock keeper ferry pilot harbour crane tide gauge canal barge mooring buoy lantern sluice".split()  # noqa: SIM905
VERBS = "raises lowers inspects moors signals measures empties repairs".split()  # noqa: SIM905


def mostly_bytes(folder: Path, seed: int = 5) -> Path:
    """A corpus whose text is a tenth of its bytes; the rest is noise under the names of pictures, archives and programs."""
    draw, text = random.Random(seed), 0
    folder.mkdir(parents=True)
    for number in range(DOCUMENTS):
        parts = [_paragraph(draw) for _ in range(PARAGRAPHS)]
        content = f"# Station {number}\n\n" + "\n\n".join(parts) + "\n"
        (folder / f"station-{number}.md").write_text(content, encoding="utf-8")
        text += len(content)
    for number, name in enumerate(("noise.bin", "photo.jpg", "backup.zip", "tool.exe", "core.dat", "disk.img")):
        (folder / name).write_bytes(random.Random(number).randbytes(9 * text // 6))
    return folder


def _paragraph(draw: random.Random) -> str:
    return " ".join(
        f"The {draw.choice(SUBJECTS)} of gate {draw.randrange(100, 999)} {draw.choice(VERBS)} the {draw.choice(SUBJECTS)} after {draw.randrange(3, 90)}"
        f" minutes because the {draw.choice(SUBJECTS)} stands beside the {draw.choice(SUBJECTS)}."
        for _ in range(draw.randrange(3, 9))
    )


def measure(corpus: Path, home: Path, mode: str) -> dict[str, float]:
    """Forge prep to synth; the pilot's forecast, the ledger's and the server's figures in dollars."""
    with ClaudeServer() as server:
        settings = ("synth.teacher=anthropic", f"synth.endpoint={server.url}", f"synth.mode={mode}")
        command = [sys.executable, "-m", "forge", "run", str(corpus), "--budget", "50", "--before-gate", "50", "--until", "synth", "--id", "bench"]
        environment = {**os.environ, "FORGE_HOME": str(home), "ANTHROPIC_API_KEY": "bench"}
        done = subprocess.run([*command, *(word for one in settings for word in ("--set", one))], env=environment, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])
        twice = sum(count > 1 for count in server.books.billed.values())
        bill = server.books.micro_usd / 1e6
    pilot = json.loads((home / "runs" / "bench" / "phases" / "synth" / "checks.json").read_text(encoding="utf-8"))["pilot"]
    return {**{key: value for key, value in pilot.items() if isinstance(value, int | float)}, "bill": bill, "twice": twice}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="*", type=Path)
    parser.add_argument("--mode", choices=("live", "batch"), default="live")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpora = options.corpora or [ROOT / "examples" / "handbook"]
        for number, corpus in enumerate([*corpora, mostly_bytes(folder / "mostly-bytes")]):
            started = time.monotonic()
            found = measure(corpus, folder / str(number), options.mode)
            print(
                f"{corpus.name:14} {found.get('passages', 0):6,} passages, pilot {found.get('asked', 0):3}: forecast ${found.get('usd_p50', 0):.4f}"
                f" (P90 ${found.get('usd_p90', 0):.4f}), bill ${found['bill']:.4f}, bill/forecast {found['bill'] / (found.get('usd_p50') or 1):.2f},"
                f" billed twice {found['twice']}, {time.monotonic() - started:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
