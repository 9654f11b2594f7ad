"""Commands that forge a model: run, plan, review, approve, reject, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from forge import ui
from forge.cli.complete import phase_names, recipe_names, run_names
from forge.cli.reviewing import review

PANEL = "Forge"

Corpus = typer.Argument(..., metavar="CORPUS", help="Folder with your documents, one file, or a sources.yaml that lists folders, files, repositories, buckets, URLs and databases (docs/sources.md).", show_default=False)
RunId = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names)
Budget = typer.Option(None, "--budget", min=0, help="The cap in US dollars. Nothing is spent beyond it.", show_default=False)
BeforeGate = typer.Option(None, "--before-gate", min=0, help="Dollars the teacher may spend before approval [10 % of the budget].", show_default=False)
Set = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeat for more.", show_default=False)
Recipe = typer.Option("", "--recipe", help="A shipped recipe by name, or your own YAML file.", show_default=False, autocompletion=recipe_names)
DryRun = typer.Option(False, "--dry-run", help="Rehearse all phases on a sample: about a minute, $0.00; no network, but for the sources that a sources.yaml names.")
PluginDir = typer.Option([], "--plugin-dir", help="Folder with your own extractors, teachers, ...; repeat for more.", show_default=False)
Until = typer.Option("", "--until", metavar="PHASE", help="Stop after this phase.", show_default=False, autocompletion=phase_names)
From = typer.Option("", "--from", metavar="PHASE", help="Run this phase again, and what then changes after it.", show_default=False, autocompletion=phase_names)
Json = typer.Option(False, "--json", help="Events and result as JSON lines.")
Quiet = typer.Option(False, "--quiet", "-q", help="Only the result.")
Yes = typer.Option(False, "--yes", "-y", help="Agree to re-running phases that cost money. Never approves a plan.")
New = typer.Option(False, "--new", help="Start a new run even if this corpus has one.")
Name = typer.Option("", "--id", help="Name the new run yourself.", show_default=False)
Preview = typer.Option(False, "--preview", help="Only show what CORPUS holds: counts and three samples of each source.")
Provider = typer.Option("", "--provider", metavar="NAME", help="Where to train: auto, local, or a compute provider's name (forge plugins).", show_default=False)
MaxHourly = typer.Option(None, "--max-hourly", min=0, metavar="USD", help="Dollars an hour that a machine may cost, at most; 0: no limit.", show_default=False)
Spot = typer.Option("", "--spot", metavar="never|auto|only", help="Machines that may be taken away at any time, for less [never].", show_default=False)
OnInterrupt = typer.Option("", "--on-interrupt", metavar="stop|keep", help="Ctrl-C while a job runs on a rented machine: end both [stop], or keep both until nobody has asked for too long.", show_default=False)
Refetch = typer.Option(False, "--refetch", help="Fetch the sources of a sources.yaml again.")


def add(app: typer.Typer) -> None:
    """Put the commands on the application."""
    for function in (run, plan, review, approve, reject, resume):
        app.command(rich_help_panel=PANEL)(function)


def run(
    corpus: Path = Corpus, budget: float | None = Budget, before_gate: float | None = BeforeGate, recipe: str = Recipe,
    set_: list[str] = Set, dry_run: bool = DryRun, plugin_dir: list[Path] = PluginDir, until: str = Until, new: bool = New,
    run_id: str = Name, preview: bool = Preview, refetch: bool = Refetch, provider: str = Provider, max_hourly: float | None = MaxHourly,
    spot: str = Spot, on_interrupt: str = OnInterrupt, yes: bool = Yes, quiet: bool = Quiet, as_json: bool = Json,
) -> None:
    """Forge a model from CORPUS within a budget; stops once, for your approval.

    A corpus that already has a run continues it: unchanged phases are skipped, changed ones run again.
    The sources of a sources.yaml are fetched once and kept with the run; a changed entry is fetched again.
    """
    from forge.cli.session import Session, check_corpus

    if preview:
        from forge.cli.previewing import show_preview

        check_corpus(corpus)
        show_preview(corpus, tuple(plugin_dir), as_json=as_json)
        return
    flags = [*_money(budget, before_gate), *_machine(provider, max_hourly, spot, on_interrupt), *set_]
    session = Session(as_json=as_json, quiet=quiet, yes=yes)
    session.start(corpus, dry_run=dry_run, new=new, run_id=run_id, plugin_dirs=tuple(plugin_dir), recipe=recipe, flags=flags, until=until)
    session.execute(until=until, refetch=refetch or new)


def plan(
    corpus: str = typer.Argument("", metavar="CORPUS|RUN", help="A corpus to plan for, or the id of a run.", show_default=False),
    budget: float | None = Budget, before_gate: float | None = BeforeGate, recipe: str = Recipe, set_: list[str] = Set,
    restore: bool = typer.Option(False, "--restore", help="Throw away edits of plan.json."), provider: str = Provider,
    max_hourly: float | None = MaxHourly, spot: str = Spot, quiet: bool = Quiet, as_json: bool = Json,
) -> None:
    """The same up to the gate: read, audit, synthesise; show the plan, its machines and price, and its hash.

    Of a run that has a plan it is shown as it is; with settings (--budget, --provider, --set) it is made again with them.
    """
    from forge.cli.session import Session

    session = Session(as_json=as_json, quiet=quiet, yes=False)
    flags = [*_money(budget, before_gate), *_machine(provider, max_hourly, spot), *set_]
    if corpus and Path(corpus).exists():
        session.start(Path(corpus), dry_run=False, new=False, run_id="", plugin_dirs=(), recipe=recipe, flags=flags)
        session.execute(until="plan_fit", show_result=False)
    else:
        session.open(corpus, flags=flags)
        if flags:
            session.execute(until="plan_fit", show_result=False)
    session.show_plan(restore=restore)


def approve(
    run_id: str = RunId, plan_hash: str = typer.Option("", "--plan", metavar="HASH", help="The plan's hash, as `forge plan` shows it.", show_default=False),
    stop: bool = typer.Option(False, "--stop", help="Only approve; do not continue the run."), quiet: bool = Quiet, as_json: bool = Json,
) -> None:
    """Approve RUN's plan and continue. The approval counts for exactly this plan."""
    from forge import gate
    from forge.cli.session import Session

    session = Session(as_json=as_json, quiet=quiet, yes=False)
    opened = session.open(run_id)
    session.check_reviewed()
    if not plan_hash:
        if not ui.is_interactive():
            from forge.errors import UsageError

            raise UsageError("approve needs --plan HASH when nobody can be asked", next=f"forge plan {opened.id}")
        plan_hash = session.confirm_plan()
    with opened.lock():
        sha256 = gate.approve(opened, plan_hash)
    if not stop:
        session.execute()
    elif not as_json:
        ui.out(f"approved plan {gate.short(sha256)}")
        ui.next_step(f"forge resume {opened.id}")


