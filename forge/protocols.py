"""What a plugin has to offer, one protocol per kind. Each plugin module exports one instance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import Field

from forge.phase import Requirement, Settings
from forge.records import (
    Example,
    Extraction,
    Labelled,
    Message,
    Passage,
    Piece,
    Quote,
    Record,
    Verdict,
)

# --- extractors ------------------------------------------------------------------------------------------------


Option = bool | int | float | str


@dataclass(frozen=True)
class Reading:
    """What an extractor gets besides the file.

    media_type: what prep's router took the file for. name: the file's path as the corpus lists it ("a/b.zip!/c.eml");
    the file itself may be a temporary copy. options: prep's settings for reading ("ocr": "auto"), by name.
    scratch: an empty folder to write to, removed afterwards; nothing else can be written.
    sidecars: the files that belong to this one, by what follows its stem in lower case (".dbf", ".data/rdb/refs.myd").
    """

    media_type: str
    name: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    scratch: Path = Path()
    sidecars: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Embedded:
    """A file inside a file: an archive's member, a mail's attachment. Prep routes it back through the walk.

    name: its path inside, as stored; prep makes it safe and counts its bytes against the limits of the whole file.
    chunks: its bytes; read, at most once, before the extractor is asked for its next item.
    note: why it cannot be read ("encrypted member"); it is then reported and chunks stays empty.
    """

    name: str
    chunks: Iterable[bytes] = ()
    note: str = ""


class Extractor(Protocol):
    """Reads one family of files. Exported as `extractor`; entry point group `forge.extractors`.

    media_types: what prep's router may hand over ("application/pdf").
    extensions: lower case with the dot; used when the content does not decide. Maps to a media type.
    magic: byte prefixes that claim a file of a type that the router does not know.

    It may also have (prep looks with getattr):
    priority: int, 0 unless told; where two claim a type the higher one reads it.
    accepts(head: bytes, name: str) -> str: a media type for a file whose first 64 KiB it recognises, else "".
        Asked before the router decides, except that containers are checked for bombs first.
    sidecars: Mapping[str, tuple[str, ...]]: extension -> endings of files that belong to one with that extension
        ({".shp": (".dbf", ".shx")}; an ending with a slash means a folder and all below it). They are handed over in
        Reading.sidecars and not read by themselves.
    programs: tuple[str, ...]: programs that it calls; a file is read again when one of them comes or goes.
    state() -> str: what else on this machine its results depend on ("tesseract eng, osd"), with the same effect.
    """

    name: ClassVar[str]
    media_types: ClassVar[tuple[str, ...]]
    extensions: ClassVar[Mapping[str, str]]
    magic: ClassVar[Mapping[bytes, str]]
    requires: ClassVar[tuple[Requirement, ...]]

    def extract(self, path: Path, ctx: Reading) -> Iterator[Piece | Embedded]:
        """Yield the file's text in reading order. Raises ExtractError(why); never returns half a file."""
        ...


# --- sources ---------------------------------------------------------------------------------------------------


class Sample(Record):
    """One file or row of a source, to look at: where it is, and the beginning of its text."""

    place: str
    text: str


