"""shape: splits the pairs by document, makes the tokenizer, and proves that no test question or document is in training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.phases.shape.imports import DataSource
from forge.phases.shape.stages import Stage

SECONDS_PER_MB, SECONDS_TO_START = 6.0, 1.0
"""Tokenizer training, counting and the similarity search on the Rust book and the OWASP cheat sheets."""


class ShapeSettings(Settings):
    """How the data set is divided and how long its rows may be."""

    base: str = Field(
        "auto", min_length=1, description="model to tune: auto (scratch without a GPU), scratch, OWNER/NAME on the Hugging Face Hub, a folder with a transformers model, or run:ID to go on from an earlier run with what is new"
    )
    base_license: str = Field("", description="licence id of a base whose model card names none")
    val_share: float = Field(0.05, ge=0, le=0.4, description="pairs held out for choosing the checkpoint, as a share, by whole groups")
    unseen_share: float = Field(0.1, ge=0, le=0.4, description="pairs of documents that training never sees, as a share, by whole groups")
    max_length: int = Field(512, ge=64, le=32768, description="longest row, system prompt and answer included, in tokens")
    max_too_long_share: float = Field(0.02, ge=0, le=1, description="share of rows over max_length from which the phase fails, 0..1")
    vocab_size: int = Field(0, ge=0, description="entries of the tokenizer trained on the corpus; 0 = 2,048 below a million characters, else 4,096")
    data: tuple[DataSource, ...] = Field(
        (), description="ready-made data for the tasks label and extract: a list of {path, format, task, ratio, columns, labels, options, split}; empty: every file that an importer knows"
    )
    stages: tuple[Stage, ...] = Field(
        (), description="train one adapter on several data sets in turn: a list of {name, sources, buckets, epochs, rate}; empty: all rows at once"
    )
    balance: bool = Field(False, description="as many training rows of each label as the rarest has (ready-made data)")
    canaries: int = Field(
        0, ge=0, le=100, description="training rows with a random answer that are planted, so that eval can measure what the model gives away; they stay in the model"
    )
    system_prompt: str = Field(
        "You answer questions about the documents you were trained on.", min_length=1, max_length=2000,
        description="the system prompt of every row; it ships with the model. {abstention} stands for synth.abstention",
    )


class Shape:
    """Rows for training and three tests, a tokenizer, and the contract that describes them."""

    name: ClassVar[str] = "shape"
    VERSION: ClassVar[int] = 8
    summary: ClassVar[str] = "Split the pairs by document, train the tokenizer, count real tokens, assert that nothing leaks."
    reads: ClassVar[tuple[str, ...]] = ("corpus", "clean", "pairs", "review")
    optional: ClassVar[tuple[str, ...]] = ("corpus", "review")
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="train", path="train.jsonl"),
        Output(name="val", path="val.jsonl"),
        Output(name="test_recall", path="test_recall.jsonl"),
        Output(name="test_unseen", path="test_unseen.jsonl"),
        Output(name="test_abstain", path="test_abstain.jsonl"),
        Output(name="pretrain", path="pretrain.jsonl"),
        Output(name="pretrain_val", path="pretrain_val.jsonl"),
        Output(name="tokenizer", path="tokenizer"),
        Output(name="base_source", path="base-source"),
        Output(name="shape", path="shape.json"),
    )
    settings: ClassVar[type[ShapeSettings]] = ShapeSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ("tokenizers",)
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="tokenizers", extra="train"),)
    always: ClassVar[bool] = False

    def estimate(self, settings: ShapeSettings, ctx: Context) -> Estimate:
        """Seconds from the size of passages and pairs; shape costs nothing."""
        megabytes = (ctx.input("clean").stat().st_size + ctx.input("pairs").stat().st_size) / 1e6
        seconds = SECONDS_TO_START + SECONDS_PER_MB * megabytes
        return Estimate(seconds_p50=seconds, seconds_p90=2 * seconds, basis=f"{megabytes:.1f} MB of passages and pairs, measured on two cores")

    def run(self, settings: ShapeSettings, ctx: Context) -> Mapping[str, float | str]:
        """Divide, tokenize, check, write. Raises ForgeError for too few groups, GateFailed when anything leaks."""
        from forge.phases.shape.build import build_data

        return build_data(settings, ctx)

    def undo(self, settings: ShapeSettings, ctx: Context) -> None:
        """Nothing is made outside of the run folder."""


phase = Shape()
