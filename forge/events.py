"""What happens in a run, as events: one line each in events.jsonl; the terminal and --json render the same ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Listener = Callable[[dict[str, Any]], None]

PROGRESS_LOG_SECONDS = 1.0


class EventLog:
    """Appends events to a file and passes them to listeners. Progress is logged at most once a second."""

    def __init__(self, path: Path, listeners: tuple[Listener, ...] = ()) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._listeners = listeners
        self._progress_logged = 0.0

    def emit(self, kind: str, **fields: Any) -> None:
        """Record one event. `kind` is what happened ("phase_done"), the fields are its facts."""
        event = {"at": round(time.time(), 3), "event": kind, **fields}
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
