"""One run: its folder, state, store, money, events, and the lock that only one process can hold.

runs/<id>/  state.db  lock  events.jsonl  plan.json  artifacts/  phases/<name>/  machine/
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forge.config import Config, Layered
from forge.errors import ForgeError, RunBusy, UsageError, nearest
from forge.events import EventLog, Listener
from forge.ledger import Ledger, micro_usd
from forge.records import Record, canonical_json
from forge.state import State
from forge.store import Store, write_durably

HOME_VARIABLE = "FORGE_HOME"
LOCK_TRIES = 10
"""`forge status` holds the lock for a moment when it looks whether somebody does: try again before saying busy."""

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class RunInfo(Record):
    """What `forge runs` shows of a run."""

    id: str
    corpus: str
    dry_run: bool
    outcome: str
    created: float
    phase: str = ""


def home() -> Path:
    """Where runs live: $FORGE_HOME, or .forge in the working directory."""
    return Path(os.environ.get(HOME_VARIABLE) or ".forge")


def runs_folder() -> Path:
    """The folder of all runs."""
    return home() / "runs"


def cache_folder() -> Path:
    """What runs share to save time (forge.cache); it may be deleted at any time."""
    return home() / "cache"


class Run:
    """An open run. Use `Run.create`, `Run.open` or `Run.newest`; take `lock()` before changing anything."""

    def __init__(self, folder: Path, listeners: tuple[Listener, ...] = ()) -> None:
        self.folder, self.id = folder, folder.name
        self.state = State(folder / "state.db")
        self.store = Store(folder, self.state)
        self.listeners = listeners
        self.events = EventLog(folder / "events.jsonl", listeners)
        self.ledger = Ledger(self.state, 0, 0)

    @classmethod
    def create(
        cls, corpus: Path, *, dry_run: bool, run_id: str = "", plugin_dirs: tuple[Path, ...] = (), listeners: tuple[Listener, ...] = ()
    ) -> Run:
        """A new run over a corpus. Raises ForgeError when the folder cannot be written."""
        if run_id and not RUN_ID.fullmatch(run_id):
            raise UsageError(f'"{run_id}" cannot be a run id', why="use up to 40 of a-z, 0-9 and -")
        folder = runs_folder() / (run_id or _fresh_id())
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ForgeError(
                f"cannot write to {runs_folder()}", why=error.strerror or str(error),
                next=f"choose another place with {HOME_VARIABLE}=FOLDER",
            ) from error
        card = folder / "run.json"   # written last: a folder without one was left by a process killed right here, and is taken over
        if card.exists():
            raise UsageError(f"the run {run_id} exists already", next=f"forge resume {run_id}")
        run = cls(folder, listeners)
        run.state.put("corpus", str(corpus.resolve()))
        run.state.put("dry_run", json.dumps(dry_run))
        run.state.put("plugin_dirs", json.dumps([str(path.resolve()) for path in plugin_dirs]))
        run.state.put("created", repr(time.time()))
        write_durably(card, canonical_json({"id": run.id, "corpus": str(corpus.resolve()), "dry_run": dry_run}) + "\n")
        return run

    @classmethod
    def open(cls, run_id: str = "", listeners: tuple[Listener, ...] = ()) -> Run:
        """An existing run; without an id the newest. Raises UsageError for an unknown id."""
        known = run_ids()
        if not known:
            raise UsageError(f"there are no runs in {runs_folder()}", next="forge run CORPUS --budget USD")
        chosen = run_id or known[0]
        if chosen not in known:
            starts = [name for name in known if name.startswith(chosen)]
            if len(starts) != 1:
                raise UsageError(f'there is no run "{run_id}"', why=nearest(run_id, known), next="forge runs")
            chosen = starts[0]
        return cls(runs_folder() / chosen, listeners)

    @property
    def corpus(self) -> Path:
        """The folder or file that the run is about."""
        return Path(self.state.get("corpus"))

    @property
    def dry_run(self) -> bool:
        """True for a rehearsal."""
        return bool(json.loads(self.state.get("dry_run", "false")))

    @property
    def plugin_dirs(self) -> tuple[Path, ...]:
        """Folders with the user's own plugins."""
        return tuple(Path(path) for path in json.loads(self.state.get("plugin_dirs", "[]")))

    def overrides(self) -> dict[str, Layered]:
        """The settings with which the run was last started."""
        return {key: Layered(**layer) for key, layer in json.loads(self.state.get("overrides", "{}")).items()}

    def remember(self, config: Config) -> None:
        """Keep the settings for the next resume, and bring the budget into force."""
        stored = {key: layer.model_dump(mode="json") for key, layer in config.overrides.items()}
        self.state.put("overrides", json.dumps(stored, sort_keys=True))
        self.ledger.budget = micro_usd(config.budget_usd)
        self.ledger.before_gate = micro_usd(config.before_gate_usd)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run. The kernel frees the lock when the process dies. Raises RunBusy (exit 75)."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(handle, LOCK_TRIES)
        except BlockingIOError as error:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            os.close(handle)
            raise RunBusy(
                f"run {self.id} is busy", why=f"another forge holds it ({holder or 'starting'})", next=f"forge status {self.id} --watch"
            ) from error
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
            self.ledger.epoch = int(self.state.get("epoch", "0")) + 1
            self.state.put("epoch", str(self.ledger.epoch))
            yield
        finally:
            os.close(handle)

    def is_busy(self) -> bool:
        """True while another process holds the run."""
        if not (self.folder / "lock").exists():
            return False
        handle = os.open(self.folder / "lock", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def info(self) -> RunInfo:
        """The line for `forge runs`."""
        row = self.state.row("SELECT name FROM phase WHERE status='running' ORDER BY started DESC")
        return RunInfo(
            id=self.id, corpus=str(self.corpus), dry_run=self.dry_run, outcome=self.state.get("outcome", "new"),
            created=float(self.state.get("created", "0")), phase=row["name"] if row else "",
        )

    def close(self) -> None:
        """Close files and database."""
        self.events.close()
        self.state.close()

    def delete(self) -> None:
        """Remove the run's folder."""
        self.close()
        shutil.rmtree(self.folder)


def run_ids() -> list[str]:
    """All runs, newest first."""
    folder = runs_folder()
    if not folder.is_dir():
        return []
    cards = [path / "run.json" for path in folder.iterdir() if (path / "run.json").is_file()]
    return [card.parent.name for card in sorted(cards, key=lambda card: (card.stat().st_mtime_ns, card), reverse=True)]


def find_run(corpus: Path, *, dry_run: bool) -> str:
    """The newest run over the same corpus of the same kind; empty when there is none."""
    wanted = (str(corpus.resolve()), dry_run)
    for run_id in run_ids():
        card = _card(run_id)
        if (card.get("corpus"), card.get("dry_run")) == wanted:
            return run_id
    return ""


def run_folders(corpus: Path) -> list[Path]:
    """The folders of all runs over a corpus, newest first."""
    wanted = str(corpus.resolve())
    return [runs_folder() / run_id for run_id in run_ids() if _card(run_id).get("corpus") == wanted]


def _card(run_id: str) -> dict[str, object]:
    """run.json, which is only a copy of what state.db says: a damaged one names no corpus."""
    try:
        found = json.loads((runs_folder() / run_id / "run.json").read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _flock(handle: int, tries: int) -> None:
    """Take the lock, in at most tries x 10 ms. Raises BlockingIOError."""
    for left in range(tries - 1, -1, -1):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not left:
                raise
            time.sleep(0.01)


def _fresh_id() -> str:
    while True:
        candidate = secrets.token_hex(2)
        if not (runs_folder() / candidate).exists():
            return candidate
