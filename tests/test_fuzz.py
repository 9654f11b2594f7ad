"""kill -9 at random moments: the artifacts are those of an undisturbed run, nothing finished is done or paid twice.

FORGE_KILLS sets how many kills (CI: 5; `make fuzz`: 200).
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("FORGE_KILLS", "5"))
TOY_KILLS = int(os.environ.get("FORGE_TOY_KILLS", "40"))

pytestmark = [pytest.mark.fault, pytest.mark.slow]

TOYS = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from forge.run import Run
from tests.test_engine import toys

class Call(list):
    def append(self, word):
        with open({calls!r}, "a") as file:
            file.write(word + "\\n")

toys.Buy.calls = Call()
toys.Buy.fail_after = -1
corpus = Path({corpus!r})
run = Run.open("toy") if (Path({home!r}) / "runs/toy/run.json").exists() else Run.create(corpus, dry_run=False, run_id="toy")
toys.run_toys(run, run__budget_usd=0.01, run__before_gate_usd=0.01, confirm=lambda text: True)
"""


def hashes(run_folder: Path) -> dict[str, str]:
    """sha256 of every artifact that does not carry times or hosts."""
    with sqlite3.connect(run_folder / "state.db") as db:
        return dict(db.execute("SELECT name, sha256 FROM artifact WHERE telemetry=0"))


def committed(run_folder: Path) -> int:
    with sqlite3.connect(run_folder / "state.db") as db:
        return int(db.execute("SELECT COALESCE(SUM(COALESCE(actual, reserved)), 0) FROM spend").fetchone()[0])


def repeated_items(run_folder: Path) -> list[str]:
    """Journal keys that were recorded twice: an item that was finished and done again."""
    found = []
    for journal in run_folder.rglob("*.journal"):
        keys = Counter(json.loads(line.split(b" ", 1)[1])[0] for line in journal.read_bytes().splitlines())
        found += [f"{journal.name}: {key}" for key, count in keys.items() if count > 1]
    return found


def kill_until_done(argv: list[str], env: dict[str, str], kills: int, longest: float, generator: random.Random) -> int:
    """Start the command again and again, killing it `kills` times at random moments; the last time it may finish."""
    done = 0
    while True:
        child = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        limit = generator.uniform(0.05, longest) if done < kills else None
        try:
            _, errors = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.communicate()
            done += 1
            continue
        assert child.returncode == 0, errors
        return done


def test_paid_items_survive_kills_and_are_never_paid_twice(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text(" ".join(f"word{number}" for number in range(300)), encoding="utf-8")
    generator, results = random.Random(11), {}
    for name, kills in (("straight", 0), ("killed", TOY_KILLS)):
        home, calls = tmp_path / name, tmp_path / f"{name}.calls"
        script = TOYS.format(root=str(ROOT), calls=str(calls), corpus=str(corpus), home=str(home))
        env = {**os.environ, "FORGE_HOME": str(home)}
        killed = kill_until_done([sys.executable, "-c", script], env, kills, 1.6, generator)
        made = Counter(calls.read_text(encoding="utf-8").split())
        run_folder = home / "runs" / "toy"
        results[name] = hashes(run_folder)
        assert len(made) == 300
        assert sum(made.values()) - 300 <= killed, "at most the call in flight is repeated"
        assert committed(run_folder) <= 10_000
        assert repeated_items(run_folder) == []
    assert results["killed"] == results["straight"]


@pytest.mark.local
@pytest.mark.timeout(14400)
def test_a_rehearsal_that_is_killed_ends_in_the_same_bytes(tmp_path: Path) -> None:
    corpus = str(ROOT / "examples" / "handbook")
    results, generator, total, rounds = {}, random.Random(int(os.environ.get("FORGE_FUZZ_SEED", "5"))), 0, 0
    env = {**os.environ, "FORGE_HOME": str(tmp_path / "straight")}
    start = [sys.executable, "-m", "forge", "run", corpus, "--dry-run", "--quiet"]
    started = time.monotonic()
    subprocess.run([*start, "--id", "fuzz"], env=env, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    results["straight"] = hashes(tmp_path / "straight/runs/fuzz")
    while total < KILLS:
        rounds += 1
        home = tmp_path / f"killed-{rounds}"
        env["FORGE_HOME"] = str(home)
        prepare = "from pathlib import Path; from forge.run import Run; Run.create(Path({!r}), dry_run=True, run_id='fuzz')"
        subprocess.run([sys.executable, "-c", prepare.format(corpus)], env=env, check=True)
        total += kill_until_done(start, env, min(KILLS - total, generator.randint(1, 12)), seconds * 0.6, generator)
        run_folder = home / "runs" / "fuzz"
        assert hashes(run_folder) == results["straight"]
        assert repeated_items(run_folder) == []
        assert committed(run_folder) == 0
    sys.stderr.write(f"{total} kills over {rounds} rehearsals of {seconds:.0f} s: every artifact byte-identical\n")
