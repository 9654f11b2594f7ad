"""Measures the tuned model against its base on rows that neither was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from forge.errors import GateFailed
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.records import Example, Plan, Verdict, read_jsonl, read_record, write_json, write_jsonl

DRY_RUN_ANSWERS = 8
DRY_RUN_TOKENS = 16
FIXED_SECONDS = 12.0
SECONDS_PER_ANSWER = 0.12  # batches of 32, 2.1 M parameters, one Zen 3 core (2026-11-20)


class EvalSettings(Settings):
    """How much is generated. The likelihood of every test row is always measured."""

    max_generated: int = Field(240, ge=0, description="answers that are generated for test_recall and for test_unseen")
    max_abstain: int = Field(150, ge=0, description="answers that are generated for test_abstain")
    max_base: int = Field(12, ge=0, description="answers of the base that are shown beside the tuned model's")
    max_new_tokens: int = Field(96, ge=1, description="tokens after which an answer is cut off and counts as unfinished")
    threads: int = Field(1, ge=1, description="CPU threads; another number changes the last digits")


class Eval:
    """Base and tuned model on the three tests: likelihood, greedy answers, verdicts."""

    name: ClassVar[str] = "eval"
    VERSION: ClassVar[int] = 2
    summary: ClassVar[str] = "measures the tuned model against its base, with intervals"
    reads: ClassVar[tuple[str, ...]] = (
        "plan", "approval", "machine", "base_model", "adapter", "test_recall", "test_unseen", "test_abstain",
    )
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="eval", path="eval.json"), Output(name="predictions", path="predictions.jsonl"),
    )
    settings: ClassVar[type[Settings]] = EvalSettings
    where: ClassVar[Literal["engine", "machine"]] = "machine"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "peft", "tokenizers")
    requires: ClassVar[tuple[Requirement, ...]] = tuple(
        Requirement(module=module, extra="train") for module in ("torch", "transformers", "peft")
    )
    always: ClassVar[bool] = False

    def estimate(self, settings: EvalSettings, ctx: Context) -> Estimate:
        """Seconds from the number of answers; free on a machine that is leased already."""
        plan = read_record(ctx.input("plan"), Plan)
        answers = 2 * settings.max_generated + settings.max_abstain + settings.max_base
        seconds = FIXED_SECONDS + answers * SECONDS_PER_ANSWER * max(1.0, plan.parameters / 2.1e6)
        return Estimate(seconds_p50=seconds, seconds_p90=2.5 * seconds, basis=f"{answers} answers, one CPU core")

    def run(self, settings: EvalSettings, ctx: Context) -> Mapping[str, float | str]:
        """Write predictions.jsonl and eval.json. Raises GateFailed when a test is not the approved one."""
        from forge.phases.eval.measure import TESTS, Caps, predict
        from forge.phases.eval.models import Models

        plan = read_record(ctx.input("plan"), Plan)
        _check_tests(plan, ctx, TESTS)
        task = ctx.use("task", plan.task)
        examples = [example for test in TESTS for example in read_jsonl(ctx.input(test), Example)]
        models = Models(ctx.input("base_model"), ctx.input("adapter"), threads=settings.threads, precision=plan.precision)
        answers = DRY_RUN_ANSWERS if ctx.dry_run else settings.max_generated
        caps = Caps(
            recall=answers, unseen=answers, abstain=min(answers, settings.max_abstain) if ctx.dry_run else settings.max_abstain,
            base=min(answers, settings.max_base), new_tokens=DRY_RUN_TOKENS if ctx.dry_run else settings.max_new_tokens,
        )
        predictions = predict(models, task, examples, caps, ctx)
        verdicts = task.gates(task.score(predictions, abstention=plan.abstention, seed=plan.seed), plan.thresholds)
        write_jsonl(ctx.output("predictions"), predictions)
        report = summarize(verdicts, predictions, task.card_text(verdicts))
        write_json(ctx.output("eval"), report)
        return {"summary": f"{report['quality']} · {report['headline']}", "quality": report["quality"], **{v.name: v.estimate for v in verdicts if v.kind == "quality" and v.estimate is not None}}

    def undo(self, settings: EvalSettings, ctx: Context) -> None:
        """Nothing is made outside the run folder."""


phase = Eval()


def summarize(verdicts: Sequence[Verdict], predictions: Sequence[Any], card_text: str) -> dict[str, Any]:
    """eval.json: the verdicts, what was counted, the overall quality, and the first line of the task's card text."""
    outcomes = {verdict.outcome for verdict in verdicts if verdict.kind == "quality"}
    quality = "fail" if "fail" in outcomes else "pass" if outcomes == {"pass"} else "undecided"
    splits = sorted({row.split for row in predictions})
    counts = {split: sum(row.split == split for row in predictions) for split in splits}
    counts |= {f"{split}_generated": sum(row.split == split and row.generated for row in predictions) for split in splits}
    return {
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts], "counts": counts, "quality": quality,
        "headline": card_text.split("\n", 1)[0],
    }


def _check_tests(plan: Plan, ctx: Context, tests: Sequence[str]) -> None:
    for name in tests:
        if plan.data.get(name) != ctx.input_sha256(name):
            raise GateFailed(
                f"{name} is not the test that was approved", why="its sha256 is not the plan's", next="forge resume --from plan_fit"
            )