class Preview(Record):
    """What a source holds, as far as can be told without fetching it. None = not known before the fetch."""

    files: int | None = None
    rows: int | None = None
    bytes: int | None = None
    samples: tuple[Sample, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Fetching:
    """What a source gets besides its settings.

    base: the folder that relative paths in sources.yaml start from.
    secret(VARIABLE): the value of an environment variable; from then on it is hidden in every message.
    hide(value): hides a value that was made from a secret ("Basic …").
    check_stop(): raises Interrupted when the user asked to stop; call it between files or rows.
    progress(done, total or None): how many files or rows are fetched.
    previous, facts: the files and facts of the last fetch of the same settings, so that what has not changed need not
    be fetched again (ETag); None and empty the first time.
    """

    base: Path
    secret: Callable[[str], str]
    hide: Callable[[str], None] = lambda value: None
    check_stop: Callable[[], None] = lambda: None
    progress: Callable[[int, int | None], None] = lambda done, total: None
    previous: Path | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InPlace:
    """Local files that are read where they are. root: a folder, or one file; wanted(path below root) picks."""

    root: Path
    wanted: Callable[[str], bool] = lambda path: True


class SourceReader(Protocol):
    """Brings documents of one kind of place. Exported as `source`; entry point group `forge.sources`.

    name: the `kind` in sources.yaml. settings: a forge.phase.Settings with the other keys.

    It may also have (the engine looks with getattr):
    VERSION: int, 1 unless told; a higher one fetches existing snapshots again.
    in_place(settings, ctx: Fetching) -> InPlace: for files on this machine; they are then listed and not copied, and
        fetch and preview are never called.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Requirement, ...]]
    settings: ClassVar[type[Settings]]

    def fetch(self, settings: Any, folder: Path, ctx: Fetching) -> Mapping[str, Any]:
        """Write the source's files into the empty `folder`, with names and bytes that depend on the source only.

        Returns facts for the manifest (a commit, ETags), without secrets. Raises ForgeError.
        """
        ...

    def preview(self, settings: Any, samples: int, ctx: Fetching) -> Preview:
        """Counts and up to `samples` samples, without fetching everything. Raises ForgeError."""
        ...


# --- teachers --------------------------------------------------------------------------------------------------


class CheckItem(Record):
    """One pair to check, by its number in the request: "answer" shows the question only, "judge" all of it.

    passage: which one of the request's it is about: 1 is `passage`, 2 the first of `context`.
    """

    number: int
    question: str
    answer: str = ""
    evidence: str = ""
    passage: int = 1


class Reply(Record):
    """What a teacher answered to one question from the passage alone; empty when the passage does not tell."""

    number: int
    answer: str


class Judgement(Record):
    """What a teacher says about one pair beside its passage and evidence."""

    number: int
    supported: bool
    contradicts: bool
    complete: bool
    self_contained: bool


class TeacherRequest(Record):
    """One question to a teacher. `key` = sha256(passage + prompt + model + parameters): the journal's key.

    kind: "pairs", "abstain" and "out_of_scope" ask for proposals; "answer" (replies) and "judge" (verdicts) are about
    `items` and go only to teachers whose capabilities have `checks`; "check" mixes both: items with an answer are judged,
    the others answered. "facts" asks about `passage` and every one of `context` at once, for as many pairs of each bucket
    as `quota` says, and goes only to teachers whose capabilities have `facts`.
    """

    key: str
    kind: str
    passage: Passage
    context: tuple[Passage, ...] = ()
    prompt: str = ""
    wanted: int = 0
    max_output_tokens: int = 1024
    items: tuple[CheckItem, ...] = ()
    quota: dict[str, int] = Field(default_factory=dict)


class Proposal(Record):
    """One pair that a teacher proposes; the filters decide.

    passage: the id of the one that `evidence` stands in; "" for the request's own. also, earlier: as in a Pair.
    """

    bucket: str
    question: str
    answer: str
    evidence: str
    fact: str = ""
    form: int = 0
    passage: str = ""
    also: tuple[Quote, ...] = ()
    earlier: tuple[Message, ...] = ()


class Usage(Record):
    """Tokens of one call, as the teacher counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0


class TeacherResponse(Record):
    """A teacher's answer with its real price in micro-dollars. names: spellings that it found must be reproduced exactly."""

    key: str
    proposals: tuple[Proposal, ...] = ()
    replies: tuple[Reply, ...] = ()
    verdicts: tuple[Judgement, ...] = ()
    names: tuple[str, ...] = ()
    usage: Usage = Usage()
    micro_usd: int = 0
    stop_reason: str = "end"
    error: str = ""


class TeacherCapabilities(Record):
    """What a teacher can do; phases adapt to it.

    resumes: it notes what it hands in before it does, and collects what an earlier process handed in. An open
    reservation of an earlier process is then for the same act and is taken up instead of made anew.
    checks: it answers the request kinds "answer", "judge" and "check". facts: it answers the request kind "facts".
    buckets: what it can make; () stands for everything.
    """

    paid: bool
    json_schema: bool = False
    batch: bool = False
    deterministic: bool = False
    resumes: bool = False
    checks: bool = False
    facts: bool = False
    buckets: tuple[str, ...] = ()


class TeacherBrief(Record):
    """How a run wants its teacher.

    model: the vendor's model id. endpoint: base URL, or a file for teachers that read one. mode: "batch" (half the price
    where the vendor has it, hours instead of minutes), "live", or "auto" (batch where there is one).
    in_flight: most requests at once. notes: a folder that survives kills, for ids that must not be lost.
    """

    model: str = ""
    endpoint: str = ""
    mode: Literal["auto", "batch", "live"] = "auto"
    in_flight: int = 16
    notes: str = ""


class Teacher(Protocol):
    """Turns passages into proposed pairs. Exported as `teacher`; entry point group `forge.teachers`.

    It may also have (synth looks with getattr):
    briefed(brief: TeacherBrief) -> Teacher: the same teacher, set up for a run. Spends nothing, opens no connection.
    preflight() -> None: raises MissingAccess or UsageError before anything is reserved (key, model, endpoint). Spends nothing.
    metered(meter: forge.ledger.Meter, wait: forge.ledger.Wait) -> Teacher: the same teacher, which then writes a line of the
        ledger before each attempt is sent and its outcome after it, and waits through `wait`, so that a user can stop it. For a
        teacher without it one line is reserved and settled for each request, whatever attempts that takes.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Requirement, ...]]

    def capabilities(self) -> TeacherCapabilities:
        """What this teacher can do."""
        ...

    def price(self, request: TeacherRequest) -> int:
        """The worst case of one request in micro-dollars, reserved before the call."""
        ...

    def generate(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """Answer the requests in any order, each with its usage and real cost."""
        ...


# --- compute ---------------------------------------------------------------------------------------------------


ENVIRONMENT_GIB = 12.0
"""Python with torch and CUDA on a machine's disk, with what it is installed from: about 3 GB of wheels, 8 GB unpacked."""


class Need(Record):
    """What the plan asks of a machine.

    disk_gib: with ENVIRONMENT_GIB for Python; a machine that has an environment needs so much less.
    """

    parameters: int
    memory_gib: float
    gpu: bool
    seconds: float
    gpu_memory_gib: float = 0.0
    disk_gib: float = 0.0


class Offer(Record):
    """One machine that could do it. Prices in USD; `reason` says why it was ranked so.

    name: what finds it again at the provider, unique among its offers ("g5.xlarge spot us-east-1"). usd_per_hour: everything
    that bills while it is up (disk, address); for spot the most that it may cost. gpus, cores, memory_gib: of each node.
    bf16: it multiplies bfloat16 natively; without, bf16 autocast is emulated and slower than fp32.
    image: the machine image, resolved. price_source: where the price comes from, with its date.
    """

    provider: str
    name: str
    usd_per_hour: float
    device: Literal["cpu", "cuda"]
    cores: int
    memory_gib: float
    gpu: str = ""
    gpu_memory_gib: float = 0.0
    bf16: bool = False
    reason: str = ""
    gpus: int = 1
    nodes: int = 1
    spot: bool = False
    region: str = ""
    image: str = ""
    price_source: str = ""


class Lease(Record):
    """A right to one machine until a deadline. `token` makes start() idempotent.

    attempt: 2 when an earlier machine of the token is gone for good; clouds that remember tokens need another one then.
    """

    token: str
    run: str
    offer: Offer
    deadline_seconds: int
    attempt: int = 1


class Resource(Record):
    """A machine, or a thing made for one, as the provider reports it.

    kind: "machine", or what bills or clutters beside it ("key", "group", "volume", "address"): stop() removes it too.
    run: the run whose lease it was started for, from the provider's tags. held: the provider can tell that the process
    that leased it is alive. overdue: it is past its deadline, by the provider's clock.
    """

    provider: str
    id: str
    lease: str
    state: Literal["starting", "live", "stopping", "gone"]
    address: str = ""
    run: str = ""
    held: bool = False
    overdue: bool = False
    kind: str = "machine"


RESULTS = "results"
"""Kind of what jobs bring out of their machines (Provider.left): kept, and the machine with it, for a run that may come back for it."""

PREEMPTED, PAST_DEADLINE, ABANDONED = 85, 86, 87
"""Exit codes that a job's watcher gives it: the provider takes the machine back; the deadline came; nobody asked for too long.
The job was asked to stop first, so that its last checkpoint is whole."""


class Channel(Protocol):
    """Files and jobs on a resource. Job ids are idempotent: spawning twice starts once.

    `remote` is relative to the channel's root on the resource; path() gives the absolute one. A job's folder is
    jobs/<job>: its output goes to jobs/<job>/log. Every method raises MachineLost when the machine does not answer any more;
    short breaks are waited out inside.

    poll_seconds: how often it is worth asking. durable: files outlive the machine and are here already (this machine, a
    shared file system); else checkpoints are fetched while a job runs, by get() in a thread beside the one that polls.
    """

    poll_seconds: float
    durable: bool

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Make the machine ready for jobs of this version of slm-forge; idempotent. Returns the Python to start them with.

        tell(text): one line for the user about what takes long.
        """
        ...

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Send a file or folder, resuming a broken transfer; sha256 (forge.store.hash_path): skip what is there already."""
        ...

    def get(self, remote: str, local: Path) -> None:
        """Fetch a file or folder; the local one is whole or not there."""
        ...

    def read(self, remote: str, offset: int) -> bytes:
        """The bytes of a file from an offset on; empty when there is none (yet)."""
        ...

    def spawn(self, job: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Start a job in the job's folder; a second call with the same id does nothing, whatever became of the first."""
        ...

    def poll(self, job: str) -> int | None:
        """The job's exit code, or None while it runs. A dead job without one counts as -1, and so does one never started."""
        ...

    def path(self, remote: str) -> str:
        """The absolute path of a remote name on the resource."""
        ...

    def stop(self, job: str, *, grace_seconds: float) -> None:
        """Ask the job to stop, then end it with everything it started."""
        ...


class Provider(Protocol):
    """Leases machines. Exported as `provider`; entry point group `forge.compute`.

    It may also have (the engine looks with getattr):
    settings: type[Settings]: its section of the configuration, under its name ("ssh.host").
    configured(settings) -> Provider: a provider with these settings. Reads no network, spends nothing.
    creation_seconds: float, 60 unless told: how long find() may not list a machine that start() has made.
    confirm_seconds: float, 60 unless told: how far apart two looks are that prove a machine gone; 0 where the provider's
        list is the truth itself.
    preflight(offer) -> list[str]: what was proven about starting it (rights, quota), one line each, without starting anything.
        Raises MissingAccess or NoCapacity with what to do. Asked when the plan is made.
    stop_command(resource) -> str: what a person types to end the machine by hand.
    idle_seconds: float: how long a job goes on when nobody asks for it; then it is asked to stop, and its machine ends. Without it
        a run that is stopped with on_interrupt=keep ends its machine all the same.
    goes_on: bool: a job that nobody asks for works on until its phase is done, or the deadline; idle_seconds then counts from there.
    left(lease) -> Channel | None: what the jobs of a lease have brought out of machines that may be gone, to be read by read() and get()
        under the names it had there: the folder of a job's phase and that of the job. None when there is nothing. What holds it is
        listed by find() under the kind RESULTS, and removed by stop().
    unready() -> str: why it cannot be used from here ("" when nothing is missing), without asking a network. `forge doctor` tells it.
    everywhere() -> Provider: the same provider, whose find("all") looks in all regions and not only in those of its settings.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Requirement, ...]]

    def quote(self, need: Need) -> list[Offer]:
        """Offers that fit, best first; none without what it needs to be used (a host, a login). Spends nothing."""
        ...

    def start(self, lease: Lease) -> Resource:
        """Start the machine; idempotent by (lease.token, lease.attempt). May raise NoCapacity: then nothing was made.

        Any other exception that is no ForgeError means that the outcome is unknown: find() is asked before anything else.
        """
        ...

    def find(self, scope: str) -> list[Resource]:
        """What the provider says exists for a lease token, a run id or "all". Never asks our own records."""
        ...

    def stop(self, resource: Resource) -> None:
        """Ask for termination, or remove a thing of another kind; find() confirms it. Idempotent."""
        ...

    def channel(self, resource: Resource, root: Path) -> Channel:
        """Files and jobs on the resource; `root` is where a local provider may work, and any may keep what it needs for the lease."""
        ...

    def settle(self, resource: Resource) -> int:
        """The real cost so far in micro-dollars, from the provider's own timestamps."""
        ...


# --- tasks -----------------------------------------------------------------------------------------------------


class Prediction(Record):
    """What the models said to one test example. NLL is the sum over the answer's tokens and its end, in nats.

    generated: `tuned` (and `base`, for a few rows) was generated; an empty answer is then an answer, not a gap.
    body: the example itself, for tasks other than chat. seen: those of its mentions that training rows have too.
    others: the answers of baselines and of models that were compared, by name. label_scores: the tuned model's
    log-probability of each label as the beginning of the answer.
    """

    id: str
    split: str
    group: str
    prompt: tuple[Message, ...]
    gold: str
    answerable: bool
    names: tuple[str, ...] = ()
    answer_tokens: int
    nll_base: float
    nll_tuned: float
    base: str = ""
    tuned: str = ""
    generated: bool = False
    finished: bool = True
    subtopic: str = ""
    body: Labelled | Extraction | None = None
    seen: tuple[str, ...] = ()
    others: dict[str, str] = Field(default_factory=dict)
    label_scores: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A number by which two models are compared on the same test rows: a statistic of counts summed over rows.

    of(row): the counts of what `tuned` and `nll_tuned` of one row say; None where they say nothing.
    statistic(summed counts): the number; the first by the second unless told.
    hits: the counts are (1 or 0, 1), right or wrong, so McNemar's exact test has a say as well.
    """

    name: str
    about: str
    of: Callable[[Prediction], tuple[float, ...] | None]
    lower_is_better: bool = False
    hits: bool = False
    statistic: Callable[[tuple[float, ...]], float] = lambda sums: sums[0] / sums[1] if sums[1] else 0.0


class Task(Protocol):
    """A kind of example: how it is asked, read and scored. Exported as `task`; group `forge.tasks`.

    It may also have (the phases look with getattr):
    describe(bodies) -> Sequence[body]: the bodies with what they share written into each (labels, types, instruction).
    baselines(train, tests, seed) -> Mapping[str, Sequence[str]]: answers of models that learn nothing or little, by name,
        one for each test example, written as target() writes them.
    temperature: what its answers are sampled at when eval is asked to; tasks without one are decoded greedily only.
    seen(train, tests) -> Sequence[tuple[str, ...]]: for each test example what training rows have of it too.
    label_prefixes(example) -> Mapping[str, str]: label -> the beginning of the answer that decides for it.
    audit(train, tests) -> Sequence[Verdict]: what can be said about the rows before anything is trained.
    measures(abstention) -> Sequence[Measure]: what `forge compare` and promotion look at, the deciding one first.
    """

    name: ClassVar[str]

    def prompt(self, example: Example) -> tuple[Message, ...]:
        """The turns that the model sees."""
        ...

    def target(self, example: Example) -> str:
        """The text that the model should answer with."""
        ...

    def parse(self, text: str) -> str:
        """A model's raw text as the task's answer."""
        ...

    def score(self, predictions: Sequence[Prediction], *, abstention: str, seed: int) -> list[Verdict]:
        """Metrics with intervals, cluster-bootstrapped by group; no thresholds yet."""
        ...

    def gates(self, verdicts: Sequence[Verdict], thresholds: Mapping[str, float]) -> list[Verdict]:
        """The same verdicts with outcome decided: pass, fail, or undecided when the interval straddles."""
        ...

    def card_text(self, verdicts: Sequence[Verdict]) -> str:
        """The evaluation section of the model card, in Markdown."""
        ...


# --- hubs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shipment:
    """What a hub shall hold: all files of `folder`, nothing else.

    repo: where ("owner/name"); empty: the account's own, under `name`. tag: names this publication for ever.
    kind: a model, a data set, or a demo (a Space) that runs on one.
    """

    folder: Path
    name: str
    repo: str
    visibility: Literal["private", "public"]
    tag: str
    message: str
    check_stop: Callable[[], None] = lambda: None
    kind: Literal["model", "dataset", "space"] = "model"


class Published(Record):
    """Where a publication lies now, compared file by file with what was sent."""

    url: str
    repo: str
    commit: str
    tag: str
    visibility: Literal["private", "public"]


class Hub(Protocol):
    """Keeps published models. Exported as `hub`; entry point group `forge.hubs`.

    Asked before anything is spent as well: preflight(repo, "") then looks at the account alone.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Requirement, ...]]

    def preflight(self, repo: str, name: str, kind: Literal["model", "dataset", "space"] = "model") -> str:
        """The repository that a publication would go to (without repo and name: the account). Changes nothing.

        Raises MissingAccess when the token may not write there, UsageError when it holds what we did not publish.
        """
        ...

    def publish(self, shipment: Shipment) -> Published:
        """Make the repository hold exactly the folder. Nothing is public before it was compared; idempotent, resumable."""
        ...


