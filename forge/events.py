"""What happens in a run, as events: one line each in events.jsonl; the terminal and --json render the same ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from forge import private

Listener = Callable[[dict[str, Any]], None]

PROGRESS_LOG_SECONDS = 1.0
MASKED_FROM = 6
"""Shorter texts (names of phases, statuses) hold nothing private."""


class EventLog:
    """Appends events to a file and passes them to listeners, masked. Progress is logged at most once a second."""

    def __init__(self, path: Path, listeners: tuple[Listener, ...] = ()) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._listeners = listeners
        self._progress_logged = 0.0

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event. `kind` is what happened ("phase_done"), the fields are its facts."""
        told = {name: _masked(value) for name, value in fields.items()}
        event = {"at": round(time.time(), 3), "event": kind, **told}
        if kind != "progress" or self._progress_due():
            self._file.write(json.dumps(event, ensure_ascii=False, default=str) + "\n")
            self._file.flush()
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _progress_due(self) -> bool:
        now = time.monotonic()
        due = now - self._progress_logged >= PROGRESS_LOG_SECONDS
        if due:
            self._progress_logged = now
        return due


def _masked(value: Any) -> Any:
    """Texts without anything private: error texts quote what they choke on, notes name files."""
    return _mask(value) if isinstance(value, str) and len(value) > MASKED_FROM else value


@lru_cache(maxsize=256)
def _mask(text: str) -> str:
    return private.mask(text)[0]