def reject(run_id: str = RunId, as_json: bool = Json) -> None:
    """Close RUN at the gate; keeps its data, spends nothing more."""
    from forge import gate
    from forge.run import Run

    opened = Run.open(run_id)
    with opened.lock():
        gate.reject(opened)
    if as_json:
        ui.out_json({"run": opened.id, "outcome": "rejected"})
    else:
        ui.out(f"run {opened.id} is closed; its data stays in {opened.folder}")
        ui.next_step(f"forge resume {opened.id} opens it again, with --set to change the plan")


def resume(
    run_id: str = RunId, from_: str = From, until: str = Until, set_: list[str] = Set, budget: float | None = Budget,
    before_gate: float | None = BeforeGate, preview: bool = typer.Option(False, "--preview", help="Only show which phases would run, and why."),
    provider: str = Provider, max_hourly: float | None = MaxHourly, spot: str = Spot, on_interrupt: str = OnInterrupt, yes: bool = Yes,
    quiet: bool = Quiet, as_json: bool = Json,
) -> None:
    """Continue RUN from where it stopped, or --from PHASE."""
    from forge.cli.session import Session

    session = Session(as_json=as_json, quiet=quiet, yes=yes)
    session.open(run_id, flags=[*_money(budget, before_gate), *_machine(provider, max_hourly, spot, on_interrupt), *set_])
    if preview:
        session.preview(from_)
    else:
        session.execute(until=until, rerun_from=from_)


def _money(budget: float | None, before_gate: float | None) -> list[str]:
    flags: list[tuple[str, Any]] = [("run.budget_usd", budget), ("run.before_gate_usd", before_gate)]
    return [f"{key}={value}" for key, value in flags if value is not None]


def _machine(provider: str, max_hourly: float | None, spot: str, on_interrupt: str = "") -> list[str]:
    """The settings behind the flags for machines; they are part of the plan, and of what is approved."""
    flags: list[tuple[str, Any]] = [("provider", provider or None), ("max_hourly_usd", max_hourly), ("spot", spot or None)]
    chosen = [f"plan_fit.{name}={value}" for name, value in flags if value is not None]
    return [*chosen, *([f"run.on_interrupt={on_interrupt}"] if on_interrupt else [])]
