"""The `forge` command: its groups of commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import gc
import json
import re
import sys
from typing import Any

import typer

from forge import __version__, ui
from forge.cli import ending, look, making, setup, tools, using
from forge.cli.groups import Panels, show_help
from forge.errors import ForgeError, Interrupted, UsageError, explain

HELP = """Forge a small specialty language model from a folder of documents.

\b
  forge init --sample             a small corpus to try; no key, no GPU
  forge run sample --dry-run      rehearse all of it in a minute, for $0.00
  forge run corpus/ --budget 200  the real thing; stops once, to ask you
"""

AnyUsageError: Any = typer.BadParameter.__mro__[1]
"""click's UsageError. Typer 0.27 and newer carry their own copy of click; this is the one that they raise."""

COLLECTING = (50_000, 20, 50)
"""Imports make objects that stay. With Python's (700, 10, 10), looking through them for garbage again and again took a third
of `forge extract` over 48 small files (1.35 CPU s; 0.93 without)."""

HINT = re.compile(r"(?s)(.*?)(?:\s*(?:Did you mean (?:one of: )?|\(Possible options: )(.*?)[?)]+)?$")

app = typer.Typer(
    name="forge", help=HELP, cls=Panels, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options before the command."""
    if version:
        ui.out(f"slm-forge {__version__}")
    else:
        show_help(ctx)


making.add(app)
ending.add(app)
look.add(app)
using.add(app)
tools.add(app)
setup.add(app)


def main() -> None:
    """The console script: runs a command; exits with the code that forge.errors documents."""
    gc.set_threshold(*COLLECTING)
    ui.prepare()
    sys.exit(run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Run one command line and return its exit code. Only a bug of ours shows a traceback."""
    as_json = "--json" in argv
    try:
        result = app(args=argv, prog_name="forge", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except AnyUsageError as error:
        _show(_as_forge_error(error), as_json)
        return 2
    except (Interrupted, KeyboardInterrupt, typer.Abort) as stop:
        _show_interrupt(str(stop), as_json)
        return Interrupted.exit_code
    except Exception as error:  # noqa: BLE001 - the last place: told as an error of the user's, or as a bug of ours
        told = explain(error)
        _show(told or _bug(error, argv), as_json)
        return told.exit_code if told else 1


def _show(error: ForgeError, as_json: bool) -> None:
    ui.show_error(error, as_json=as_json)
    if not as_json:
        for note in getattr(error, "__notes__", ()):
            ui.say(f"  note: {note}")


def _show_interrupt(text: str, as_json: bool) -> None:
    fact, _, following = text.partition(" next: ")
    stopped = ForgeError(fact.rstrip(".") or "interrupted; what is finished is kept", next=following or "forge resume")
    if as_json:
        ui.say(json.dumps({"error": stopped.fact, "why": "", "next": stopped.next, "exit_code": Interrupted.exit_code}))
        return
    ui.say(stopped.fact)
    ui.say(f"next: {stopped.next}")


def _as_forge_error(error: Any) -> ForgeError:
    """click's "No such command 'rnu'. Did you mean 'run'?" as fact / why / next."""
    fact, hint = HINT.match(str(error.format_message())).groups()   # type: ignore[union-attr]  # it matches every text
    where = error.ctx.command_path if error.ctx else "forge"
    why = f"did you mean {hint}?" if hint else ""
    return UsageError(fact[:1].lower() + fact[1:].rstrip("."), why=why, next=f"{where} --help")


def _bug(error: Exception, argv: list[str]) -> ForgeError:
    """A bug of ours: its traceback on the terminal and in a file that a report can carry."""
    from forge.cli.bugs import record_bug

    return record_bug(error, argv)
