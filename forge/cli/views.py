"""Listeners that show a run's events while it runs: live on a terminal, plain lines elsewhere, JSON with --json."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from forge import ui
from forge.cli.words import NAME_WIDTH, duration, event_line, progress_text

PLAIN_PROGRESS_SECONDS = 10.0
TICK_SECONDS = 0.1
STOPPING = "stopping after what is under way; Ctrl-C again stops at once"
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

Money = Callable[[], str]


def progress_view(*, as_json: bool, quiet: bool) -> ProgressView:
    """The rendering that fits where the output goes."""
    if as_json:
        return JsonView()
    if quiet:
        return ProgressView()
    return LiveView() if ui.is_terminal(sys.stderr) else PlainView()


class ProgressView:
    """A listener for a run's events; this one shows nothing. `money`: "$0.31 of $200.00", or "" when nothing is paid."""

    def __init__(self) -> None:
        self.money: Money = lambda: ""

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""

    def stopping(self) -> None:
        """The first Ctrl-C, told inside a signal handler."""

    def pause(self) -> None:
        """Take the status line away: something else is about to be printed."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.pause()


class JsonView(ProgressView):
    """Each event as a line of JSON on stdout."""

    def __call__(self, event: dict[str, Any]) -> None:
        ui.out(json.dumps(event, ensure_ascii=False, default=str))


class PlainView(ProgressView):
    """One line per finished phase and notice; progress every few seconds. For logs and CI."""

    def __init__(self) -> None:
        super().__init__()
        self._started = self._shown = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if event["event"] == "phase_started":
            self._started = self._shown = now
        elif event["event"] == "progress":
            if now - self._shown >= PLAIN_PROGRESS_SECONDS:
                self._shown = now
                ui.say(f"   {event.get('phase', ''):{NAME_WIDTH}} {progress_text(event, now - self._started, self.money())}")
        elif line := event_line(event):
            ui.say(line)

    def stopping(self) -> None:
        os.write(2, f"   {STOPPING}\n".encode())


class LiveView(ProgressView):
    """The same lines, with the running phase redrawn below them. A thread turns the spinner while a phase is silent."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._phase, self._text, self._turn, self._drawn = "", "", 0, 0.0
        self._started, self._stopping = time.monotonic(), ""
        self._closed = threading.Event()
        threading.Thread(target=self._spin, daemon=True).start()

    def __call__(self, event: dict[str, Any]) -> None:
        kind, now = event["event"], time.monotonic()
        if kind == "phase_started":
            self._begin(str(event["phase"]), str(event.get("summary", "")))
        elif kind == "progress":
            if now - self._drawn >= TICK_SECONDS:
                self._drawn = now
                text = progress_text(event, now - self._started, self.money())
                with self._lock:
                    self._phase, self._text = str(event.get("phase", "")), text
        else:
            self._stay(event_line(event), ends=kind in ("phase_done", "phase_failed"))

    def stopping(self) -> None:
        self._stopping = STOPPING

    def pause(self) -> None:
        self._stay("", ends=True)

    def close(self) -> None:
        self._closed.set()
        self.pause()

    def _begin(self, phase: str, text: str) -> None:
        with self._lock:
            self._phase, self._text, self._started = phase, text, time.monotonic()

    def _stay(self, line: str, *, ends: bool) -> None:
        with self._lock:
            if self._phase:
                ui.status_line("")
            if line:
                ui.say(line)
            self._phase = "" if ends else self._phase

    def _spin(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            with self._lock:
                if self._phase and not self._closed.is_set():
                    self._turn += 1
                    mark, gone = SPINNER[self._turn % len(SPINNER)], duration(time.monotonic() - self._started)
                    ui.status_line(f" {mark} {self._phase:{NAME_WIDTH}} {self._stopping or self._text} · {gone}")
