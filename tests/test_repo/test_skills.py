"""Each phase has a skill whose tables come from its code."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge import skills
from forge.registry import Registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", skills.skill_names())
def test_every_skill_names_itself_and_says_when_to_use_it(name: str) -> None:
    text = skills.skill_text(name)
    label = "forge" if name == skills.ROOT else f"forge-{name.replace('_', '-')}"
    front = text.split("---\n")[1]
    assert f"name: {label}\n" in front
    assert "Use when" in front or "Use this" in front
    assert text.count("\n") < 180
    assert skills.BEGIN in text
    assert skills.END in text


@pytest.mark.parametrize("name", [name for name in skills.skill_names() if name != skills.ROOT])
def test_the_tables_name_every_artifact_and_setting(name: str) -> None:
    phase, text = Registry().phase(name), skills.skill_text(name)
    for output in phase.writes:
        assert f"`{output.path}`" in text
    for key in phase.settings.model_fields:
        assert f"`{name}.{key}`" in text


def test_the_committed_tables_are_current() -> None:
    stale = []
    for name in skills.skill_names():
        file = ROOT / "phases" / ("SKILL.md" if name == skills.ROOT else f"{name}/SKILL.md")
        if file.read_text(encoding="utf-8") != skills.skill_text(name):
            stale.append(f"{file.relative_to(ROOT)}: run `make docs`")
    assert stale == []


def test_install_writes_them_where_agents_look(tmp_path: Path) -> None:
    made = skills.install(tmp_path, agents=False)
    assert tmp_path / ".claude/skills/forge-plan-fit/SKILL.md" in made
    assert "slm-forge 0.1.0" in made[0].read_text(encoding="utf-8")
    assert skills.install(tmp_path, agents=True)[0].is_relative_to(tmp_path / ".agents")
