"""configs/models.yaml as records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from pydantic import Field

from forge.config import load_data
from forge.records import Record

LEAST_STEP_TOKENS = 512
"""Of pretraining: the step that was best on a CPU (configs/models.yaml)."""


class Size(Record):
    """A scratch model without its vocabulary, which the tokenizer brings. `context` in tokens."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    intermediate_size: int
    context: int
    tokens_per_step: int
    use: str


class Reading(Record):
    """Passes over a corpus of at most `tokens_max` tokens, and at which learning rate."""

    tokens_max: int | None = None
    epochs: float
    learning_rate: float


class Pretraining(Record):
    """How a scratch base is trained. good_steps: steps are made smaller for them (tokens_a_step). epochs_of: the most passes for a task, without the least number of steps."""

    min_steps: int
    good_steps: int
    by_corpus: tuple[Reading, ...]
    epochs_of: dict[str, float]


class Tuning(Record):
    """How an adapter of a model of at most `parameters_max` parameters is trained. per_step_of: examples a step, for tasks that want others."""

    parameters_max: int | None = None
    rank: int
    alpha: int
    learning_rate: float
    examples_per_step: int
    epochs: float
    per_step_of: dict[str, int] = Field(default_factory=dict)


class Base(Record):
    """A known pretrained model."""

    license: str
    parameters: int
    context: int
    family: str
    source: str


class Speed(Record):
    """Sustained floating point operations per second, the share of it that adapter training reaches, and the source."""

    flops: float
    source: str
    name: str = ""
    adapter_share: float = 0.75


class Doubled(Record):
    """How much faster twice as many GPUs are."""

    factor: float
    source: str


class Speeds(Record):
    """Speeds by device."""

    cpu_fp32: Speed
    cpu_bf16: Speed
    gpu: tuple[Speed, ...]
    gpu_tokens_per_second_max: float
    doubled_gpus: Doubled


class Rented(Record):
    """Seconds until a machine answers and until it can work, and how fast base and results travel (0: they do not)."""

    boot: float
    environment: float
    mib_per_second: float


class Spot(Record):
    """The share of a training that is made again when its machine is taken away."""

    repeated: float


class Answers(Record):
    """How many answers are generated at most, and the seconds of one at a number of parameters."""

    most: int
    seconds: float
    parameters: int


class Spread(Record):
    """P90 seconds over P50 seconds."""

    table: float
    rehearsed: float


class Tables(Record):
    """The whole file."""

    as_of: object
    scratch: dict[str, Size]
    pretraining: Pretraining
    tuning: tuple[Tuning, ...]
    bases: dict[str, Base]
    speed: Speeds
    answers: Answers
    fixed_seconds: dict[str, float]
    rented: dict[str, Rented]
    spot: Spot
    spread: Spread


@cache
def load_tables() -> Tables:
    """configs/models.yaml, checked."""
    return Tables.model_validate(load_data("models"))


def rented_from(provider: str) -> Rented:
    """What a machine of a provider takes before it works."""
    table = load_tables().rented
    return table.get(provider, table["other"])


def tuning_for(parameters: int) -> Tuning:
    """The first row whose limit the model does not pass."""
    return _first(load_tables().tuning, [row.parameters_max for row in load_tables().tuning], parameters)


def reading_for(tokens: int, task: str) -> Reading:
    """How a corpus of this many tokens is read for a task."""
    table = load_tables().pretraining
    row = _first(table.by_corpus, [row.tokens_max for row in table.by_corpus], tokens)
    return row.model_copy(update={"epochs": min(row.epochs, table.epochs_of.get(task, row.epochs))})


def tokens_a_step(size: Size, wanted: float) -> int:
    """Tokens of a pretraining step when so many are to be read in all: fewer than the size's where there would be few steps."""
    return int(min(size.tokens_per_step, max(LEAST_STEP_TOKENS, wanted / load_tables().pretraining.good_steps)))


def least_steps(task: str) -> int:
    """Of pretraining, however small the corpus."""
    table = load_tables().pretraining
    return 0 if task in table.epochs_of else table.min_steps


Row = TypeVar("Row")


def _first(rows: Sequence[Row], limits: Sequence[int | None], value: int) -> Row:
    return next(row for row, limit in zip(rows, limits, strict=True) if limit is None or value <= limit)
