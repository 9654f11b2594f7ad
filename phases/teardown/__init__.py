"""teardown: leaves the reports of a run, however it ended, and says loudly when something may still bill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from forge.errors import StillBilling
from forge.phase import Context, Estimate, Output, Requirement, Settings


class TeardownSettings(Settings):
    """Nothing to decide: reports are always written, machines are always ended."""


class Teardown:
    """Reads everything that exists, insists on nothing. The engine has ended the leases before this phase runs."""

    name: ClassVar[str] = "teardown"
    VERSION: ClassVar[int] = 2
    summary: ClassVar[str] = "prove that nothing bills any more and write the reports, however the run ended"
    reads: ClassVar[tuple[str, ...]] = (
        "run_record", "documents", "passages", "audit", "clean", "drops", "pairs", "shape", "train", "plan", "forecast",
        "approval", "train_report", "progress", "eval", "predictions", "ship_eval", "publication",
    )
    optional: ClassVar[tuple[str, ...]] = reads
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="after_action", path="after-action.md", telemetry=True),
        Output(name="qa_report", path="qa-report.md", telemetry=True),
        Output(name="failure_report", path="failure-report.md", telemetry=True), Output(name="report", path="report.html", telemetry=True),
    )
    settings: ClassVar[type[Settings]] = TeardownSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = True

    def estimate(self, settings: TeardownSettings, ctx: Context) -> Estimate:
        """A second, free."""
        return Estimate(seconds_p50=0.5, seconds_p90=5, basis="reads the artifacts once")

    def run(self, settings: TeardownSettings, ctx: Context) -> Mapping[str, float | str]:
        """Write the reports. Raises StillBilling, after writing them, when a lease is not confirmed as gone."""
        from forge.phases.teardown.markdown import after_action, failure_report, qa_report
        from forge.phases.teardown.report import render_report
        from forge.phases.teardown.story import open_leases, tally
        from forge.phases.teardown.view import read_view

        view = read_view(ctx)
        pages = {
            "after_action": after_action(view), "qa_report": qa_report(view), "failure_report": failure_report(view), "report": render_report(view),
        }
        for name, text in pages.items():
            ctx.output(name).write_text(text, encoding="utf-8", errors="replace", newline="\n")
        unconfirmed = open_leases(view)
        if unconfirmed:
            raise StillBilling(
                f"{len(unconfirmed)} machine(s) of run {view.record.run} could not be confirmed as gone",
                why=", ".join(f"{lease.token} at {lease.provider} is {lease.state}" for lease in unconfirmed),
                next=f"forge teardown {view.record.run}",
            )
        summary = f"no machine left · report.html, qa-report.md, after-action.md ({view.record.outcome})"
        return {"summary": summary, "outcome": view.record.outcome, "unreadable": len(view.unreadable), **tally(view)}

    def undo(self, settings: TeardownSettings, ctx: Context) -> None:
        """Nothing is made outside the run folder."""


phase = Teardown()
