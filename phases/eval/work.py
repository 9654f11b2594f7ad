"""The work of eval, in order: ask both models, guess, ask with examples and with a search, compare, probe, judge, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from forge.errors import GateFailed
from forge.phase import Context
from forge.phases.eval.baselines import Answers, choose_rows, model_answers, sampled_answers, trivial_answers
from forge.phases.eval.measure import TESTS, Caps, predict
from forge.phases.eval.models import Models
from forge.phases.eval.others import compare_models
from forge.phases.eval.probes import canary_exposure, forgetting, memorised
from forge.phases.eval.report import retrieval_sentence, rivals, subtopics, summarize
from forge.phases.eval.stages import measure_stages
from forge.protocols import Prediction, Task
from forge.records import Example, Passage, Plan, Verdict, read_jsonl, read_record, write_json, write_jsonl

if TYPE_CHECKING:
    from forge.phases.eval import EvalSettings

DRY_RUN_ANSWERS, DRY_RUN_TOKENS, DRY_RUN_BASELINE = 8, 16, 2
APPROVED = (*TESTS, "train", "pretrain", "pretrain_val")


def evaluate(settings: EvalSettings, ctx: Context) -> Mapping[str, float | str]:
    """Run the phase; returns the numbers for the report."""
    plan = read_record(ctx.input("plan"), Plan)
    _check_data(plan, ctx)
    task = ctx.use("task", plan.task)
    examples = [example for test in TESTS for example in read_jsonl(ctx.input(test), Example)]
    train = list(read_jsonl(ctx.input("train"), Example))
    passages, held_out = ([*read_jsonl(ctx.input(name), Passage)] for name in ("pretrain", "pretrain_val"))
    models = Models(ctx.input("base_model"), ctx.input("adapter"), threads=settings.threads, precision=plan.precision)
    caps = _caps(settings, ctx)
    predictions = predict(models, task, examples, caps, ctx)
    taught = [row for row in train if row.body.task == plan.task]
    answers = trivial_answers(task, taught, examples, plan.seed)
    rows = choose_rows(examples, min(settings.max_baseline, DRY_RUN_BASELINE) if ctx.dry_run else settings.max_baseline, ctx.seed)
    _add(answers, model_answers(models, task, taught, passages, rows, caps.new_tokens, ctx))
    if settings.sampled:
        drawn = choose_rows(examples, DRY_RUN_BASELINE if ctx.dry_run else settings.sampled, ctx.seed)
        _add(answers, sampled_answers(models, task, drawn, caps.new_tokens, ctx))
    probed = _probe(models, train, passages, held_out, settings, ctx)
    if settings.compare:
        asked = choose_rows(examples, DRY_RUN_BASELINE if ctx.dry_run else settings.max_compared, ctx.seed)
        how = {"threads": settings.threads, "precision": plan.precision}
        _add(answers, compare_models(settings.compare, ctx.input("base_model"), task, asked, caps.new_tokens, ctx, **how))  # type: ignore[arg-type]
    stages: dict[str, Any] = {}
    if plan.stages:
        table, kept, said = measure_stages(
            plan, task, examples, predictions, settings, ctx, answers=DRY_RUN_BASELINE if ctx.dry_run else settings.max_base, new_tokens=caps.new_tokens
        )
        _add(answers, said)
        probed, stages = [*probed, *kept], {"stages": table}
    predictions = _joined(predictions, answers, task, taught, examples)
    return _write(task, plan, predictions, probed, stages, ctx)


def _caps(settings: EvalSettings, ctx: Context) -> Caps:
    answers = DRY_RUN_ANSWERS if ctx.dry_run else settings.max_generated
    return Caps(
        recall=answers, unseen=answers, abstain=min(answers, settings.max_abstain) if ctx.dry_run else settings.max_abstain,
        base=min(answers, settings.max_base), new_tokens=min(DRY_RUN_TOKENS, settings.max_new_tokens) if ctx.dry_run else settings.max_new_tokens,
    )


def _probe(
    models: Models, train: Sequence[Example], passages: Sequence[Passage], held_out: Sequence[Passage], settings: EvalSettings, ctx: Context
) -> list[Verdict]:
    if not settings.probes:
        return []
    if ctx.dry_run:
        passages, held_out = passages[:4], held_out[:4]
    ctx.progress(0, 1, "what was forgotten, what is given away")
    return [*forgetting(models, held_out, ctx), *memorised(models, passages, held_out, ctx), *canary_exposure(models, train, ctx)]


def _add(answers: Answers, more: Answers) -> None:
    for row, found in more.items():
        answers.setdefault(row, {}).update(found)


def _joined(
    predictions: Sequence[Prediction], answers: Answers, task: Task, train: Sequence[Example], examples: Sequence[Example]
) -> list[Prediction]:
    """The predictions with everybody's answers, and which of their mentions training rows have."""
    find = getattr(task, "seen", None)
    seen = dict(zip((row.id for row in examples), find(train, examples), strict=True)) if find else {}
    return [
        row.model_copy(update={"others": dict(sorted({**row.others, **answers.get(row.id, {})}.items())), "seen": seen.get(row.id, ())})
        for row in predictions
    ]


def _write(task: Task, plan: Plan, predictions: Sequence[Prediction], probed: Sequence[Verdict], more: Mapping[str, Any], ctx: Context) -> Mapping[str, float | str]:
    verdicts = [*task.gates(task.score(predictions, abstention=plan.abstention, seed=plan.seed), plan.thresholds), *probed]
    write_jsonl(ctx.output("predictions"), predictions)
    text = task.card_text(verdicts)
    found = rivals(task, predictions, plan.abstention, plan.seed)
    report = summarize(verdicts, predictions, text)
    report |= {
        "rivals": found, "retrieval": retrieval_sentence(found), "subtopics": subtopics(task, predictions, plan.abstention), "text": text, **more,
    }
    write_json(ctx.output("eval"), report)
    ctx.notice(report["retrieval"])
    judged = {v.name: v.estimate for v in verdicts if v.kind == "quality" and v.estimate is not None}
    return {"summary": f"{report['quality']} · {report['headline']}", "quality": report["quality"], **judged}


def _check_data(plan: Plan, ctx: Context) -> None:
    for name in APPROVED:
        if plan.data.get(name) != ctx.input_sha256(name):
            what = "test" if name in TESTS else "data"
            raise GateFailed(f"{name} is not the {what} that was approved", why="its sha256 is not the plan's", next="forge resume --from plan_fit")
