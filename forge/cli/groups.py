"""Help of groups of commands: in panels, each command with its whole first line."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from forge import ui


class Panels(TyperGroup):
    """`forge --help` with its commands in panels, each with its whole first line."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under the headings that they were registered with."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                panel = getattr(command, "rich_help_panel", None)
                heading = panel if isinstance(panel, str) else "Commands"
                panels.setdefault(heading, []).append((name, command.get_short_help_str(limit=200)))
        width = max(len(name) for rows in panels.values() for name, _ in rows)
        for heading, rows in panels.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), about) for name, about in rows])


def new_group(name: str, about: str) -> typer.Typer:
    """A group that shows its help when it is called without a command."""
    group = typer.Typer(name=name, help=about, cls=Panels)
    group.callback(invoke_without_command=True, help=about)(show_help)
    return group


def show_help(ctx: typer.Context) -> None:
    """Print the help when no command was named."""
    if ctx.invoked_subcommand is None:
        ui.out(ctx.get_help())
