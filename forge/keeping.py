"""What a phase on a machine says is worth keeping (ctx.keep): copied there at once, fetched while the job runs, sent to the next machine.

On the machine, below the phase's folder:   kept/<number>.json   {"path": where it lies in work}, written last
                                            kept/<number>/       hard links to its files: the phase may rotate its own
                                            holding              the number that is being fetched, which stays until another is
In the run: work/<phase>/kept/<fingerprint>/<number>/, and in its state which ones are whole. Of each place in work the newest
two are kept: the last one, and the one before it in case the last turns out to be damaged.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from forge.errors import ForgeError, MachineLost
from forge.protocols import Channel
from forge.records import Record, canonical_json
from forge.state import State
from forge.store import hash_path, write_durably

NEWEST = 2
CHECKPOINT = "checkpoint-"
"""Folders that begin so replace each other; anything else replaces only what has its own name."""


class Kept(Record):
    """One kept file or folder of a phase. path: where it lies in work. here: where this machine has it."""

    number: int
    path: str
    folder: bool
    here: str = ""


class KeepBox:
    """The machine's side: takes copies that cost no space, and forgets the older ones."""

    def __init__(self, folder: Path, after: int = 0) -> None:
        """folder: the phase's own, with work/ in it. after: the highest number that an earlier machine gave."""
        self.folder, self.box, self.after = folder, folder / "kept", after

    def put(self, path: Path) -> int:
        """Copy a file or folder of work; returns the number under which it is kept."""
        inside = path.relative_to(self.folder / "work").as_posix()
        self.box.mkdir(exist_ok=True)
        number = max(self.after, *self._numbers(), 0) + 1
        partial, target = self.box / f".{number}.partial", self.box / str(number)
        for old in (partial, target):   # left by a killed worker before its note was written
            shutil.rmtree(old, ignore_errors=True)
        copy_whole(path, partial / path.name)
        partial.rename(target)
        note = Kept(number=number, path=inside, folder=path.is_dir())
        write_durably(self.box / f"{number}.json", canonical_json(note) + "\n")
        self._forget()
        return number

    def _numbers(self) -> list[int]:
        return [int(note.stem) for note in self.box.glob("[0-9]*.json")]

    def _forget(self) -> None:
        notes = [Kept.model_validate_json((self.box / f"{number}.json").read_text(encoding="utf-8")) for number in self._numbers()]
        held = (self.folder / "holding").read_text(encoding="utf-8").strip() if (self.folder / "holding").exists() else ""
        for old in outdated(notes):
            if str(old.number) != held:
                (self.box / f"{old.number}.json").unlink()
                shutil.rmtree(self.box / str(old.number))


class KeptHere:
    """The engine's side: what of a phase has been fetched, in the run's state and in its folder."""

    def __init__(self, state: State, phase: str, fingerprint: str, folder: Path) -> None:
        """folder: the run's own for the phase. What was kept under another fingerprint is forgotten."""
        self.state, self.key, self.fingerprint = state, f"kept {phase}", fingerprint
        self.folder = folder / "kept" / fingerprint[:12]

    def all(self) -> list[Kept]:
        """Oldest first."""
        told = json.loads(self.state.get(self.key, "{}"))
        return [Kept(**one) for one in told.get("kept", ())] if told.get("fingerprint") == self.fingerprint else []

    def add(self, one: Kept) -> None:
        """Note that one is whole here; older ones that it replaces are removed."""
        kept = sorted([*(old for old in self.all() if old.number != one.number), one], key=lambda each: each.number)
        gone = outdated(kept)
        left = [each.model_dump() for each in kept if each not in gone]
        self.state.put(self.key, json.dumps({"fingerprint": self.fingerprint, "kept": left}))
        for old in gone:
            shutil.rmtree(self.folder / str(old.number), ignore_errors=True)

    def forget(self) -> None:
        """The phase is done: nothing goes on from here."""
        self.state.put(self.key, "{}")
        shutil.rmtree(self.folder.parent, ignore_errors=True)


