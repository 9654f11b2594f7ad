"""One machine leased, used and given back, with kill -9 at every step of it. Run as a script, so that the killed are processes.

    python -m tests.test_plugins.machine_walk '{"provider": "hf-jobs", "settings": {...}, "offer": {...}, "patches": {...}}'

A step is the time after a call of the provider or of its channel (which is the time before the next one), and before the first.
For each step there is one run: it is killed there; every second one is resumed, and all are torn down by another process. One
line of JSON tells what its ledger says then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from forge.lease import Leases
from forge.protocols import Offer
from forge.run import Run

TOKEN = "lease-{run}"
DEADLINE_SECONDS = 600
LONGEST_WALK = 200


class Stepping:
    """Calls `step` after every method of what it stands for, and before start()."""

    def __init__(self, inner: Any, step: Callable[[str], None]) -> None:
        self._inner, self._step = inner, step

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name.startswith("_"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "start":
                self._step("before start")
            answer = found(*args, **kwargs)
            self._step(f"after {name}")
            return Stepping(answer, self._step) if name == "channel" else answer

        return call


class Kill:
    """kill -9 of this process at the step of that number; writes its name down first. only: methods that count; none = all."""

    def __init__(self, number: int, note: Path, only: Sequence[str] = ()) -> None:
        self.left, self.note, self.only, self.last = number, note, only, ""

    def __call__(self, name: str) -> None:
        """Count a step; one more look at a job that still runs is none."""
        if self.only and name.split()[1] not in self.only:
            return
        self.left -= (name, self.last) != ("after poll", "after poll")
        self.last = name
        if self.left == 0:
            self.note.write_text(name, encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)


def walk(run: Run, provider: Any, offer: Offer, step: Callable[[str], None]) -> None:
    """Lease a machine, run one small job there, fetch what it made, and give the machine back."""
    leases = Leases(run, {provider.name: Stepping(provider, step)})   # type: ignore[dict-item]
    token = TOKEN.format(run=run.id)
    leases.acquire(offer, DEADLINE_SECONDS, token)
    channel = leases.channel(token)
    channel = getattr(channel, "channel", channel)
    python = channel.prepare(lambda text: None)
    given = run.folder / "given.txt"
    given.write_text("given", encoding="utf-8")
    channel.put(given, "inputs/given.txt")
    there = channel.path("inputs/given.txt")
    channel.spawn("job-1", [python, "-c", f"open('made', 'a').write(open({there!r}).read())"], {})
    while (code := channel.poll("job-1")) is None:
        time.sleep(0.02)
    assert code == 0, channel.read("jobs/job-1/log", 0)
    channel.get("jobs/job-1/made", run.folder / "made")
    assert (run.folder / "made").read_text(encoding="utf-8") == "given", "the job ran twice, or not at all"
    give_back(run, provider, step)


def give_back(run: Run, provider: Any, step: Callable[[str], None]) -> None:
    """What every run does at its end."""
    assert Leases(run, {provider.name: Stepping(provider, step)}).release_all() == []   # type: ignore[dict-item]


def in_child(work: Callable[[], None]) -> int:
    """work() in a forked process; the signal that ended it, 0 when it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the border of a process
            import traceback
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0
    return 0


class Walks:
    """What all runs share: the provider with its settings, and the offer."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.plugin = import_module(f"forge.plugins.compute.{told['provider'].replace('-', '_')}").provider
        self.settings = self.plugin.settings(**told["settings"])
        self.corpus, self.offer, self.home = Path(told["corpus"]), Offer.model_validate(told["offer"]), Path(os.environ["FORGE_HOME"])
        self.only: list[str] = told.get("only", [])
        for name, value in told.get("patches", {}).items():
            place, _, field = name.rpartition(".")
            setattr(import_module(place), field, value)

    def at_step(self, number: int) -> bool:
        """One run that is killed at that step, and its end; False when it had fewer steps."""
        name = f"walk-{number}"
        note = self.home / f"{name}.step"
        killed = in_child(lambda: walk(self.run(name), self.provider(), self.offer, Kill(number, note, self.only)))
        if killed and number % 2:
            in_child(lambda: walk(self.run(name), self.provider(), self.offer, lambda step: None))
        in_child(lambda: self.tear_down(name, note))
        return bool(killed)

    def tear_down(self, name: str, note: Path) -> None:
        """Give back what is left, and tell what the ledger says."""
        run = self.run(name)
        give_back(run, self.provider(), lambda step: None)
        totals, rows = run.ledger.totals(), run.state.rows("SELECT state FROM lease")
        step = note.read_text(encoding="utf-8") if note.exists() else ""
        told = {"run": name, "step": step, "settled": totals.settled, "reserved": totals.reserved, "states": [row["state"] for row in rows]}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()

    def run(self, name: str) -> Run:
        """The run, made when it is new."""
        made = Run.open(name) if (self.home / "runs" / name / "run.json").exists() else Run.create(self.corpus, dry_run=False, run_id=name)
        made.ledger.budget, made.ledger.gate_open = 3_000_000, True
        return made

    def provider(self) -> Any:
        """A provider whose lists are settled at once."""
        made = self.plugin.configured(self.settings)
        made.creation_seconds, made.confirm_seconds = 0.1, 0.02
        return made


def main(argv: list[str]) -> int:
    """Kill at every step until a walk comes to its end."""
    walks = Walks(json.loads(argv[1]))
    return 0 if any(not walks.at_step(number) for number in range(1, LONGEST_WALK)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
