"""What the engine remembers of jobs on machines, in the run's state: enough to go on with one that outlived a kill -9.

    job <phase>   the last job of the phase: its id, for which fingerprint, on which machine, how far its events were told
    placed        which artifacts were made on the machine that is leased now, and where they lie there
"""

from __future__ import annotations

import json
import sqlite3

from forge.context import InputFile
from forge.records import Record
from forge.state import State


class JobNote(Record):
    """One job. number: counts the jobs of a phase and fingerprint. place: the machine (forge.lease.Machine.place).

    offset: bytes of its events.jsonl that were told. kept: the newest number that it kept (forge.keeping).
    """

    name: str
    fingerprint: str
    number: int
    place: str
    offset: int = 0
    kept: int = 0
    closed: bool = False


class JobNotes:
    """The last job of one phase."""

    def __init__(self, state: State, phase: str) -> None:
        self.state, self.phase, self.key = state, phase, f"job {phase}"

    def last(self) -> JobNote | None:
        """The job that was begun last and whose result has not been published."""
        note = self._read()
        return None if note is None or note.closed else note

    def begin(self, fingerprint: str, place: str) -> JobNote:
        """Note a new job, durably, before anything is asked of the machine."""
        last = self._read()
        number = last.number + 1 if last is not None else 1
        note = JobNote(name=f"{self.phase}-{fingerprint[:12]}-{number}", fingerprint=fingerprint, number=number, place=place)
        self.state.put(self.key, note.model_dump_json())
        return note

    def told(self, note: JobNote, offset: int, kept: int) -> JobNote:
        """Note how far its events were told. A power cut may lose this: some lines are then told twice."""
        new = note.model_copy(update={"offset": offset, "kept": kept})

        def write(db: sqlite3.Connection) -> None:
            db.execute("UPDATE run SET value=? WHERE key=?", (new.model_dump_json(), self.key))

        self.state.together(write, durable=False)
        return new

    def close(self) -> None:
        """Its result is published: nobody goes on with it."""
        note = self._read()
        if note is not None:
            self.state.put(self.key, note.model_copy(update={"closed": True}).model_dump_json())

    def _read(self) -> JobNote | None:
        found = self.state.get(self.key)
        return JobNote.model_validate_json(found) if found else None


class Placed:
    """The artifacts that were made on one machine: they need not be sent there again."""

    def __init__(self, state: State, place: str) -> None:
        self.state, self.place = state, place

    def path(self, sha256: str) -> str:
        """Where the artifact with this hash lies on the machine; "" when it was not made there."""
        return str(self._read().get(sha256, ["", ""])[0])

    def add(self, phase: str, outputs: dict[str, InputFile]) -> None:
        """Note what a phase has made."""
        self._write({**self._read(), **{file.sha256: [file.path, phase] for file in outputs.values()}})

    def drop(self, phase: str = "") -> None:
        """Forget what a phase has made, since it runs again; without a name everything."""
        self._write({sha256: told for sha256, told in self._read().items() if phase and told[1] != phase})

    def _read(self) -> dict[str, list[str]]:
        told = json.loads(self.state.get("placed", "{}"))
        return dict(told.get("files", {})) if told.get("place") == self.place else {}

    def _write(self, files: dict[str, list[str]]) -> None:
        if files != self._read():
            self.state.put("placed", json.dumps({"place": self.place, "files": files}, sort_keys=True))
