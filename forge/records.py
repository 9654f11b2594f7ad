"""What flows between phases: frozen records, one JSON object a line, sorted by id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forge.errors import ArtifactDamaged


class Record(BaseModel):
    """Base of everything that is written to an artifact: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- corpus and prep -------------------------------------------------------------------------------------------


class CorpusEntry(Record):
    """One name found by the walk. `kind` other than "file" is reported, never opened."""

    path: str
    kind: Literal["file", "symlink", "special", "unreadable"]
    size: int = 0
    sha256: str = ""
    note: str = ""


class Source(Record):
    """Where a text came from. `locator` ("page=12", "slide=3", "heading=Install") survives to the model card."""

    path: str
    sha256: str
    locator: str = ""


class Balance(Record):
    """Characters of one file: extracted = kept + sum(dropped.values()) + duplicate. Asserted by prep."""

    extracted: int = 0
    kept: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    duplicate: int = 0

    @property
    def holds(self) -> bool:
        """True when no character is unaccounted for."""
        return self.extracted == self.kept + sum(self.dropped.values()) + self.duplicate


class Document(Record):
    """How one file ended: ok, skipped, refused or failed, with the reason for the last three."""

    id: str
    source: Source
    media_type: str
    extractor: str = ""
    status: Literal["ok", "skipped", "refused", "failed"]
    reason: str = ""
    chars: int = 0
    license: str | None = None
    balance: Balance = Balance()


class Piece(Record):
    """What an extractor yields, in reading order: one block of text with its place in the file.

    heading: the headings above it, outermost first, joined by " > "; a piece of kind "heading" ends with itself.
    dropped: why the text must not be kept ("page header", "front matter"); it stays in the balance. With an empty
    text it reports a loss that has no characters ("page without a text layer").
    kind "record": one row of ready-made data (a question with its answer); "metadata": facts about the file, not its text.
    """

    text: str
    locator: str = ""
    heading: str = ""
    kind: Literal["prose", "heading", "list", "table", "code", "notes", "header", "record", "metadata"] = "prose"
    dropped: str = ""


class Passage(Record):
    """A stretch of one document, cut by structure. `group` may never be on both sides of a split.

    meta: "heading" and "kind" from prep; "subtopic" from audit (absent or "" when the corpus is too small to have any).
    """

    id: str
    source: Source
    group: str
    text: str
    tokens: int = 0
    meta: dict[str, str] = Field(default_factory=dict)


class Drop(Record):
    """Why audit let a passage go; `dup_of` names the copy that stayed, `chars` how much went with it."""

    id: str
    reason: str
    detail: str = ""
    dup_of: str = ""
    similarity: float | None = None
    source: Source
    chars: int
    sample: str = ""


# --- synth and shape -------------------------------------------------------------------------------------------


class Message(Record):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Quote(Record):
    """An exact stretch of a passage that supports an answer."""

    passage: str
    evidence: str


class Pair(Record):
    """A question with its answer, as a teacher proposed it and the filters let it through.

    answerable pairs: `evidence` is an exact span of the passage. `fact` groups the question forms that ask
    for the same thing, so that one form can be held out (test_recall). Abstention pairs have no passage.
    also: what other passages add to the evidence of a comparison. earlier: the turns of a conversation before the question.
    subtopic: that of its passage, as audit named it; "" without one.
    """

    id: str
    bucket: str
    question: str
    answer: str
    evidence: str = ""
    passage: str = ""
    group: str = ""
    fact: str = ""
    form: int = 0
    source: Source | None = None
    teacher: str = ""
    names: tuple[str, ...] = ()
    subtopic: str = ""
    also: tuple[Quote, ...] = ()
    earlier: tuple[Message, ...] = ()

    @property
    def asked(self) -> str:
        """Everything that the user says: the question with the turns before it, one a line."""
        return "\n".join([*(turn.content for turn in self.earlier if turn.role == "user"), self.question])


class Rejected(Record):
    """A proposed pair that a filter refused, and which filter."""

    id: str
    reason: str
    pair: Pair


class Chat(Record):
    """A conversational prompt/completion row: only the completion is trained on."""

    task: Literal["chat"] = "chat"
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    answerable: bool = True


class Labelled(Record):
    """A text with its class label and a one-sentence rationale.

    question: what is asked about the text; then the text may be empty (closed book). labels: all labels of the data set.
    instruction: the system message. source: which data set or annotator it came from.
    """

    task: Literal["label"] = "label"
    text: str
    label: str
    rationale: str | None = None
    question: str = ""
    labels: tuple[str, ...] = ()
    instruction: str = ""
    source: str = ""


