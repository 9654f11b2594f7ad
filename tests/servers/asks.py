"""A process that has many requests answered by the Claude teacher, with the journal and ledger of synth; made to be killed.

    python -m tests.servers.asks FOLDER URL MODE ITEMS CAP

The last line of its output is JSON: how many were answered, failed after they were billed, or were not served at all.
Pauses are a fiftieth of the real ones. Exit codes are those of forge: 5 when the cap of CAP micro-dollars refused more.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

from forge.context import FolderContext
from forge.errors import OverBudget
from forge.ledger import Ledger
from forge.phases.synth.asking import Asker
from forge.plugins.teachers import _limiter
from forge.plugins.teachers.anthropic import AnthropicTeacher
from forge.protocols import TeacherBrief, TeacherRequest
from forge.records import Passage, Source, digest
from forge.registry import Registry
from forge.state import State

WORKERS = 16
ITEMS_A_BATCH = 250


def requests(count: int) -> list[TeacherRequest]:
    """Requests of different lengths; every one has a text of its own."""
    return [_request(number) for number in range(count)]


def _request(number: int) -> TeacherRequest:
    text = f"The valve number {number} opens at {number} bar. " + "It closes by itself when the line is empty. " * (1 + number % 9)
    passage = Passage(id=f"p{number}", source=Source(path="a.md", sha256="0"), group="g", text=text)
    return TeacherRequest(key=digest("storm", str(number)), kind="pairs", passage=passage, prompt="Find facts.", wanted=3, max_output_tokens=400)


def context(folder: Path, ledger: Ledger) -> FolderContext:
    """What synth would see of a run."""
    return FolderContext(
        folder / "synth", run_id="storm", seed=7, dry_run=False, inputs={}, writes=(), registry=Registry(), money=ledger, emit=lambda kind, fields: None,
    )


def main(folder: Path, url: str, mode: Any, items: int, cap: int) -> int:
    """Ask for everything that the journal does not hold yet."""
    batches: Any = import_module("forge.plugins.teachers._batches")
    _limiter.FIRST_BACKOFF_SECONDS, _limiter.LAST_BACKOFF_SECONDS = 0.01, 0.4
    batches.FIRST_BACKOFF_SECONDS, batches.FIRST_POLL_SECONDS, batches.CREATION_SECONDS = 0.01, 0.05, 1.0
    batches.MOST_PER_BATCH = ITEMS_A_BATCH
    folder.mkdir(parents=True, exist_ok=True)
    state = State(folder / "state.db")
    epoch = int(state.get("epoch", "0")) + 1
    state.put("epoch", str(epoch))
    ledger = Ledger(state, cap, cap, epoch=epoch)
    ledger.phase = "synth"
    ctx = context(folder, ledger)
    brief = TeacherBrief(endpoint=url, mode=mode, in_flight=WORKERS, notes=str(ctx.paid_folder / "anthropic"))
    asker, refused, answered = Asker(AnthropicTeacher(brief), ctx), False, 0
    try:
        answered = sum(1 for _ in asker.ask(requests(items), "storm"))
    except OverBudget:
        refused = True
    ctx.close()
    served = {key for key in asker.failed if asker.journal is not None and key in asker.journal}
    reasons = Counter(reason.split(":")[0] for reason in asker.failed.values())
    sys.stdout.write(json.dumps({"answered": answered, "unusable": len(served), "unserved": len(asker.failed) - len(served), "reasons": reasons}) + "\n")
    return OverBudget.exit_code if refused else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])))
