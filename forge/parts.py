"""Independent parts of a phase, beside each other on a channel that can start many jobs at once (an array in a scheduler's queue).

A phase that has parts (`parts` in forge.phase.Phase) does one of them when it runs with ctx.part set, in a folder of its own. Afterwards
the phase itself runs, finds in its work folder what the parts have left there, and does what is still missing: a part that failed
costs time and never the result.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from forge.errors import MachineLost
from forge.protocols import Channel

DONE = "done"
ROUNDS = 2
"""How often a part that did not come to its end is started; then the phase does it itself."""


@runtime_checkable
class ArrayChannel(Channel, Protocol):
    """A channel that starts many jobs at once. arrays: whether it may."""

    arrays: bool

    def array_usd(self, tasks: int) -> float:
        """The most that so many tasks, started now, can cost besides the lease; 0 where nothing is charged."""
        ...

    def spawn_array(self, job: str, argvs: Sequence[Sequence[str]], env: Mapping[str, str]) -> list[str]:
        """Start one job for each argv; returns their ids, job-0 and so on. A second call with the same id does nothing."""
        ...


class PartRun:
    """All parts of a phase, group after group. `folder`: the phase's, on the channel."""

    def __init__(
        self, channel: ArrayChannel, folder: str, fingerprint: str, *, tell: Callable[[str], None], progress: Callable[[int, int], None],
        check: Callable[[str], None], afford: Callable[[str, int], str] = lambda job, tasks: "",
    ) -> None:
        """tell: a line for the user. progress(parts done, parts). check(job): raises to stop, after the array of this id was ended.

        afford(job, tasks): why an array cannot be paid for; "" when its worst case is set aside, however often it is asked.
        """
        self.channel, self.folder, self.fingerprint = channel, folder, fingerprint
        self.tell, self.progress, self.check, self.afford = tell, progress, check, afford

    def run(self, groups: Sequence[Sequence[str]], name: str, argv: Callable[[str, str, Sequence[str]], list[str]], env: Mapping[str, str]) -> list[str]:
        """Do the parts that are not done; returns the folders whose work the phase takes over.

        name: of the job that follows, unique. argv(job, part, folders of earlier parts): writes the job's file and returns how to start it.
        """
        for number, group in enumerate(groups):
            seeds = self._done(groups[:number])
            for attempt in range(ROUNDS):
                if not self._round(group, f"{name}-parts{number}{'ab'[attempt]}", lambda job, part, seeds=seeds: argv(job, part, seeds), env):  # type: ignore[misc]
                    return self._done(groups)
        return self._done(groups)

    def _done(self, groups: Sequence[Sequence[str]]) -> list[str]:
        return [self.channel.path(self.part_folder(part)) for group in groups for part in group if self._is_done(part)]

    def part_folder(self, part: str) -> str:
        """Where a part works, on the channel."""
        return f"{self.folder}/parts/{part}"

    def _round(self, group: Sequence[str], name: str, argv: Callable[[str, str], list[str]], env: Mapping[str, str]) -> bool:
        """Do what is open of a group, once; False when that cannot be paid for."""
        open_parts = [part for part in group if not self._is_done(part)]
        if not open_parts:
            return True
        if why := self.afford(name, len(open_parts)):
            self.tell(f"{', '.join(open_parts)}: one after the other, in one job: {why}")
            return False
        if len(group) > 1:
            self.tell(f"{len(open_parts)} parts beside each other: {', '.join(open_parts)}")
        argvs = [argv(f"{name}-{number}", part) for number, part in enumerate(open_parts)]
        waiting = dict(zip(self.channel.spawn_array(name, argvs, env), open_parts, strict=True))
        while waiting:
            for job, part in list(waiting.items()):
                if (code := self._ended(job)) is None:
                    continue
                del waiting[job]
                if code:
                    self.tell(f"the part {part} ended with code {code}; its log is {self.channel.path(f'jobs/{job}/log')}")
                self.progress(len(open_parts) - len(waiting), len(open_parts))
            self.check(name)
            if waiting:
                time.sleep(self.channel.poll_seconds)
        return True

    def _ended(self, job: str) -> int | None:
        try:
            return self.channel.poll(job)
        except MachineLost:   # of this part alone; what carries the phase itself says so when it is asked
            return -1

    def _is_done(self, part: str) -> bool:
        return self.channel.read(f"{self.part_folder(part)}/{DONE}", 0).decode() == self.fingerprint


def groups_of(phase: Any, settings: Any, inputs: Mapping[str, Path]) -> Sequence[Sequence[str]]:
    """The parts of a phase, none when it has fewer than two beside each other."""
    parts = getattr(phase, "parts", None)
    groups: Sequence[Sequence[str]] = parts(settings, inputs) if parts else ()
    return groups if any(len(group) > 1 for group in groups) else ()


def take_over(seeds: Sequence[str], work: Path) -> None:
    """Put what parts have left in their work folders into this one; what is here already stays. Each file is whole or not there."""
    for seed in seeds:
        for source in _files(Path(seed) / "work"):
            target = work / source.relative_to(Path(seed) / "work")
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(source, partial)
            partial.replace(target)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
