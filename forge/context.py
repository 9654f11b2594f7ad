"""The Context that phases get: folders for inputs, outputs and work. The same class serves engine, worker and tests."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forge import timebox
from forge.errors import ForgeError, Interrupted
from forge.executor import finished
from forge.journal import Journal
from forge.ledger import Money
from forge.phase import Output, Rehearsal
from forge.records import Record
from forge.registry import Registry

Emit = Callable[[str, dict[str, Any]], None]
LOOK_SECONDS = 1.0
Rehearse = Callable[[Sequence[str], Mapping[str, Path]], Rehearsal]


class Watch:
    """The tick of an executor: asks whether to stop, and once a second whether more shards have their result."""

    def __init__(self, check_stop: Callable[[], None]) -> None:
        self._check_stop, self._folder, self._looked, self._seen = check_stop, Path(), 0.0, 0
        self._tell: Callable[[int], None] = lambda done: None

    def watch(self, folder: Path, tell: Callable[[int], None]) -> None:
        """Where the results appear, and whom to tell how many there are."""
        self._folder, self._tell = folder, tell

    def __call__(self) -> None:
        """Raises Interrupted when the user asked to stop."""
        self._check_stop()
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked, done = time.monotonic(), finished(self._folder)
        if done != self._seen:
            self._seen = done
            self._tell(done)


class InputFile(Record):
    """A verified input: where it lies and the hash under which it was published."""

    path: str
    sha256: str


class FolderContext:
    """A phase's view of the run, backed by plain folders.

    folder/work/     survives kills; emptied when the phase's fingerprint is not the one that it was made under
    folder/journal/  paid items: never emptied, since their keys name everything that they depend on
    folder/out/      collects the outputs of one attempt until they are published
    """

    def __init__(
        self,
        folder: Path,
        *,
        run_id: str,
        seed: int,
        dry_run: bool,
        task: str = "chat",
        inputs: Mapping[str, InputFile],
        writes: tuple[Output, ...],
        registry: Registry,
        money: Money,
        emit: Emit,
        corpus_root: Path = Path(),
        fingerprint: str = "",
        cache: Path | None = None,
        stop_requested: Callable[[], bool] = lambda: False,
        rehearse: Rehearse = lambda phases, inputs: Rehearsal(error="no rehearsal here"),
        keep: Callable[[Path], None] = lambda path: None,
        part: str = "",
        shards: int = 0,
        executor: Callable[[Path, Callable[[], None]], Any] = lambda folder, tick: None,
    ) -> None:
        self.part, self.shards, self._executor = part, shards, executor
        self._executors: list[Any] = []
        self.run_id, self.seed, self.dry_run, self.task = run_id, seed, dry_run, task
        self.work, self.out, self.paid_folder = folder / "work", folder / "out", folder / "journal"
        self.corpus_root, self.money = corpus_root, money
        self.cache = cache or folder / "cache"
        self._inputs, self._writes = inputs, {output.name: output for output in writes}
        self.plugin_dirs = registry.plugin_dirs
        self._registry, self._emit, self._stop_requested = registry, emit, stop_requested
        self._rehearse, self._keep = rehearse, keep
        self._journals: list[Journal] = []
        self._prepare(folder / "fingerprint", fingerprint)

    def input(self, name: str) -> Path:
        """The verified file or folder of an artifact named in `reads`."""
        return Path(self._inputs[name].path)

    def has_input(self, name: str) -> bool:
        """Whether an artifact that the phase may do without is there."""
        return name in self._inputs

    def input_sha256(self, name: str) -> str:
        """The content hash under which the input was published."""
        return self._inputs[name].sha256

    def output(self, name: str) -> Path:
        """Where to write the artifact `name`; it is published when run() returns."""
        path = self.out / self._writes[name].path
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def journal(self, name: str = "items", *, durable: bool = False) -> Journal:
        """The phase's item journal, closed when the phase ends."""
        folder = self.paid_folder if durable else self.work
        journal = Journal(folder / f"{name}.journal", durable=durable)
        self._journals.append(journal)
        return journal

    def use(self, kind: str, name: str, *, ready: bool = True) -> Any:
        """The plugin `name` of `kind`, imported now; ready=False: also when its extra is missing."""
        return self._registry.plugin(kind, name, ready=ready)

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of all plugins of a kind."""
        return self._registry.names(kind)

    def progress(self, done: float, total: float | None = None, note: str = "", **numbers: float) -> None:
        """Say how far the phase is."""
        self._emit("progress", {"done": done, "total": total, "note": note, **numbers})

    def notice(self, text: str) -> None:
        """One line that the user should see and that stays in the log."""
        self._emit("notice", {"text": text})

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Without progress and notices: for an estimate, whose notices the work itself gives again."""
        emit, self._emit = self._emit, lambda kind, fields: None
        try:
            yield
        finally:
            self._emit = emit

    def lease(self, offer: Any, deadline_seconds: int, token: str) -> Any:
        """Only the engine leases machines."""
        raise ForgeError("a machine can only be leased by the engine")

    def rehearse(self, phases: Sequence[str], inputs: Mapping[str, Path]) -> Rehearsal:
        """Run machine phases on small inputs in a worker of their own."""
        return self._rehearse(phases, inputs)

    def keep(self, path: Path) -> None:
        """Have a whole file or folder of work kept elsewhere too, where the phase runs on a rented machine."""
        if not path.is_relative_to(self.work) or not path.exists():
            raise ForgeError(f"{path.name} cannot be kept", why="it is not in the phase's work folder: a bug in the phase")
        self._keep(path)

    def seconds_left(self) -> float | None:
        """Seconds until the machine ends itself, as far as its watcher has said when."""
        return timebox.seconds_left()

    def map_shards(
        self, function: Callable[[Any], Any], items: Sequence[Any], on_shard: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Any] | None:
        """function over shards of items on the run's executor; None when the work is not to be cut."""
        if not self.shards or not items:
            return None
        count, tick = min(self.shards, len(items)), Watch(self.check_stop)
        executor = self._executor(self.work / f"shards-{len(self._executors)}", tick)
        if executor is None:
            return None
        tick.watch(executor.folder, lambda done: on_shard(done, count))
        self._executors.append(executor)
        found: Iterator[Any] = executor.map_shards(function, (list(items[number::count]) for number in range(count)))
        return found

    def forget_shards(self) -> None:
        """Remove what map_shards left: the phase is done, and will not be resumed from there."""
        for executor in self._executors:
            shutil.rmtree(executor.folder, ignore_errors=True)

    def check_stop(self) -> None:
        """Raise Interrupted when the user asked to stop."""
        if self._stop_requested():
            raise Interrupted

    def close(self) -> None:
        """Close the journals."""
        for journal in self._journals:
            journal.close()

    def _prepare(self, marker: Path, fingerprint: str) -> None:
        """Empty out/, and work/ too when it was made for other inputs or settings. The marker is written last."""
        shutil.rmtree(self.out, ignore_errors=True)
        made_for = marker.read_text(encoding="utf-8") if marker.exists() else ""
        if made_for != fingerprint:
            for old in (self.work, self.work.with_name("kept")):
                shutil.rmtree(old, ignore_errors=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        if made_for != fingerprint:
            marker.write_text(fingerprint, encoding="utf-8")
