"""The Phase protocol, and the Context through which a phase sees the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from forge.journal import Journal
from forge.ledger import Money
from forge.records import Record


class Settings(BaseModel):
    """Base of every phase's settings: unknown keys are errors, values cannot change during a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(Record):
    """One artifact that a phase writes. `telemetry` (times, hosts) is kept out of hashes and comparisons."""

    name: str
    path: str
    telemetry: bool = False


class Estimate(Record):
    """What a phase will probably take and cost; `basis` says where the numbers come from."""

    seconds_p50: float
    seconds_p90: float
    usd_p50: float = 0.0
    usd_p90: float = 0.0
    basis: str = ""


class Rehearsal(Record):
    """How a rehearsal of machine phases went: outputs by artifact name, seconds by phase, the error if one failed."""

    outputs: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, dict[str, float | str]] = Field(default_factory=dict)
    error: str = ""


class Table(Record):
    """Rows about a phase's artifacts that `forge show` prints under a name."""

    name: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


class Requirement(Record):
    """An importable module that a plugin or phase needs, and the extra that brings it."""

    module: str
    extra: str


class Context(Protocol):
    """A phase's view of the run: verified inputs, private outputs, plugins, money, progress.

    work: private folder that survives a kill and is emptied when the phase's fingerprint changes.
    paid_folder: private folder that is never emptied, for what was paid for.
    cache: a folder that all runs share, for forge.cache: what lies there may be gone or made by another version.
    corpus_root: the folder that the corpus entries are relative to (only prep, and shape for ready-made data, need it).
    task: what the run's model learns (run.task); phases on a machine read it from the plan.
    part: the one of its parts that the phase shall do, "" for all of them.
    plugin_dirs: folders of the user's plugins, for a process that the phase starts.
    """

    run_id: str
    seed: int
    dry_run: bool
    task: str
    part: str
    plugin_dirs: tuple[Path, ...]
    work: Path
    paid_folder: Path
    cache: Path
    corpus_root: Path
    money: Money

    def input(self, name: str) -> Path:
        """The verified file or folder of an artifact named in `reads`."""
        ...

    def output(self, name: str) -> Path:
        """Where to write the artifact `name`; it is published when run() returns."""
        ...

    def has_input(self, name: str) -> bool:
        """Whether an artifact named in `optional` is there."""
        ...

    def input_sha256(self, name: str) -> str:
        """The content hash under which the input was published."""
        ...

    def journal(self, name: str = "items", *, durable: bool = False) -> Journal:
        """The phase's item journal. durable=True syncs every record: use it for paid items."""
        ...

    def use(self, kind: str, name: str, *, ready: bool = True) -> Any:
        """The plugin `name` of `kind` ("extractor", "teacher", "provider", "task"), imported now.

        Raises MissingAccess when its extra is not installed; ready=False returns it all the same, for what it says
        about itself.
        """
        ...

    def names(self, kind: str) -> tuple[str, ...]:
        """The names of all plugins of a kind."""
        ...

    def progress(self, done: float, total: float | None = None, note: str = "", **numbers: float) -> None:
        """Say how far the phase is; `numbers` (loss, tokens_per_second) are shown and logged."""
        ...

    def notice(self, text: str) -> None:
        """One line that the user should see and that stays in the log."""
        ...

    def lease(self, offer: Any, deadline_seconds: int, token: str) -> Any:
        """A machine (protocols.Offer -> protocols.Lease): its worst case is reserved, then it is started.

        Idempotent by token. Raises OverBudget before anything is requested.
        """
        ...

    def rehearse(self, phases: Sequence[str], inputs: Mapping[str, Path]) -> Rehearsal:
        """Run machine phases on small inputs in a worker of their own, in a scratch folder; never raises for their faults."""
        ...

    def keep(self, path: Path) -> None:
        """Say that a file or folder in `work` is whole and worth not losing (a sealed checkpoint): on a rented machine it is
        fetched while the phase runs, and lies at the same place in `work` when the phase goes on on another machine.

        A folder must not change afterwards (it may be removed), a file may. Of the folders checkpoint-N of one parent the newest two are kept.
        """
        ...

    def seconds_left(self) -> float | None:
        """Seconds until the machine under the phase ends itself; None in the engine, and where nobody has said when."""
        ...

    def map_shards(
        self, function: Callable[[Any], Any], items: Sequence[Any], on_shard: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[Any] | None:
        """What function([items of a shard]) gives for every shard, in their order, on the executor that the run has chosen (run.executor).

        None when the work is not to be cut (run.shards=0): the phase then does it here. function: one of a module; it, the items and
        the results are pickled, and hold no sets of texts, whose order differs between processes. Shards are every n-th item, so that
        large and small ones mix. on_shard: told (done, all) while it waits. A phase makes its calls in the same order when it is resumed,
        and gets the results of shards that are done.
        """
        ...

    def check_stop(self) -> None:
        """Raise Interrupted when the user asked to stop. Call it between items."""
        ...


C = TypeVar("C", bound=Settings, contravariant=True)


class Phase(Protocol[C]):
    """One step of the pipeline. A package under phases/ exports one as `phase`.

    where: "engine" runs in this process; "machine" runs in `python -m forge.worker` on the leased machine.
    libraries: distributions whose version changes the output; part of the fingerprint.
    always: run even after a failure or an interrupt (teardown).

    A phase may also have:
    parts(settings, inputs) -> Sequence[Sequence[str]]: names of what can be done apart on a machine, in groups: those of a group
        beside each other, one group after another. inputs: artifact -> path. run() with ctx.part set does that one alone, beginning
        with the work of the groups before; without, it finds the work of all parts in ctx.work and does the rest (forge.parts).
    optional: artifacts of `reads` that it can do without; ctx.has_input(name) says whether one is there.
    identity(settings, ctx) -> str: what its result depends on besides inputs, settings and VERSION (its code, plugins).
        A new run then takes the result over from an earlier one that had all the same, if
    access(section, plugin, plan) -> str: looks, before anything is spent and again before the gate, whether it will be let in where it
        goes (a hub); section(name) gives settings, plugin(kind, name) plugins, plan the plan or None. One line to tell, "" for none.
    every_node: bool: on a lease of several nodes it runs on each of them at once (FORGE_NODES); the first one's outputs count.
    may_require: requirements of some of its settings only; `forge doctor` tells of them.
    named_files(settings) -> str: a hash over the contents of files that its settings name; "" without any. A changed one runs it again.
    reusable(metrics) -> Mapping | None: the numbers to show there; None: this result is not for other runs.
    configs: tuple[str, ...]: the tables in configs/ ("gates") that its result depends on; part of the fingerprint.
    no_effect: tuple[str, ...]: settings that change no byte of its outputs; a changed one does not run it again.
    budgeted: bool: its result depends on the budget: one changed before the gate has been passed runs it again.
    tables(find, *, dropped) -> Iterable[Table]: its artifacts as tables; find(name) is the path of one of them.
        dropped=True: what was let go, one row each, with the reason.
    """

    name: ClassVar[str]
    VERSION: ClassVar[int]
    summary: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[tuple[Output, ...]]
    settings: ClassVar[type[Settings]]
    where: ClassVar[Literal["engine", "machine"]]
    libraries: ClassVar[tuple[str, ...]]
    requires: ClassVar[tuple[Requirement, ...]]
    always: ClassVar[bool]

    def estimate(self, settings: C, ctx: Context) -> Estimate:
        """Time and money that run() will take. Spends nothing, needs no network."""
        ...

    def run(self, settings: C, ctx: Context) -> Mapping[str, float | str]:
        """Do the work; returns the numbers for the report. Outputs are a pure function of the inputs."""
        ...

    def undo(self, settings: C, ctx: Context) -> None:
        """Free what run() made outside the run folder. Idempotent."""
        ...
