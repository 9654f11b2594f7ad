"""What run, plan, approve and resume share: open a run, show its events, execute, print the result."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from forge import gate, ui
from forge.cli.views import progress_view
from forge.config import Config, resolve
from forge.errors import ForgeError, Interrupted, UsageError, WaitingAtGate, nearest
from forge.ledger import dollars
from forge.pipeline import Pipeline
from forge.records import Plan
from forge.registry import Registry
from forge.run import Run, find_run
from forge.sections import all_sections
from forge.signals import StopSignal
from forge.sources import is_source_list, read_sources


class Session:
    """One command that works on one run."""

    def __init__(self, *, as_json: bool, quiet: bool, yes: bool) -> None:
        self.as_json, self.quiet, self.yes = as_json, quiet, yes
        self.view = progress_view(as_json=as_json, quiet=quiet)
        self.run: Run
        self.registry: Registry
        self.config: Config

    def start(
        self, corpus: Path, *, dry_run: bool, new: bool, run_id: str, plugin_dirs: tuple[Path, ...], recipe: str, flags: list[str],
        until: str = "",
    ) -> None:
        """Begin a run over a corpus, or continue the one that it has. Everything that was typed is checked first."""
        check_corpus(corpus)
        known = "" if new or run_id else find_run(corpus, dry_run=dry_run)
        if known:
            self.run = Run.open(known, (self.view,))
        dirs = plugin_dirs or (self.run.plugin_dirs if known else ())
        self.registry = Registry(dirs)
        self.config = resolve(all_sections(self.registry), recipe=recipe, flags=flags)
        self.registry.names("provider")   # imports the user's own plugins: a broken one is told before anything starts
        if until:
            self.registry.phase(until)
        if is_source_list(corpus):
            for source in read_sources(corpus, self.registry):
                source.require()
        if not known:
            self.run = Run.create(corpus, dry_run=dry_run, run_id=run_id, listeners=(self.view,))
        self.run.state.put("plugin_dirs", json.dumps([str(path.resolve()) for path in dirs]))
        self._headline(continued=bool(known))

    def open(self, run_id: str, *, flags: list[str] | None = None) -> Run:
        """Open an existing run with the settings it was started with, and `flags` on top."""
        self.run = Run.open(run_id, (self.view,))
        self.registry = Registry(self.run.plugin_dirs)
        self.config = resolve(all_sections(self.registry), stored=self.run.overrides(), flags=flags or [])
        return self.run

    def execute(self, *, until: str = "", rerun_from: str = "", refetch: bool = False, show_result: bool = True) -> None:
        """Run what has to be run and print what came of it."""
        began = time.monotonic()
        try:
            with self.run.lock(), StopSignal(self.view.stopping) as stop:
                self.run.remember(self.config)
                self.run.state.put("cwd", str(Path.cwd()))
                self.view.money = self._money
                pipeline = self._pipeline(stop, rerun_from, refetch)
                pipeline.execute(until)
        except Interrupted as error:
            raise Interrupted(str(error) or f"interrupted; what is finished is kept. next: forge resume {self.run.id}") from error
        finally:
            self.view.close()
        if show_result:
            from forge.cli.result import show_result as show

            show(self.run, as_json=self.as_json, seconds=time.monotonic() - began if pipeline.did_work else None)

    def preview(self, rerun_from: str) -> None:
        """Show which phases would run and why."""
        self.run.remember(self.config)
        rows = self._pipeline(None, rerun_from).preview()
        if self.as_json:
            ui.out_json([{"phase": name, "runs": bool(why), "why": why} for name, why in rows])
            return
        ui.table([(name, "runs" if why else "is kept", why) for name, why in rows], ("phase", "", "why"))
        ui.next_step(f"forge resume {self.run.id}")

    def show_plan(self, *, restore: bool) -> None:
        """Print the plan that waits (or waited) at the gate, with its hash."""
        if restore:
            gate.restore(self.run)
        plan, sha256, edited = gate.current(self.run)
        if self.as_json:
            ui.out_json({"run": self.run.id, "sha256": sha256, "edited": edited, "plan": plan.model_dump(mode="json")})
            return
        artifact = self.run.store.get("plan_text")
        if artifact and not edited:
            ui.out(self.run.store.open(artifact).read_text(encoding="utf-8").rstrip())
        else:
            ui.out_json(plan.model_dump(mode="json"))
        approved = gate.is_approved(self.run, sha256)
        ui.out(f"\nplan {gate.short(sha256)} · {'approved' if approved else 'not approved'}{' · edited by hand' if edited else ''} · {self.run.folder / 'plan.json'}")
        ui.next_step(f"forge status {self.run.id}" if approved else f"forge review {self.run.id}, or forge approve {self.run.id} --plan {gate.short(sha256)}")

    def check_reviewed(self) -> None:
        """Raise WaitingAtGate when people have decided about pairs and the plan does not know it yet."""
        from forge.review.decisions import current
        from forge.review.remake import outdated, planner

        if current(self.run) and (why := outdated(self.run, self.registry, self.config)):
            raise WaitingAtGate(
                "the plan must be made again before it can be approved", why=f"its data was reviewed ({why})",
                next=f"forge resume {self.run.id} --until {planner(self.registry)}",
            )

    def confirm_plan(self) -> str:
        """Show the plan to the person at the terminal; returns its hash when approved."""
        plan, sha256, _ = gate.current(self.run)
        if not self._ask(plan, sha256):
            raise Interrupted(f"not approved. next: forge plan {self.run.id}")
        return sha256

    def _pipeline(self, stop: StopSignal | None, rerun_from: str, refetch: bool = False) -> Pipeline:
        interactive = ui.is_interactive() and not self.as_json
        return Pipeline(
            self.run, self.registry, self.config, rerun_from=rerun_from, refetch=refetch,
            ask=self._ask if interactive else None,
            confirm=(lambda text: True) if self.yes else (ui.ask if interactive else None),
            stop_requested=stop or (lambda: False),
        )

    def _ask(self, plan: Plan, sha256: str) -> bool:
        self.view.pause()
        self.show_plan(restore=False)
        return ui.ask(f"Approve plan {gate.short(sha256)} and go on?")

    def _money(self) -> str:
        """"$0.31 of $200.00" while anything is paid: what is spent and what is set aside."""
        totals = self.run.ledger.totals()
        return f"{dollars(totals.committed)} of {dollars(totals.budget)}" if totals.committed else ""

    def _headline(self, *, continued: bool) -> None:
        if self.as_json or self.quiet:
            return
        from forge import __version__

        run, early = self.run, self.config.before_gate_usd
        name = f"{run.corpus.name}/" if run.corpus.is_dir() else run.corpus.name
        budget = "rehearsal, $0.00" if run.dry_run else f"budget ${self.config.budget_usd:,.2f}"
        ui.say(f"slm-forge {__version__} · run {run.id} {'continues' if continued else 'starts'} · {name} · {budget}")
        ui.say(f"  follow: forge status {run.id} --watch   stop: Ctrl-C (resumable)   files: {run.folder}")
        if early and not run.dry_run:
            teacher = getattr(self.config.section("synth"), "teacher", "") if "synth" in self.config.sections() else ""
            ui.say(f"  before your approval at most ${early:,.2f} may be spent, on the teacher{f' ({teacher})' if teacher else ''}; nothing on machines")
        ui.say()


def check_corpus(corpus: Path) -> None:
    """Raise when there is no corpus at a path, or nothing in it."""
    if not corpus.exists():
        raise _no_corpus(corpus)
    if corpus.is_dir() and not any(files for _, _, files in os.walk(corpus)):
        raise ForgeError("the corpus is empty", why=f"{corpus} holds no file", next="forge run FOLDER with documents in it")


def _no_corpus(corpus: Path) -> UsageError:
    siblings = [path.name for path in corpus.parent.iterdir() if not path.name.startswith(".")] if corpus.parent.is_dir() else []
    close = nearest(corpus.name, siblings)
    why = close if close.startswith("did you mean") else ""
    return UsageError(f"there is no corpus at {corpus}", why=why or f"the working directory is {Path.cwd()}", next="forge run FOLDER --dry-run, or forge init --sample for one to try")


def stored_error(run: Run) -> dict[str, str] | None:
    """The error with which a run last ended, if it did."""
    found = json.loads(run.state.get("error", "null"))
    return found if isinstance(found, dict) else None
