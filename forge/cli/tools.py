"""Single tools, file in, file out: extract, dedup, classify; and chat with a run's model."""

from __future__ import annotations

from pathlib import Path

import typer

from forge import ui
from forge.cli.complete import run_names

PANEL = "Tools"
Json = typer.Option(False, "--json", help="As JSON.")


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (extract, dedup, classify, chat):
        app.command(rich_help_panel=PANEL)(function)


def extract(
    path: Path = typer.Argument(..., metavar="PATH", help="A file or folder.", show_default=False),
    out: Path = typer.Option(..., "--out", help="JSONL to write: path, text, status, reason per file.", show_default=False),
    plugin_dir: list[Path] = typer.Option([], "--plugin-dir", help="Folder with your own extractors.", show_default=False),
    passages: bool = typer.Option(False, "--passages", help="Also list each file's passages with their places."),
    set_: list[str] = typer.Option([], "--set", metavar="prep.KEY=VALUE", help="Change one setting of prep; repeat for more.", show_default=False),
    as_json: bool = Json,
) -> None:
    """Extract text from a file or folder into JSONL, one line a file."""
    from forge.cli.views import progress_view
    from forge.errors import ForgeError
    from forge.registry import Registry

    registry = Registry(tuple(plugin_dir))
    view = progress_view(as_json=False, quiet=as_json)
    counts = registry.tool("extract")(
        path, out, registry, lambda progress: view({"event": "progress", "phase": "extract", **progress.fields()}), passages=passages,
        on_notice=ui.say, flags=set_,
    )
    view.close()
    _show(counts, out, as_json)
    if counts.get("failed", 0) or not counts.get("ok", 0):
        raise ForgeError(
            f"{counts.get('failed', 0)} of {sum(counts.values())} files failed, {counts.get('ok', 0)} gave text",
            why=f"each has its reason in {out}", next="forge doctor shows missing extras",
        )


def dedup(
    source: Path = typer.Argument(..., metavar="IN", help="JSONL with id and text.", show_default=False),
    out: Path = typer.Option(..., "--out", help="JSONL to write: the kept records.", show_default=False),
    threshold: float = typer.Option(0.85, "--threshold", min=0.2, max=1.0, help="Jaccard similarity of 5-word shingles."),
    as_json: bool = Json,
) -> None:
    """Remove near-duplicates: every pair at or above the threshold, verified exactly."""
    from forge.cli.views import progress_view
    from forge.registry import Registry

    view = progress_view(as_json=False, quiet=as_json)
    counts = Registry().tool("dedup")(
        source, out, threshold=threshold, on_progress=lambda done: view({"event": "progress", "phase": "dedup", "done": done})
    )
    view.close()
    _show(counts, out, as_json)


def classify(
    source: str = typer.Argument(..., metavar="IN", help="JSONL with id and text, a folder of documents, or a run.", show_default=False),
    out: Path = typer.Option(..., "--out", help="JSONL to write: id, keep, subtopic, reason for each passage.", show_default=False),
    teacher: str = typer.Option("offline", "--teacher", help="Who judges: offline (statistics), anthropic, openai_compatible, ..."),
    model: str = typer.Option("", "--model", help="The teacher's model, by the vendor's name.", show_default=False),
    endpoint: str = typer.Option("", "--endpoint", help="Where the teacher is reached: a base URL.", show_default=False),
    mode: str = typer.Option("auto", "--mode", help="batch (half the price, slower), live, or auto."),
    budget: float = typer.Option(0.0, "--budget", min=0.0, metavar="USD", help="Most that may be spent, in dollars, over all calls with this OUT."),
    subject: str = typer.Option("", "--subject", help="What the documents are about; without it, their own terms.", show_default=False),
    plugin_dir: list[Path] = typer.Option([], "--plugin-dir", help="Folder with your own teachers.", show_default=False),
    as_json: bool = Json,
) -> None:
    """Say which passages to keep, and their subtopics; writes nothing when the judge misses planted passages."""
    from forge.cli.classifying import run_classify
    from forge.errors import UsageError

    if mode not in {"auto", "batch", "live"}:
        raise UsageError(f'there is no mode "{mode}"', next="--mode auto, batch or live")
    run_classify(
        source, out, teacher=teacher, as_json=as_json, plugin_dirs=tuple(plugin_dir), model=model, endpoint=endpoint, mode=mode, budget_usd=budget, subject=subject
    )


def chat(
    run_id: str = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names),
    question: str = typer.Argument("", metavar="QUESTION", help="One question; without it, a conversation.", show_default=False),
    as_json: bool = Json,
) -> None:
    """Talk to RUN's model on this machine (the quantized file that ships, through llama.cpp)."""
    from forge.cli.chatting import talk

    talk(run_id, question, as_json=as_json)


def _show(counts: dict[str, int], out: Path, as_json: bool) -> None:
    if as_json:
        ui.out_json({**counts, "out": str(out)})
        return
    ui.out(" · ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()) + f" → {out}")