class Span(Record):
    """A typed stretch of a text; offsets are characters, end exclusive."""

    type: str
    text: str
    start: int
    end: int


class Relation(Record):
    """A typed edge between two spans, by their index."""

    head: int
    type: str
    tail: int


class Extraction(Record):
    """A text with its entities and relations.

    types, relation_types: all that the data set knows. instruction: the system message. source: as in Labelled.
    """

    task: Literal["extract"] = "extract"
    text: str
    entities: tuple[Span, ...] = ()
    relations: tuple[Relation, ...] = ()
    types: tuple[str, ...] = ()
    relation_types: tuple[str, ...] = ()
    instruction: str = ""
    source: str = ""


class Box(Record):
    """A labelled rectangle; coordinates are shares (0..1) of width and height."""

    label: str
    x: float
    y: float
    width: float
    height: float


class Detection(Record):
    """An image with its boxes."""

    task: Literal["detect"] = "detect"
    image: str
    boxes: tuple[Box, ...] = ()


Split = Literal["train", "val", "test_recall", "test_unseen", "test_abstain"]


class Example(Record):
    """One row of a split. `origin` lists passage ids; `group` decides the side of the split."""

    id: str
    split: Split
    group: str
    origin: tuple[str, ...] = ()
    bucket: str = ""
    names: tuple[str, ...] = ()
    subtopic: str = ""
    stage: str = ""
    body: Annotated[Chat | Labelled | Extraction | Detection, Field(discriminator="task")]


class KnownBase(Record):
    """The model that is tuned, as shape found it (base-source/base.json). kind: scratch = trained here from nothing,
    folder = its weights lie beside base.json, hub = they are fetched at `revision` where training runs, random = a tiny
    model of its architecture, for rehearsals (real_parameters: of the one it stands for). template: the base's own, or the one it was given. continues: the run whose
    merged model it is.
    """

    kind: Literal["scratch", "folder", "hub", "random"]
    name: str
    revision: str = ""
    license: str = ""
    architecture: str = "LlamaForCausalLM"
    parameters: int = 0
    real_parameters: int = 0
    context: int = 0
    template: Literal["own", "chatml", "plain"] = "chatml"
    continues: str = ""


class StageData(Record):
    """What shape put into a stage: rows and tokens of its training rows; epochs and rate as asked for (0: the table's)."""

    name: str
    rows: int
    tokens: int
    epochs: float = 0.0
    rate: float = 1.0


class DataContract(Record):
    """shape.json: what the rows promise, counted with the real tokenizer. All lengths in tokens.

    ready: for rows of ready-made data, what was read and left out, by reason.
    """

    base: str
    system_prompt: str
    abstention: str
    chat_template_sha256: str
    counts: dict[str, int]
    groups: dict[str, int]
    tokens: dict[str, int]
    longest: int
    longest_prompt: int
    max_length: int
    too_long: int
    pretrain_tokens: int
    vocab_size: int
    leakage: dict[str, float]
    buckets: dict[str, int]
    task: Literal["chat", "label", "extract", "detect"] = "chat"
    ready: dict[str, int] = Field(default_factory=dict)
    model: KnownBase | None = None
    subtopics: dict[str, int] = Field(default_factory=dict)
    reviewed: dict[str, int] = Field(default_factory=dict)
    stages: tuple[StageData, ...] = ()


# --- plan, verdicts --------------------------------------------------------------------------------------------


class Verdict(Record):
    """One measured answer to one question; `undecided` when it could not be measured well enough."""

    name: str
    estimate: float | None
    ci: tuple[float, float] | None = None
    n: int = 0
    threshold: float | None = None
    outcome: Literal["pass", "fail", "undecided"]
    evidence: str = ""
    kind: Literal["quality", "integrity", "info"] = "quality"


class ScratchBase(Record):
    """A Llama-architecture model trained from random weights on the kept passages."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    context: int
    steps: int
    rows_per_step: int
    learning_rate: float


class LoraPlan(Record):
    """Adapter training, with every number that the trainer uses. `steps` are optimizer steps."""

    rank: int
    alpha: int
    target_modules: str
    learning_rate: float
    epochs: float
    steps: int
    examples_per_step: int
    max_length: int


class Candidate(Record):
    """One setting of a sweep; everything else is the plan's LoraPlan."""

    name: str
    rank: int
    alpha: int
    learning_rate: float


class SweepPlan(Record):
    """A grid of adapters over one base. halving: after a third and two thirds of the steps the weaker half stops."""

    candidates: tuple[Candidate, ...]
    halving: bool = False


class StagePlan(Record):
    """One of several data sets that the same adapter is trained on in turn. rows: of the training split that are this stage's."""

    name: str
    rows: int
    lora: LoraPlan