class Fetcher:
    """Brings kept things here beside the loop that follows the job, one at a time, of each place only the newest."""

    def __init__(self, channel: Channel, remote: str, kept: KeptHere) -> None:
        """remote: the phase's folder on the machine."""
        self.channel, self.remote, self.kept = channel, remote, kept
        self.notes: list[str] = []
        self._wanted: list[int] = []
        self._thread: threading.Thread | None = None
        self._lock, self._left = threading.Lock(), False
        self._failed: Exception | None = None

    def want(self, number: int) -> None:
        """The machine has kept this one."""
        with self._lock:
            self._wanted.append(number)
        if self._failed is None and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._work, name="fetch", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Wait until all that is wanted is here. Raises what went wrong, MachineLost when the machine went away meanwhile."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join()
        if self._failed is None and self._wanted:   # the thread ended while one more was asked for
            self._work()
        if self._failed is not None:
            raise self._failed

    def leave(self) -> None:
        """Bring nothing more: what is under way is not noted any more, since the run may be closed by then."""
        with self._lock:
            self._left = True

    def _work(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._bring(number)
        except Exception as error:  # noqa: BLE001 - raised by finish(), in the thread that follows the job
            self._failed = error

    def _next(self) -> int | None:
        with self._lock:
            return self._wanted.pop() if self._wanted and not self._left else None

    def _bring(self, number: int) -> None:
        note = self.channel.read(f"{self.remote}/kept/{number}.json", 0)
        if not note:
            return   # replaced by a newer one
        one = Kept.model_validate_json(note)
        if self._is_replaced(one):
            return
        name = PurePosixPath(one.path).name
        if self.channel.durable:
            self._add(one.model_copy(update={"here": self.channel.path(f"{self.remote}/kept/{number}/{name}")}))
            return
        self._hold(number)
        place = self.kept.folder / str(number) / name
        try:
            self.channel.get(f"{self.remote}/kept/{number}/{name}", place)
        except MachineLost:
            raise
        except ForgeError as error:   # rotated away before its turn came: a newer one follows
            self.notes.append(f"{one.path} was not fetched: {error.fact}")
            return
        self._add(one.model_copy(update={"here": str(place)}))

    def _is_replaced(self, one: Kept) -> bool:
        with self._lock:
            return self._left or any(is_replaced(one, other) for other in self.kept.all())

    def _add(self, one: Kept) -> None:
        with self._lock:
            if not self._left:
                self.kept.add(one)

    def _hold(self, number: int) -> None:
        """So that a slow transfer is not overtaken by newer ones for ever."""
        self.kept.folder.mkdir(parents=True, exist_ok=True)
        note = self.kept.folder / "holding"
        note.write_text(f"{number}\n", encoding="utf-8")
        self.channel.put(note, f"{self.remote}/holding")


def outdated(kept: Iterable[Kept]) -> list[Kept]:
    """All but the newest two of each place."""
    places: dict[tuple[bool, str], list[Kept]] = {}
    for one in sorted(kept, key=lambda each: each.number, reverse=True):
        places.setdefault(_place(one), []).append(one)
    return [old for same in places.values() for old in same[NEWEST:]]


def is_replaced(one: Kept, by: Kept) -> bool:
    """Whether a newer one of the same place is there already."""
    return by.number >= one.number and _place(by) == _place(one)


def restore(kept: Mapping[str, str], work: Path) -> None:
    """Put what an earlier machine kept where the phase looks for it, unless it is there. kept: path in work -> where it lies."""
    for inside, source in kept.items():
        target = work / inside
        if not target.exists() and Path(source).exists():
            partial = target.with_name(f".{target.name}.restored")
            shutil.rmtree(partial, ignore_errors=True)
            partial.unlink(missing_ok=True)
            copy_whole(Path(source), partial)
            partial.rename(target)


def send(channel: Channel, phase: str, kept: KeptHere) -> dict[str, str]:
    """Send what was kept to a machine; returns path in work -> where it lies there."""
    sent = {}
    for one in kept.all():
        here = Path(one.here)
        if here.exists():
            remote = f"restored/{phase}/{kept.fingerprint[:12]}/{one.number}/{here.name}"
            channel.put(here, remote, hash_path(here))
            sent[one.path] = channel.path(remote)
    return sent


def copy_whole(source: Path, target: Path) -> None:
    """A folder as hard links (its files are finished), a file as a copy (it may still grow)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        shutil.copyfile(source, target)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:   # another file system, or one without links
        shutil.copyfile(source, target)


def _place(one: Kept) -> tuple[bool, str]:
    path = PurePosixPath(one.path)
    return one.folder, str(path.parent / CHECKPOINT if path.name.startswith(CHECKPOINT) else path)
