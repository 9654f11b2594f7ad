"""The quantize phase from top to bottom: merge, export, quantize, check, measure, write down.

Expensive files are made in ctx.work and get their names by rename, measured rows go into the journal: a phase that was
killed continues where it stopped, and its outputs are byte-identical.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError, GateFailed
from forge.file_answers import FileAnswers
from forge.journal import Journal
from forge.phase import Context
from forge.phases.quantize.converter import context_tokens, convert_f16, find_converter, needs_converter
from forge.phases.quantize.each import collect
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.gguf_facts import GgufFile, describe_fallback, read_facts
from forge.phases.quantize.imatrix import collect_importance
from forge.phases.quantize.judge import worst
from forge.phases.quantize.llama import Generation, Llama
from forge.phases.quantize.lora_gguf import LoraFile, check_lora, describe_lora, export_lora
from forge.phases.quantize.measure import (
    DRY_RUN,
    Bench,
    Caps,
    check_parity,
    compare_answers,
    fill_bench,
    judge_answers,
    judge_file,
    judge_shipped,
    score_file,
)
from forge.phases.quantize.merge import MergeCheck, judge_merge, merge_adapter
from forge.phases.quantize.modelfile import Sampling, choose_template, write_modelfile
from forge.phases.quantize.modelfile_lint import lint_modelfile
from forge.phases.quantize.reference import ChatTokenizer, use_threads
from forge.phases.quantize.rows import Row, read_rows, spread
from forge.phases.quantize.tasks import tests_of
from forge.protocols import Prediction
from forge.records import Plan, Verdict, read_jsonl, read_record, write_json

if TYPE_CHECKING:
    from forge.phases.quantize import QuantizeSettings

SMALLEST_FIRST = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16")
TRUEST_FIRST = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "F16")
SMALL_MODEL = 50_000_000
"""The Modelfile names the first of these that the plan has, and its answers are evaluated. Below 50M weights four bits save a few
megabytes and cost answers: the handbook's 2M model refused 5 % of the answerable questions in Q4_K_M, 2 % in Q8_0 (2026-11-21)."""
WEIGHED = ("Q4_K_M", "Q5_K_M", "Q6_K")
"""Quantizations that an importance matrix changes."""
MERGE_PROMPTS = 4
CHAT_CONTEXT_TOKENS = 4096
"""num_ctx of the Modelfile, unless the model has less or was tuned on more: Ollama reserves the cache for all of it."""


def ship_model(settings: QuantizeSettings, ctx: Context) -> Mapping[str, float | str]:
    """Run the phase. Everything measured is in ship-eval.json before an integrity failure raises GateFailed."""
    plan = read_record(ctx.input("plan"), Plan)
    caps, splits = read_task(settings, plan, ctx)
    with Llama(ctx.work) as llama:   # started first: it loads while this process imports torch
        llama.threads = use_threads(plan.parameters)
        journal = ctx.journal()
        model, merge = merge_once(ctx, journal, splits)
        files = _make_files(ctx, plan, model, llama, settings)
        bench = fill_bench(
            splits, ctx=ctx, journal=journal, llama=llama, tokenizer=ChatTokenizer(model), plan=plan, caps=caps,
            context_tokens=context_tokens(model),
        )
        verdicts, answers, each = _measure(bench, model, files, ctx.work / "gguf")
        lora = _adapter_alone(bench, files[0]) if settings.lora_gguf and plan.base != "scratch" and plan.tuning == "lora" else None
    return finish(bench, model, files, [judge_merge(merge), *verdicts], answers, each, lora)


def read_task(settings: QuantizeSettings, plan: Plan, ctx: Context) -> tuple[Caps, list[list[Row]]]:
    """How much is measured, and the rows of the two tests."""
    caps = Caps(likelihood_rows=settings.likelihood_rows, generated_rows=settings.generated_rows, other_rows=settings.other_rows)
    return DRY_RUN if ctx.dry_run else caps, [read_rows(ctx, plan.task, name) for name in tests_of(plan.task)]