# --- trackers --------------------------------------------------------------------------------------------------


class Tracked(Record):
    """One forged model for a tracker. curves: name -> (step, value). started, ended: seconds since 1970. sha256: of all but the times."""

    run: str
    name: str
    place: str
    params: dict[str, str]
    metrics: dict[str, float]
    curves: dict[str, tuple[tuple[int, float], ...]]
    tags: dict[str, str]
    started: float
    ended: float
    sha256: str


class Tracker(Protocol):
    """Mirrors runs for people who look at them elsewhere. Exported as `tracker`; entry point group `forge.trackers`.

    default: where to, unless told; "{home}" stands for FORGE_HOME.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Requirement, ...]]
    default: ClassVar[str]

    def mirror(self, rows: Sequence[Tracked], where: str) -> tuple[str, ...]:
        """Make the place hold these runs, each once; returns those that were new or had changed. Raises ForgeError."""
        ...


# --- executors -------------------------------------------------------------------------------------------------

S = TypeVar("S")
T = TypeVar("T")


class Executor(Protocol):
    """Runs a pure function over shards; results do not depend on how many workers there are.

    folder: where shards and results lie (forge.executor); removed by whoever asked when the results are no longer needed.
    """

    folder: Path

    def map_shards(self, function: Callable[[S], T], shards: Iterable[S]) -> Iterator[T]:
        """Results in the order of the shards."""
        ...


# --- importers -------------------------------------------------------------------------------------------------


class Ready(Record):
    """One example of ready-made data. group: its source document; "" when the data do not tell.

    part: the side that the data set gives it ("train", "val", "test"), if any. place: where it stands ("line=7").
    """

    group: str
    body: Labelled | Extraction
    part: str = ""
    place: str = ""


@dataclass(frozen=True)
class Importing:
    """What an importer gets besides the files.

    task: "label" or "extract". columns: which column is what ("text", "label", "group", ...). options: by name.
    """

    task: str
    columns: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)


class Importer(Protocol):
    """Reads ready-made data of one format. Exported as `importer`; entry point group `forge.importers`.

    tasks: the tasks that its examples are for. priority: the higher one is asked first whether it knows a file.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    priority: ClassVar[int]
    requires: ClassVar[tuple[Requirement, ...]]

    def accepts(self, path: Path, name: str) -> bool:
        """True for a file of this format, by its name and beginning."""
        ...

    def read(self, paths: Sequence[tuple[Path, str]], how: Importing) -> Iterator[Ready]:
        """The examples of the files, given with their names in the corpus, as one data set. Raises ForgeError naming file and place."""
        ...


PLUGIN_KINDS: dict[str, tuple[str, str]] = {
    "extractor": ("forge.extractors", "extractor"),
    "source": ("forge.sources", "source"),
    "teacher": ("forge.teachers", "teacher"),
    "provider": ("forge.compute", "provider"),
    "task": ("forge.tasks", "task"),
    "importer": ("forge.importers", "importer"),
    "hub": ("forge.hubs", "hub"),
    "tracker": ("forge.trackers", "tracker"),
}
"""kind -> (entry point group, attribute that a plugin file exports)."""

Plugin = Any