class MachineRow(Record):
    """One machine that plan_fit considered, in USD and hours of the whole lease; or a provider without any (offer "").

    verdict: "alternate" is of the chosen one's kind and not dearer, and is leased when that one cannot be had. reason: one phrase.
    tokens_per_second: of training, in tokens that are no padding.
    """

    provider: str
    verdict: Literal["chosen", "alternate", "possible", "rejected"]
    reason: str
    offer: str = ""
    gpu: str = ""
    gpus: int = 1
    nodes: int = 1
    gpu_memory_gib: float = 0.0
    cores: int = 0
    memory_gib: float = 0.0
    region: str = ""
    spot: bool = False
    usd_per_hour: float = 0.0
    price_source: str = ""
    tokens_per_second: float = 0.0
    hours_p50: float = 0.0
    usd_p50: float = 0.0
    usd_p90: float = 0.0
    worst_usd: float = 0.0


class Plan(Record):
    """What the human approves. Its canonical JSON is hashed; any change voids the approval.

    worst_usd: what is reserved for the machine: it runs to its deadline, and a tenth more. memory_gib, gpu_memory_gib, disk_gib:
    what the work needs. alternates: offers of the same provider and kind that may be leased instead. preflight: what was proven
    about the machine.
    """

    run: str
    name: str
    task: Literal["chat", "label", "extract", "detect"]
    base: str
    base_license: str
    architecture: str
    parameters: int
    scratch: ScratchBase | None
    lora: LoraPlan
    precision: str
    seed: int
    dry_run: bool
    system_prompt: str
    abstention: str
    teacher: str
    provider: str
    offer: str
    usd_per_hour: float
    deadline_seconds: int
    cost_p50_usd: float
    cost_p90_usd: float
    budget_usd: float
    quantizations: tuple[str, ...]
    hub: str
    visibility: Literal["local", "private", "public"]
    verdicts: tuple[Verdict, ...]
    thresholds: dict[str, float]
    data: dict[str, str]
    reasons: dict[str, str]
    sweep: SweepPlan | None = None
    stages: tuple[StagePlan, ...] = ()
    continues: str = ""
    tuning: Literal["lora", "full"] = "lora"
    gpu: str = ""
    gpus: int = 1
    nodes: int = 1
    spot: bool = False
    region: str = ""
    image: str = ""
    price_source: str = ""
    worst_usd: float = 0.0
    memory_gib: float = 0.0
    gpu_memory_gib: float = 0.0
    disk_gib: float = 0.0
    alternates: tuple[str, ...] = ()
    preflight: tuple[str, ...] = ()
    machines: tuple[MachineRow, ...] = ()


PLACE_AND_PRICE = frozenset({
    "provider", "offer", "usd_per_hour", "deadline_seconds", "cost_p50_usd", "cost_p90_usd", "budget_usd", "reasons", "verdicts",
    "gpu", "gpus", "nodes", "spot", "region", "image", "price_source", "worst_usd", "memory_gib", "gpu_memory_gib", "disk_gib", "alternates",
    "preflight", "machines",
})
"""Fields of a plan that say where it is carried out, at what price, and why: no byte of what is trained depends on them."""


# --- reading and writing ---------------------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)   # json.dumps makes one for each call


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8. What hashes are taken of."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return _CANONICAL.encode(plain)


def digest(*parts: str) -> str:
    """sha256 hex of the parts, each length-prefixed so that no two lists collide."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.hexdigest()


def write_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records sorted by their `id` (arrival order when they have none); returns how many."""
    rows = list(records)
    rows.sort(key=lambda row: getattr(row, "id", ""))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(canonical_json(row) + "\n")
    return len(rows)


def stream_jsonl(path: Path, records: Iterable[Record]) -> int:
    """Write records in the order in which they come, holding one at a time; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, record in enumerate(records, 1):  # noqa: B007 - counted for the caller
            file.write(canonical_json(record) + "\n")
    return count


def read_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Stream the records of an artifact. Raises ArtifactDamaged with the line number."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise ArtifactDamaged(
                    f"{path.name}:{number} is not a {kind.__name__}", why=str(error.errors()[0]["msg"])
                ) from error


def write_json(path: Path, value: Any) -> None:
    """Write one value as readable JSON: sorted keys, two spaces, final newline."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def read_record(path: Path, kind: type[R]) -> R:
    """Read one record from a JSON file. Raises ArtifactDamaged when it does not fit."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ArtifactDamaged(f"{path.name} is not a {kind.__name__}", why=str(error.errors()[0]["msg"])) from error
