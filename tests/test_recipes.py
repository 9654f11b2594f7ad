"""Every shipped recipe is short, names settings that exist, and runs: a rehearsal over a small corpus of its kind, with a base from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge.cli.app import run_command
from forge.config import SHORT, recipe_names, recipe_text, resolve
from forge.phases.plan_fit.tables import load_tables
from forge.registry import Registry
from forge.run import Run
from forge.sections import all_sections

MOST_LINES = 40
MUSCLES = ("heart", "arm", "leg", "neck", "hand", "foot")
DRUGS = ("aspirin", "enalapril", "warfarin", "codeine", "digoxin", "heparin")
EFFECTS = ("rash", "renal failure", "bleeding", "nausea", "vertigo", "fever")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_short_commented_and_names_settings_that_exist(name: str) -> None:
    text = recipe_text(name)
    assert len(text.splitlines()) <= MOST_LINES
    assert text.startswith("# ")
    told = yaml.safe_load(text)
    assert told["description"]
    config = resolve(all_sections(Registry()), recipe=name, environment={}, folder=Path("/nowhere"))
    changed = [value for value in config.values() if value.origin != "built-in"]
    assert changed
    assert all(value.origin.startswith(f"recipe {name}") for value in changed)


def test_the_bases_that_recipes_name_are_whole_names_and_have_sizes_that_train() -> None:
    for name in recipe_names():
        base = yaml.safe_load(recipe_text(name)).get("base")
        assert base is None or base.count("/") == 1, name
    assert "Qwen/Qwen3-1.7B" in load_tables().bases


def test_the_top_level_words_stand_for_settings() -> None:
    sections = all_sections(Registry())
    for key in SHORT.values():
        section, _, field = key.partition(".")
        assert field in sections[section].model_fields, key


def sample(folder: Path) -> None:
    for file in (files("forge") / "sample").iterdir():
        if file.name.endswith(".md"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")


def tone_and_domain(folder: Path) -> None:
    for name in ("tone", "domain"):
        (folder / name).mkdir()
    documents = sorted(file.name for file in (files("forge") / "sample").iterdir() if file.name.endswith(".md") and "kurz" not in file.name)
    for number, name in enumerate(documents):
        text = (files("forge") / "sample" / name).read_text(encoding="utf-8")
        (folder / ("tone" if number % 2 else "domain") / name).write_text(text, encoding="utf-8")


def questions(folder: Path) -> None:
    """PubMedQA's shape: the answer follows from a word of the question."""
    records: dict[str, Any] = {}
    for number in range(150):
        decision = ("yes", "no", "maybe")[number % 3]
        muscle, kind = MUSCLES[number % 6], {"yes": "helps", "no": "harms", "maybe": "may change"}[decision]
        records[str(10_000 + number)] = {
            "QUESTION": f"Does treatment {number} that {kind} the {muscle} work?",
            "CONTEXTS": [f"We looked at {number} patients with a weak {muscle}. Half of them got treatment {number}."],
            "LONG_ANSWER": f"The treatment {kind} the {muscle} of most patients.", "final_decision": decision,
        }
    (folder / "ori_pqal.json").write_text(json.dumps(records), encoding="utf-8")


def sentences(folder: Path) -> None:
    """ADE's three lines, and PubTator's articles."""
    for name in ("ade", "bc5cdr", "biored"):
        (folder / name).mkdir()
    lines, clean = [], []
    for number in range(120):
        drug, effect = DRUGS[number % 6], EFFECTS[(number * 5 + number // 6) % 6]
        text = f"Patient {number} had {effect} after {drug} was given."
        at, then = text.index(effect), text.index(drug)
        lines.append(f"{5000 + number // 2}|{text}|{effect}|{at}|{at + len(effect)}|{drug}|{then}|{then + len(drug)}")
        clean.append(f"{7000 + number // 2} NEG Patient {number} went home without any complaint.")
    (folder / "ade" / "DRUG-AE.rel").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "ade" / "ADE-NEG.txt").write_text("\n".join(clean) + "\n", encoding="utf-8")
    for name in ("bc5cdr", "biored"):
        articles = []
        for number in range(20):
            drug, effect = DRUGS[number % 6], EFFECTS[number % 5]
            title, rest = f"Case {number} of {effect}.", f"The patient took {drug} for a week."
            offset = len(title) + 1
            articles.append("\n".join([
                f"{9000 + number}|t|{title}", f"{9000 + number}|a|{rest}",
                f"{9000 + number}\t{title.index(effect)}\t{title.index(effect) + len(effect)}\t{effect}\tDisease\tD1",
                f"{9000 + number}\t{offset + rest.index(drug)}\t{offset + rest.index(drug) + len(drug)}\t{drug}\tChemical\tC1",
                f"{9000 + number}\tCID\tC1\tD1", "",
            ]))
        (folder / name / f"{name}.PubTator.txt").write_text("\n".join(articles) + "\n", encoding="utf-8")


CORPORA: dict[str, Callable[[Path], None]] = {
    "dental-qa": sample, "two-stage": tone_and_domain, "biomed-yesno": questions, "medical-ner": sentences,
}


@pytest.mark.local
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "local-chat"])   # that one is every run of test_run.py
def test_a_recipe_runs_from_its_data_to_its_evaluation(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    CORPORA[name](corpus)
    words = ["run", str(corpus), "--dry-run", "--id", "one", "--recipe", name, "--until", "eval", "--quiet"]
    code = run_command([*words, "--set", "shape.base=scratch", "--set", "synth.teacher=offline"])
    assert code == 0, capsys.readouterr().err
    run = Run.open("one")
    found = {artifact: json.loads(run.store.open(stored).read_text(encoding="utf-8"))
             for artifact in ("plan", "train_report", "eval") if (stored := run.store.get(artifact))}
    assert found["eval"]["verdicts"]
    if name == "two-stage":
        assert [stage["name"] for stage in found["plan"]["stages"]] == ["tone", "domain"]
        assert found["eval"]["stages"]["models"] == ["base", "after_tone", "final"]
        assert found["eval"]["stages"]["prompts"]
    if name == "biomed-yesno":
        assert found["plan"]["task"] == "label"
        assert found["train_report"]["sweep"]["chosen"] in ("r4", "r8")
    if name == "medical-ner":
        assert found["plan"]["task"] == "extract"
