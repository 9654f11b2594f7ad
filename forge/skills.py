"""The skills: phases/<name>/SKILL.md with tables generated from the code, printed or installed for coding agents."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from forge.errors import UsageError, nearest
from forge.phase import Phase
from forge.registry import Registry
from forge.sections import ordered_phases

BEGIN, END = "<!-- generated: tables -->", "<!-- end generated -->"
ROOT = "forge"


def list_skills() -> list[tuple[str, str]]:
    """(name, description) of the root skill and of each phase's, in run order."""
    return [(name, str(_front_matter(skill_text(name)).get("description", ""))) for name in skill_names()]


def skill_names() -> list[str]:
    """"forge" and the phases, in run order."""
    return [ROOT, *[phase.name for phase in ordered_phases(Registry())]]


def skill_text(name: str) -> str:
    """One SKILL.md with its tables filled in. Raises UsageError with the nearest spelling."""
    name = name.removeprefix("forge-").replace("-", "_") if name != ROOT else ROOT
    if name not in skill_names():
        raise UsageError(f'there is no skill "{name}"', why=nearest(name, skill_names()), next="forge skills list")
    folder = files("forge") / "phases"
    source = folder / "SKILL.md" if name == ROOT else folder / name / "SKILL.md"
    text = source.read_text(encoding="utf-8")
    tables = root_table() if name == ROOT else phase_tables(Registry().phase(name))
    return fill(text, tables)


def fill(text: str, tables: str) -> str:
    """The text with what is between its markers replaced by the tables."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def phase_tables(phase: Phase[Any]) -> str:
    """What a phase reads, writes and can be told, as Markdown."""
    writes = ", ".join(f"`{output.path}`" for output in phase.writes)
    rows = [
        f"| reads | {', '.join(f'`{name}`' for name in phase.reads) or 'nothing'} |",
        f"| writes | {writes} |",
        f"| runs | {'on the leased machine' if phase.where == 'machine' else 'in the engine'} |",
    ]
    knobs = [
        f"| `{phase.name}.{key}` | `{info.get_default(call_default_factory=True)}` | {info.description or ''} |"
        for key, info in phase.settings.model_fields.items()
    ]
    table = ["| | |", "|---|---|", *rows]
    if knobs:
        table += ["", "| setting | default | meaning |", "|---|---|---|", *knobs]
    return "\n".join(table)


def root_table() -> str:
    """All phases in order, as Markdown."""
    rows = [f"| `{phase.name}` | {phase.summary} |" for phase in ordered_phases(Registry())]
    return "\n".join(["| phase | what it does |", "|---|---|", *rows])


def install(folder: Path, *, agents: bool) -> list[Path]:
    """Write every skill to .claude/skills (or .agents/skills) under `folder`, stamped with the version."""
    from forge import __version__

    root = folder / (".agents" if agents else ".claude") / "skills"
    made = []
    for name in skill_names():
        label = ROOT if name == ROOT else f"forge-{name.replace('_', '-')}"
        target = root / label / "SKILL.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"{skill_text(name).rstrip()}\n\n<!-- slm-forge {__version__} -->\n", encoding="utf-8")
        made.append(target)
    return made


def _front_matter(text: str) -> dict[str, Any]:
    parts = text.split("---\n", 2)
    found = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
    return found if isinstance(found, dict) else {}
