"""Settings: five layers, each value with its origin, every typo an error with the nearest spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from forge.config import GateSettings, RunSettings, recipe_names, resolve
from forge.errors import UsageError
from forge.phase import Settings
from forge.registry import Registry
from forge.sections import all_sections


class AuditLike(Settings):
    """Stands for a phase's settings."""

    min_words: int = Field(5, ge=1, description="shortest passage, words")
    languages: list[str] = Field(default_factory=list, description="languages to keep")


SECTIONS: dict[str, type[Settings]] = {"run": RunSettings, "gate": GateSettings, "audit": AuditLike}


def layers(tmp_path: Path, **arguments: Any) -> dict[str, tuple[Any, str]]:
    config = resolve(SECTIONS, folder=tmp_path, **{"environment": {}, **arguments})
    return {value.key: (value.value, value.origin) for value in config.values()}


def test_a_later_layer_wins_and_says_so(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("description: mine\naudit: {min_words: 1, languages: [de]}\nrun: {seed: 1}\n", encoding="utf-8")
    (tmp_path / "forge.yaml").write_text("audit: {min_words: 2}\n", encoding="utf-8")
    environment = {"FORGE__AUDIT__MIN_WORDS": "3", "FORGE_HOME": "/elsewhere"}
    found = layers(tmp_path, recipe=str(recipe), environment=environment)
    assert found["audit.min_words"] == (3, "$FORGE__AUDIT__MIN_WORDS")
    assert found["audit.languages"] == (["de"], str(recipe))
    assert found["run.seed"] == (1, str(recipe))
    assert found["gate.always_ask"] == (False, "built-in")
    found = layers(tmp_path, recipe=str(recipe), environment=environment, flags=["audit.min_words=4"])
    assert found["audit.min_words"] == (4, "--set")


def test_a_resumed_run_keeps_its_settings_whatever_the_file_says_now(tmp_path: Path) -> None:
    first = resolve(SECTIONS, folder=tmp_path, environment={}, flags=["audit.min_words=9"])
    (tmp_path / "forge.yaml").write_text("audit: {min_words: 2}\n", encoding="utf-8")
    assert resolve(SECTIONS, folder=tmp_path, stored=first.overrides).section("audit").min_words == 9


@pytest.mark.parametrize(
    ("flag", "fact", "why"),
    [
        ("audit.min_wrods=3", 'unknown setting "audit.min_wrods"', 'did you mean "min_words"?'),
        ("audti.min_words=3", 'unknown section "audti"', 'did you mean "audit"?'),
        ("audit.min_words=0", "audit.min_words cannot be 0", "greater than or equal to 1"),
        ("audit.min_words=many", "audit.min_words cannot be 'many'", "valid integer"),
        ("audit", "--set audit is not section.key=value", ""),
    ],
)
def test_a_wrong_setting_is_an_error_that_helps(tmp_path: Path, flag: str, fact: str, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(SECTIONS, folder=tmp_path, environment={}, flags=[flag])
    assert fact in caught.value.fact
    assert why in caught.value.why
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["audit: [", "- a\n- b\n", "audit: 3\n"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "forge.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"forge\.yaml"):
        resolve(SECTIONS, folder=tmp_path, environment={})


def test_before_the_gate_a_tenth_of_the_budget_is_free_to_spend(tmp_path: Path) -> None:
    config = resolve(SECTIONS, folder=tmp_path, environment={}, flags=["run.budget_usd=200"])
    assert config.before_gate_usd == 20
    config = resolve(SECTIONS, folder=tmp_path, environment={}, flags=["run.budget_usd=200", "run.before_gate_usd=3"])
    assert config.before_gate_usd == 3


def test_every_shipped_recipe_is_valid(tmp_path: Path) -> None:
    assert recipe_names()
    for name in recipe_names():
        resolve(all_sections(Registry()), recipe=name, folder=tmp_path, environment={})


def test_every_setting_says_what_it_means() -> None:
    for section, model in all_sections(Registry()).items():
        for key, info in model.model_fields.items():
            assert info.description, f"{section}.{key} has no description"
