"""The phase without llama.cpp (no C++ compiler, say): F16 and Q8_0 files that nobody has opened, and a report that says so.

What only llama.cpp could measure is undecided, so the model stays on this machine until it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from forge.phase import Context
from forge.phases.quantize.converter import context_tokens
from forge.phases.quantize.gguf_export import export_f16, export_q8_0
from forge.phases.quantize.gguf_facts import GgufFile, read_facts
from forge.phases.quantize.measure import fill_bench
from forge.phases.quantize.merge import judge_merge
from forge.phases.quantize.reference import ChatTokenizer, use_threads
from forge.phases.quantize.ship import finish, inherited_licence, merge_once, read_task
from forge.records import Plan, Verdict, read_record

if TYPE_CHECKING:
    from forge.phases.quantize import QuantizeSettings

WRITERS = {"F16": export_f16, "Q8_0": export_q8_0}
UNMEASURED = {
    "token_ids": "integrity", "markers": "integrity", "logit_diff_f16": "integrity", "argmax_f16": "integrity", "greedy_f16": "integrity",
    "ppl_ratio_q8_0": "quality", "stop_share_q8_0": "quality", "abstention_recall_q8_0": "quality",
}
INSTALL = 'install a C++ compiler, then pip install "slm-forge[gguf]", then forge resume'


def has_llama_cpp() -> bool:
    """True when llama-cpp-python is installed here."""
    return find_spec("llama_cpp") is not None


def ship_unmeasured(settings: QuantizeSettings, ctx: Context) -> Mapping[str, float | str]:
    """Merge, export and write down; every check by llama.cpp is undecided."""
    plan = read_record(ctx.input("plan"), Plan)
    caps, splits = read_task(settings, plan, ctx)
    use_threads(plan.parameters)
    journal = ctx.journal()
    model, merge = merge_once(ctx, journal, splits)
    files = _make_files(ctx, plan, model)
    _say(ctx, plan, files)
    bench = fill_bench(
        splits, ctx=ctx, journal=journal, llama=None, tokenizer=ChatTokenizer(model), plan=plan, caps=caps,
        context_tokens=context_tokens(model),
    )
    return finish(bench, model, files, [judge_merge(merge), *_undecided()], [])


def _make_files(ctx: Context, plan: Plan, model: Path) -> list[GgufFile]:
    folder = ctx.work / "gguf"
    folder.mkdir(exist_ok=True)
    kinds = ["F16", *(kind for kind in ("Q8_0",) if set(plan.quantizations) - {"F16"})]
    for kind in kinds:
        target = folder / f"{plan.name}-{kind}.gguf"
        if not target.exists():
            ctx.check_stop()
            ctx.progress(kinds.index(kind), len(kinds), f"writing the {kind} file")
            WRITERS[kind](model, target, name=plan.name, license=inherited_licence(plan))
    return [read_facts(folder / f"{plan.name}-{kind}.gguf", quantization=kind) for kind in kinds]


def _say(ctx: Context, plan: Plan, files: list[GgufFile]) -> None:
    made = {file.quantization for file in files}
    missing = [kind for kind in plan.quantizations if kind not in made]
    without = f"; {', '.join(missing)} cannot be made" if missing else ""
    ctx.notice(f"llama-cpp-python is not installed: no file is opened and compared{without}. {INSTALL}")


def _undecided() -> list[Verdict]:
    return [
        Verdict(name=name, kind=kind, estimate=None, outcome="undecided", evidence=f"llama-cpp-python is not installed; {INSTALL}")
        for name, kind in UNMEASURED.items()
    ]
