"""Measures the tuned model against its base on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from forge.phase import Context, Estimate, Output, Requirement, Settings, Table
from forge.records import Plan, read_record

FIXED_SECONDS = 12.0
SECONDS_PER_ANSWER = 0.12  # batches of 32, 2.1 M parameters, one Zen 3 core (2026-11-20)


class EvalSettings(Settings):
    """How much is generated. The likelihood of every test row is always measured."""

    max_generated: int = Field(240, ge=0, description="answers that are generated for test_recall and for test_unseen")
    max_abstain: int = Field(220, ge=0, description="answers that are generated for test_abstain")
    max_base: int = Field(12, ge=0, description="answers of the base that are shown beside the tuned model's")
    max_baseline: int = Field(
        24, ge=0, description="rows on which the base with examples, and base and tuned model with a search (BM25), are asked; 0 leaves these baselines out"
    )
    max_new_tokens: int = Field(96, ge=1, description="tokens after which an answer is cut off and counts as unfinished")
    compare: tuple[str, ...] = Field(
        (), description="further models on the same prompts: folders with a model or an adapter, .gguf files, or servers as http://HOST/v1#MODEL (asked without a key)"
    )
    max_compared: int = Field(60, ge=1, description="rows that each of them answers")
    sampled: int = Field(
        0, ge=0, description="rows that the tuned model also answers by sampling, at the task's temperature (chat 0.7; labels and extractions are decoded greedily only)"
    )
    probes: bool = Field(True, description="measure what was forgotten (plain held-out text) and what is given away word for word")
    threads: int = Field(1, ge=1, description="CPU threads; another number changes the last digits")


class Eval:
    """Base and tuned model on the three tests: likelihood, greedy answers, verdicts."""

    name: ClassVar[str] = "eval"
    VERSION: ClassVar[int] = 5
    summary: ClassVar[str] = "measures the tuned model against its base and against baselines, with intervals"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "machine", "base_model", "adapter", "stage_adapters", "train", "pretrain", "pretrain_val", "test_recall", "test_unseen", "test_abstain",
    )
    optional: ClassVar[tuple[str, ...]] = ("stage_adapters",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="eval", path="eval.json"), Output(name="predictions", path="predictions.jsonl"),
    )
    settings: ClassVar[type[Settings]] = EvalSettings
    where: ClassVar[Literal["engine", "machine"]] = "machine"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "tokenizers", "scikit-learn")
    requires: ClassVar[tuple[Requirement, ...]] = tuple(
        Requirement(module=module, extra="train") for module in ("torch", "transformers", "peft")
    )
    always: ClassVar[bool] = False

    def estimate(self, settings: EvalSettings, ctx: Context) -> Estimate:
        """Seconds from the number of answers; free on a machine that is leased already."""
        plan = read_record(ctx.input("plan"), Plan)
        answers = 2 * settings.max_generated + settings.max_abstain + settings.max_base + 6 * settings.max_baseline
        answers += len(settings.compare) * settings.max_compared
        seconds = FIXED_SECONDS + answers * SECONDS_PER_ANSWER * max(1.0, plan.parameters / 2.1e6)
        return Estimate(seconds_p50=seconds, seconds_p90=2.5 * seconds, basis=f"{answers} answers, one CPU core")

    def run(self, settings: EvalSettings, ctx: Context) -> Mapping[str, float | str]:
        """Write predictions.jsonl and eval.json. Raises GateFailed when a test or the training rows are not the approved ones."""
        from forge.phases.eval.work import evaluate

        return evaluate(settings, ctx)

    def tables(self, find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
        """Baselines and compared models, subtopics, and the models of all stages on each stage's questions."""
        from forge.phases.eval import report, stages

        if not dropped:
            yield from report.tables(find("eval"))
            yield from stages.tables(find("eval"))

    def undo(self, settings: EvalSettings, ctx: Context) -> None:
        """Nothing is made outside the run folder."""


phase = Eval()
