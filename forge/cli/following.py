"""`forge trace`: an example, a question, a passage or a file of a run, followed to where it came from and where it went."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import typer

from forge import ui

if TYPE_CHECKING:
    from forge.tracing import Found, Step

LONGEST = 400


def trace(
    what: list[str] = typer.Argument(
        ..., metavar="[RUN] EXAMPLE|QUESTION", help="An id of an example, pair, passage or drop, a file of the corpus, or words of a question.", show_default=False
    ),
    as_json: bool = typer.Option(False, "--json", help="As JSON."),
) -> None:
    """Why something is in the model or not: question -> pair -> passage -> page -> split -> prediction."""
    from forge.registry import Registry
    from forge.tracing import Tracer

    run, asked = _open(what)
    tracer = Tracer(run, Registry(run.plugin_dirs))
    best, *others = tracer.find(asked)
    steps = tracer.follow(best)
    if as_json:
        ui.out_json({
            "run": run.id, "asked": asked, **best.model_dump(), "steps": [step.model_dump() for step in steps], "others": [one.model_dump() for one in others],
        })
        return
    _show(best, steps)
    _show_others(others)
    ui.next_step(f"forge trace {run.id} {others[0].id}" if others and best.score < 1 else f"forge review {run.id}")


def _open(words: list[str]) -> tuple[Any, str]:
    """The run, where the first of several words names one, and what is asked for."""
    from forge.run import Run, run_ids

    names_run = len(words) > 1 and any(name == words[0] or (len(words[0]) >= 2 and name.startswith(words[0])) for name in run_ids())
    return (Run.open(words[0]), " ".join(words[1:])) if names_run else (Run.open(), " ".join(words))


def _show(best: Found, steps: list[Step]) -> None:
    if best.score < 1:
        ui.out(f"the closest {best.kind} ({best.score:.0%} alike)")
    for step in steps:
        ui.out(ui.paint(ui.BOLD, step.name))
        ui.lines(line for name, value in step.facts.items() for line in _fact(name, value))


def _fact(name: str, value: Any) -> list[str]:
    text = _words(value)
    if not text:
        return []
    room = max(30, ui.width() - 18)
    first, *rest = textwrap.wrap(text if len(text) <= LONGEST else f"{text[:LONGEST]} …", room) or [""]
    return [f"  {name:<15} {first}", *(f"{'':18}{line}" for line in rest)]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return " to ".join(map(str, value)) if len(value) == 2 and all(isinstance(one, int) for one in value) else ", ".join(map(str, value))
    return " ".join(str(value).split())


def _show_others(others: list[Found]) -> None:
    if others:
        ui.out("")
        ui.table([(one.kind, one.id, f"{one.score:.0%}", " ".join(one.text.split())[:120]) for one in others], ("also", "id", "alike", ""))
