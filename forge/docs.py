"""Regenerates what is made from code: the tables in the skills, docs/commands.md.  python -m forge.docs [ROOT]"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from forge import skills
from forge.store import write_durably


def regenerate(root: Path) -> list[Path]:
    """Bring every generated page under `root` up to date; returns those that changed."""
    pages = {root / "docs" / "commands.md": command_reference()}
    for name in skills.skill_names():
        file = root / "phases" / ("SKILL.md" if name == skills.ROOT else f"{name}/SKILL.md")
        pages[file] = skills.skill_text(name)
    changed = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_durably(path, pages[path])
    return changed


def command_reference() -> str:
    """Every command's help text as one Markdown page."""
    import typer

    from forge.cli.app import app

    root = typer.main.get_command(app)
    parts = ["# Commands\n\nMade from `--help` by `make docs`; exit codes are in the README.\n"]
    for words, command in _commands(root, ("forge",)):
        context = command.make_context(" ".join(words), [], resilient_parsing=True)
        context.max_content_width = context.terminal_width = 100
        parts.append(f"## {' '.join(words)}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def _commands(command: Any, words: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    found = [(words, command)]
    for name, child in getattr(command, "commands", {}).items():
        found += _commands(child, (*words, name))
    return found


if __name__ == "__main__":
    regenerate(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