def finish(
    bench: Bench, model: Path, files: list[GgufFile], verdicts: Sequence[Verdict], answers: list[dict[str, str]],
    each: Sequence[FileAnswers] = (), lora: tuple[LoraFile, Verdict] | None = None,
) -> Mapping[str, float | str]:
    """Write the outputs; the numbers for the report. Raises GateFailed, after writing, when integrity failed."""
    alone = [lora[0]] if lora else []
    files = _leave_out(bench.ctx, files, each)
    _publish(bench.ctx, model, {file.name for file in files} | {file.name for file in alone})
    verdicts = [*verdicts, *(lora[1:] if lora else ()), _write_modelfile(bench, files), *_judge_sizes(files)]
    _write_report(bench.ctx, verdicts, files, answers, each, alone)
    _stop_on_failure(verdicts)
    return _metrics(verdicts, files)


def merge_once(ctx: Context, journal: Journal, splits: Sequence[Sequence[Row]]) -> tuple[Path, MergeCheck]:
    """model/ in ctx.work; made again unless it was finished and checked."""
    target = ctx.work / "model"
    if "merge" not in journal or not target.exists():
        ctx.progress(0, 3, "merging the adapter into its base")
        shutil.rmtree(target, ignore_errors=True)
        rows = [row for split in splits for row in spread(split, MERGE_PROMPTS // 2)]
        check = merge_adapter(ctx.input("base_model"), ctx.input("adapter"), target, rows)
        journal.put("merge", check.model_dump(mode="json"))
    return target, MergeCheck.model_validate(journal.get("merge"))


def _make_files(ctx: Context, plan: Plan, model: Path, llama: Llama, settings: QuantizeSettings) -> list[GgufFile]:
    """The F16 file and one file for each quantization of the plan, in the order of the plan; finished ones are kept."""
    folder = ctx.work / "gguf"
    folder.mkdir(exist_ok=True)
    f16 = folder / f"{plan.name}-F16.gguf"
    if not f16.exists():
        ctx.progress(1, 3, "writing the F16 file")
        write_f16(model, f16, plan, settings, ctx)
    files = [read_facts(f16, quantization="F16")]
    for kind in (kind for kind in plan.quantizations if kind != "F16"):
        target = folder / f"{plan.name}-{kind}.gguf"
        if not target.exists():
            ctx.check_stop()
            ctx.progress(2, 3, f"quantizing to {kind}")
            llama.quantize(f16, target, kind, importance=_importance(ctx, plan, model, settings.imatrix_rows) if kind in WEIGHED else None)
        facts = read_facts(target, quantization=kind)
        if facts.parameters != files[0].parameters:
            raise ForgeError(f"{target.name} holds {facts.parameters:,} weights and {f16.name} {files[0].parameters:,}")
        files.append(facts)
    return files


def write_f16(model: Path, target: Path, plan: Plan, settings: QuantizeSettings, ctx: Context) -> None:
    """The F16 file by our own export, or by llama.cpp's converter where ours does not know the model."""
    if reason := needs_converter(model):
        ctx.notice(f"exporting with llama.cpp's own converter: {reason}")
        convert_f16(model, target, find_converter(settings.llama_cpp_dir, ctx), name=plan.name)
    else:
        export_f16(model, target, name=plan.name, license=inherited_licence(plan))


def inherited_licence(plan: Plan) -> str:
    """The base's licence; publish decides that of a model from scratch."""
    return "" if plan.base == "scratch" else plan.base_license


def _importance(ctx: Context, plan: Plan, model: Path, rows: int) -> Path | None:
    """The importance matrix in ctx.work, measured once; None when it is off."""
    target = ctx.work / "imatrix.npz"
    if rows and not target.exists():
        collect_importance(model, spread(read_rows(ctx, plan.task, "train"), rows), target, ctx)
    return target if rows else None


def _measure(
    bench: Bench, model: Path, files: list[GgufFile], folder: Path
) -> tuple[list[Verdict], list[dict[str, str]], list[FileAnswers]]:
    """All verdicts about the model, the side-by-side answers, and what each file is worth."""
    predictions = list(read_jsonl(bench.ctx.input("predictions"), Prediction))
    verdicts, expected = check_parity(bench, model, folder / files[0].name, predictions)
    adapter = {prediction.id: prediction.tuned for prediction in predictions}
    main, f16 = main_file(files), score_file(bench, "F16")
    columns: dict[str, list[Generation]] = {}
    given: dict[str, tuple[int, list[Verdict]]] = {}
    for file in files:
        kind, vocabulary = file.quantization, bench.open(folder / file.name)
        scores = score_file(bench, kind)
        columns[kind.lower()] = compare_answers(bench, kind)
        found = judge_file(bench, kind, scores, f16) if kind != "F16" else []
        if file == main:
            found += judge_shipped(bench, kind, scores, vocabulary, adapter)
            verdicts += found
        elif bench.also_asked:
            found += judge_answers(bench, kind, scores, bench.also_asked, vocabulary, adapter)
        given[kind] = (len(bench.asked if file == main else bench.also_asked), found)
    answers = [
        {"prompt": row.row.prompt[-1].content, "transformers": theirs.text, **{kind: told[i].text for kind, told in columns.items()}}
        for i, (row, theirs) in enumerate(zip(bench.compared, expected, strict=True))
    ]
    return verdicts, answers, collect(files, main, given)


def _leave_out(ctx: Context, files: Sequence[GgufFile], each: Sequence[FileAnswers]) -> list[GgufFile]:
    """The files that ship: without those that their rounding damaged."""
    left = {one.name: one.left_out for one in each if one.left_out}
    for name, why in left.items():
        ctx.notice(f"{name} is left out, it is not what {main_file(files).name} is: {why}")
    return [file for file in files if file.name not in left]


def _adapter_alone(bench: Bench, f16: GgufFile) -> tuple[LoraFile, Verdict]:
    """The adapter's own file, compared with the merged one; finished ones are kept."""
    ctx, folder = bench.ctx, bench.ctx.work / "gguf"
    file = folder / f"{bench.plan.name}-lora-F16.gguf"
    ctx.notice(f"writing the adapter alone to {file.name}, and comparing it on the base with {f16.name}")
    rank = export_lora(ctx.input("adapter"), ctx.input("base_model"), file, name=f"{bench.plan.name} adapter")
    prompts = [(*row.prompt, *row.answer) for row in spread(bench.scored, bench.caps.logit_prompts)]
    limit = bench.plan.thresholds.get("logit_diff_f16")
    difference, verdict = check_lora(bench.llama, ctx.input("base_model"), file, folder / f16.name, prompts, limit)
    return describe_lora(file, rank, difference), verdict


def main_file(files: Sequence[GgufFile]) -> GgufFile:
    """The file that the Modelfile names."""
    order = TRUEST_FIRST if files[0].parameters < SMALL_MODEL else SMALLEST_FIRST
    return min(files, key=lambda file: order.index(file.quantization))


def _publish(ctx: Context, model: Path, files: set[str]) -> None:
    """Link the finished files into the outputs; ctx.work keeps its own names for a resume."""
    for name, source in (("model", model), ("gguf", ctx.work / "gguf")):
        target = ctx.output(name)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        wanted = files if name == "gguf" else {file.name for file in source.iterdir()}
        for file in sorted(wanted):
            _link(source / file, target / file)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:   # another file system, or one without hard links
        shutil.copyfile(source, target)


def _write_modelfile(bench: Bench, files: Sequence[GgufFile]) -> Verdict:
    """Write the Modelfile; integrity: Ollama would read it as it is meant."""
    tokenizer, target = bench.tokenizer, bench.ctx.output("modelfile")
    stop = str(tokenizer.tokenizer.eos_token)
    bos = str(tokenizer.tokenizer.bos_token or "")
    family, template = choose_template(
        lambda turns: tokenizer.render(turns, open_answer=True), bench.plan.system_prompt, bos=bos if _adds_bos(tokenizer) else ""
    )
    context = min(bench.context_tokens, max(CHAT_CONTEXT_TOKENS, bench.plan.lora.max_length))
    sampling = Sampling(context_tokens=context, answer_tokens=bench.answer_tokens, stops=(stop,))
    text = write_modelfile(f"./gguf/{main_file(files).name}", template, bench.plan.system_prompt, sampling)
    target.write_text(text, encoding="utf-8", newline="\n")
    problems = lint_modelfile(text, target.parent, control=list(tokenizer.markers.values()), end_of_turn=stop, marks=[stop])
    return Verdict(
        name="modelfile", kind="integrity", estimate=float(len(problems)), n=1, threshold=0.0,
        outcome="fail" if problems else "pass",
        evidence="; ".join(problems) or _rendered(family, template),
    )


def _rendered(family: str, template: str) -> str:
    if not template:
        return "Ollama reads it as meant, and renders conversations by the model's own template, which it takes from the file"
    return f"Ollama reads it as meant; its {family} template renders three conversations as the model's does"


def _adds_bos(tokenizer: ChatTokenizer) -> bool:
    """True when encoding a text puts bos in front: llama.cpp then does so too, and Ollama's template must not."""
    ids = tokenizer.tokenizer.encode("a")
    return bool(ids) and ids[0] == tokenizer.tokenizer.bos_token_id


def _judge_sizes(files: Sequence[GgufFile]) -> list[Verdict]:
    """Information: what a weight really takes, and why when that is more than the name says."""
    return [
        Verdict(
            name=f"bits_per_weight_{file.quantization.lower()}", kind="info", estimate=file.bits_per_weight, n=sum(file.tensor_types.values()),
            outcome="pass", evidence=describe_fallback(file) or f"{file.name}: {file.bits_per_weight:.2f} bits per weight",
        )
        for file in files
    ]


def _write_report(
    ctx: Context, verdicts: Sequence[Verdict], files: Sequence[GgufFile], answers: list[dict[str, str]],
    each: Sequence[FileAnswers], alone: Sequence[LoraFile],
) -> None:
    for file in files:
        if told := describe_fallback(file):
            ctx.notice(told)
    report: dict[str, Any] = {
        "verdicts": [verdict.model_dump(mode="json") for verdict in verdicts],
        "files": [file.model_dump(mode="json") for file in files],
        "each": [one.model_dump(mode="json") for one in each],
        "answers": answers,
        "parity": worst([verdict for verdict in verdicts if verdict.kind == "integrity"]),
    }
    if alone:
        report["lora"] = alone[0].model_dump(mode="json")
    write_json(ctx.output("ship_eval"), report)


def _stop_on_failure(verdicts: Sequence[Verdict]) -> None:
    failed = [verdict for verdict in verdicts if verdict.kind == "integrity" and verdict.outcome == "fail"]
    if failed:
        raise GateFailed(
            f"the exported files are not the model that was trained: {', '.join(verdict.name for verdict in failed)}",
            why="; ".join(f"{verdict.name} is {verdict.estimate} ({verdict.evidence})" for verdict in failed),
            next="forge resume --from quantize",
        )


def _metrics(verdicts: Sequence[Verdict], files: Sequence[GgufFile]) -> dict[str, float | str]:
    main = main_file(files)
    numbers: dict[str, float | str] = {
        "parity": worst([verdict for verdict in verdicts if verdict.kind == "integrity"]),
        "quality": worst([verdict for verdict in verdicts if verdict.kind == "quality"]),
        "summary": f"{main.name} · {main.bytes / 1e6:,.1f} MB, {main.bits_per_weight:.2f} bits a weight · equal to transformers:"
        f" {worst([verdict for verdict in verdicts if verdict.kind == 'integrity'])}",
        "file": main.name, "bytes": main.bytes, "bits_per_weight": main.bits_per_weight, "parameters": main.parameters,
    }
    return numbers
