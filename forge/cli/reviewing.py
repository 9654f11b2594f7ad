"""`forge review`: the local page, and the same decisions by command."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from forge import ui
from forge.cli.complete import run_names

if TYPE_CHECKING:
    from forge.review.desk import Desk
    from forge.review.server import ReviewServer

SECONDS_PER_MINUTE = 60.0


def review(
    run_id: str = typer.Argument("", metavar="RUN", help="Run id; without one, the newest run.", show_default=False, autocompletion=run_names),
    no_browser: bool = typer.Option(False, "--no-browser", help="Only print the page's address."),
    minutes: float = typer.Option(60, "--minutes", min=0.05, help="End the page after so many minutes without use."),
    reject: list[str] = typer.Option([], "--reject", metavar="PAIR[,PAIR]", help="Leave pairs out; repeat for more.", show_default=False),
    keep: list[str] = typer.Option([], "--keep", metavar="PAIR[,PAIR]", help="Take earlier decisions about pairs back.", show_default=False),
    edit: Path | None = typer.Option(None, "--edit", metavar="FILE.jsonl", help="Take the changes of an edited --export file over.", show_default=False),
    export: Path | None = typer.Option(None, "--export", metavar="FILE.jsonl", help="Write pairs to read and edit: a sample of every bucket and subtopic.", show_default=False),
    everything: bool = typer.Option(False, "--all", help="With --export: every pair."),
    why: str = typer.Option("", "--why", help="The reason that is kept with the decisions.", show_default=False),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Read RUN's plan and data on a local page; edit or reject single pairs; approve or reject the plan.

    The page is for this machine and one browser: its address works once. Decisions change the data set and so the plan,
    which is made again before it can be approved. The same decisions by command: --export, --edit, --reject, --keep.
    """
    from forge.cli.session import Session
    from forge.review.desk import Desk

    page = not (export or reject or keep or edit)
    session = Session(as_json=as_json and page, quiet=as_json and not page, yes=False)   # one object, where nothing is followed
    session.open(run_id)
    desk = Desk(session.run, session.registry, session.config, session.view)
    if export:
        _export(desk, export, sampled=not everything, as_json=as_json)
    elif not page:
        _decide(desk, _ids(reject), _ids(keep), edit, why, as_json=as_json)
    else:
        _serve(desk, session, browser=not no_browser, idle_seconds=minutes * SECONDS_PER_MINUTE, as_json=as_json)


def _export(desk: Desk, path: Path, *, sampled: bool, as_json: bool) -> None:
    from forge.errors import UsageError
    from forge.records import canonical_json
    from forge.store import write_durably

    if not desk.book.pairs:
        raise UsageError(f"run {desk.run.id} has no pairs", why="synth has not made any; rows of ready-made data are changed where they came from", next=f"forge review {desk.run.id}")
    rows = list(desk.book.rows(sampled=sampled))
    write_durably(path, "".join(canonical_json(row) + "\n" for row in rows))
    if as_json:
        ui.out_json({"run": desk.run.id, "pairs": len(rows), "of": len(desk.book.pairs), "file": str(path)})
        return
    ui.out(f"{len(rows):,} of {len(desk.book.pairs):,} pairs → {path}")
    ui.out('change question, answer or evidence, or set "decision": "rejected" and "why"')
    ui.next_step(f"forge review {desk.run.id} --edit {path}")


def _decide(desk: Desk, reject: list[str], keep: list[str], edit: Path | None, why: str, *, as_json: bool) -> None:
    """All of it or nothing: edits are checked before anything is recorded."""
    from forge.errors import UsageError
    from forge.review.desk import read_edits

    edits: list[tuple[str, dict[str, str], str]] = []
    rejections = [(one, why) for one in reject]
    if edit:
        if not edit.is_file():
            raise UsageError(f"there is no file at {edit}", next=f"forge review {desk.run.id} --export {edit}")
        edits, more = read_edits(edit, desk.book)
        rejections += [(one, reason or why) for one, reason in more]
    desk.check_ids([*reject, *keep])
    edited = desk.edit([(one, fields, reason or why) for one, fields, reason in edits]) if edits else 0
    for reason in dict.fromkeys(reason for _, reason in rejections):
        desk.reject([one for one, told in rejections if told == reason], reason)
    kept = desk.keep(keep, why) if keep else 0
    _tell(desk, {"rejected": len(rejections), "edited": edited, "taken_back": kept}, as_json=as_json)


def _tell(desk: Desk, counts: dict[str, int], *, as_json: bool) -> None:
    state = desk.state()
    total, outdated = state["decisions"], state["outdated"]
    following = f"forge resume {desk.run.id} --until {desk.planner}" if outdated else f"forge review {desk.run.id}"
    if as_json:
        ui.out_json({"run": desk.run.id, **counts, "decisions": {name: total[name] for name in ("rejected", "edited", "stale")}, "outdated": outdated, "next": following})
        return
    if outdated:
        ui.out(f"{total['rejected']:,} rejected, {total['edited']:,} edited in all: the plan must be made again ({outdated})")
    else:
        ui.out(f"{total['rejected']:,} rejected, {total['edited']:,} edited in all: the plan is up to date")
    ui.next_step(following)


def _serve(desk: Desk, session: Any, *, browser: bool, idle_seconds: float, as_json: bool) -> None:
    """Serve the page until the reviewer has decided. Raises Interrupted on Ctrl-C, WaitingAtGate when nobody uses it."""
    import webbrowser

    from forge.errors import Interrupted, WaitingAtGate
    from forge.review.server import ReviewServer

    run_id = desk.run.id
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell that starts jobs in the background has them ignore it
    try:
        server = ReviewServer(desk)
        _announce(server, run_id, as_json=as_json)
        if browser:
            webbrowser.open(server.url)
        outcome = server.wait(idle_seconds)
    except KeyboardInterrupt as stop:
        raise Interrupted(f"the review has ended; decisions are kept. next: forge review {run_id}") from stop
    finally:
        session.view.close()
    if outcome == "idle":
        raise WaitingAtGate(
            f"the review page of run {run_id} was not used for {idle_seconds / SECONDS_PER_MINUTE:g} minutes", why="it has ended; decisions are kept",
            next=f"forge review {run_id}",
        )
    _end(desk, outcome, as_json=as_json)


def _announce(server: ReviewServer, run_id: str, *, as_json: bool) -> None:
    if as_json:
        ui.out(json.dumps({"event": "review", "run": run_id, "url": server.url, "origin": server.origin}))
        return
    ui.out(f"review of run {run_id}: {server.url}")
    ui.say("  this address works once, on this machine. Ctrl-C ends the page; decisions are kept")


def _end(desk: Desk, outcome: str, *, as_json: bool) -> None:
    from forge import gate

    following = f"forge review {desk.run.id}" if outcome == "later" else f"forge resume {desk.run.id}"
    if as_json:
        ui.out(json.dumps({"event": "result", "run": desk.run.id, "outcome": outcome, "plan": desk.approved or None, "next": following}))
        return
    told = {
        "approved": f"approved plan {gate.short(desk.approved)}", "rejected": f"run {desk.run.id} is closed; its data stays in {desk.run.folder}",
        "later": "nothing is approved yet; decisions are kept",
    }
    ui.out(told[outcome])
    ui.next_step(following)


def _ids(words: list[str]) -> list[str]:
    """Ids as they are typed: repeated options, commas, or both."""
    return [one.strip() for word in words for one in word.split(",") if one.strip()]
