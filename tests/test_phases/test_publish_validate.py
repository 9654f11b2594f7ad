"""The card validator: a true publication passes, and every rule refuses its bad fixture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.errors import ArtifactDamaged, ForgeError, GateFailed
from forge.gguf_header import read_gguf
from forge.phases.publish import PublishSettings, phase
from forge.phases.publish.card import render_card
from forge.phases.publish.facts import read_facts
from forge.phases.publish.headers import read_safetensors
from forge.phases.publish.leaks import find_machine_paths, find_secrets
from forge.phases.publish.licence import choose_licence
from forge.phases.publish.modelfile import parse_modelfile
from forge.phases.publish.policy import decide
from forge.phases.publish.snippets import run_snippets, snippets_of
from forge.phases.publish.staged import Staged
from forge.phases.publish.validate import RULES, validate
from forge.testing import run_phase
from tests.test_phases.finished_run import (
    ABSTENTION,
    MODELFILE,
    NAME,
    SYSTEM,
    finished_run,
    made_plan,
    write_gguf,
)

Damage = Callable[[Staged], object]


def staged(tmp_path: Path, **changes: object) -> Staged:
    """A publication as it lies before the swap, with the facts it was made from."""
    kept: list[Staged] = []

    class Peek(type(phase)):  # type: ignore[misc]
        def run(self, settings: PublishSettings, ctx: object) -> dict[str, float]:
            facts = read_facts(ctx)  # type: ignore[arg-type]
            licence = choose_licence("", facts.plan.base, facts.plan.base_license)
            super().run(settings, ctx)
            folder = tmp_path / "hub" / facts.plan.name
            (folder / "SHA256SUMS").unlink()
            kept.append(Staged(folder=folder, facts=facts, decision=decide(facts, licence, ""), licence=licence))
            return {}

    inputs = finished_run(tmp_path / "art", **changes)  # type: ignore[arg-type]
    run_phase(Peek(), tmp_path / "run", settings=PublishSettings(try_snippets=False, hub_dir=str(tmp_path / "hub")), inputs={n: inputs[n] for n in phase.reads if n in inputs})
    return kept[0]


def edit(name: str, old: str, new: str) -> Damage:
    """Replace a text in a published file; fails the test when it is not there."""

    def damage(publication: Staged) -> None:
        path = publication.folder / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


def card(old: str, new: str) -> Damage:
    return edit("README.md", old, new)


def add_metadata(path: Path, told: dict[str, str]) -> None:
    """Put free text into the header of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.dumps({"__metadata__": told, **json.loads(data[8 : 8 + length])}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


GGUF = f"gguf/{NAME}-Q8_0.gguf"

BAD: list[tuple[str, Damage]] = [
    ("front_matter_parses", card("---\n", "")),
    ("front_matter_parses", card("pipeline_tag: text-generation\n", "")),
    ("license_is_known", card("license: other", "license: apache-2.0")),
    ("license_is_known", card("license_name: no-licence-chosen\n", "")),
    ("base_is_true", card("library_name:", "base_model: Qwen/Qwen2.5-7B\nlibrary_name:")),
    ("parameters_are_true", card("**Parameters:** 16,640", "**Parameters:** 7,000,000,000")),
    ("parameters_are_true", card("With 16,640 parameters", "With 3 billion parameters")),
    ("files_are_true", lambda s: (s.folder / GGUF).unlink()),
    ("files_are_true", card("| 18,032 |", "| 18,033 |")),
    ("files_are_true", lambda s: write_gguf(s.folder / "gguf" / "extra.gguf", {"a": (32,)})),
    ("headers_are_readable", lambda s: (s.folder / GGUF).write_bytes(b"GGML")),
    ("headers_are_readable", lambda s: (s.folder / "model.safetensors").write_bytes(b"\0" * 64)),
    ("no_placeholders", card("| seed | 7 |", "| seed | None |")),
    ("no_placeholders", card("| seed | 7 |", "| seed | ? |")),
    ("no_placeholders", card("It has read", "TODO {{ x }} It has read")),
    ("sections_are_there", card("## Out of scope", "## Scope")),
    ("sections_are_there", card("## Limitations", "## Limitations\n\n## More")),
    ("numbers_are_measured", card("value: 0.41", "value: 0.99")),
    ("numbers_are_measured", edit("eval.json", '"estimate": 0.41', '"estimate": 0.99')),
    ("card_numbers_are_in_the_artifacts", card("| test_recall | 64 |", "| test_recall | 640 |")),
    ("card_numbers_are_in_the_artifacts", card("0.29 to 0.52", "0.2187 to 0.52")),
    ("card_numbers_are_in_the_artifacts", card("cut into 12 passages", "cut into 1,200 passages")),
    ("card_numbers_are_in_the_artifacts", card("| 200 | 40,960 |", "| 200 | 40,961 |")),
    ("card_numbers_are_in_the_artifacts", card("2 email address", "77 email address")),
    ("card_numbers_are_in_the_artifacts", card("**Energy:** about ", "**Energy:** about 4")),
    ("card_says_what_the_artifacts_say", card("| abstention_recall | 0.95 |", "| abstention_recall | 0.83 |")),
    ("card_says_what_the_artifacts_say", card("- Medical, legal,", "- Legal,")),
    ("modelfile_is_the_measured_one", edit("Modelfile", 'PARAMETER stop "<|im_end|>"\n', "")),
    ("modelfile_is_the_measured_one", edit("Modelfile", "PARAMETER num_predict 128", "PARAMETER max_tokens 128")),
    ("modelfile_is_the_measured_one", edit("params", '"temperature": 0', '"temperature": 1')),
    ("abstention_is_identical", card(f"```text\n{ABSTENTION}", "```text\nThe handbook doesn't say.")),
    ("abstention_is_identical", edit("Modelfile", "# a comment", f"# a comment\n# {ABSTENTION.replace('does', 'do')}")),
    ("prompt_is_identical", edit("Modelfile", "You answer from", "You are a helpful assistant. You answer from")),
    ("prompt_is_identical", card(f"```text\n{SYSTEM}", "```text\nYou are helpful.")),
    ("modelfile_works", edit("Modelfile", "FROM ./gguf/", "FROM https://huggingface.co/x/resolve/main/")),
    ("modelfile_works", card("`temperature 0`", "`temperature 0.7`")),
    ("modelfile_works", edit("Modelfile", "PARAMETER temperature 0", "PARAMETER temperature 1")),
    ("modelfile_works", edit("Modelfile", 'TEMPLATE """', 'TEMPLATE """{{ .System }}')),
    ("snippets_work", card("messages = [", "messages = [[")),
    ("snippets_work", card(f"-m gguf/{NAME}-Q4_K_M.gguf", f"-m gguf/{NAME}-Q5_K_M.gguf")),
    ("nothing_leaks", edit("NOTICE", "Terms", "AKIAABCDEFGHIJKLMNOP Terms")),
    ("nothing_leaks", lambda s: write_gguf(s.folder / GGUF, {"a": (32,)}, name="AKIAABCDEFGHIJKLMNOP")),
    ("nothing_leaks", lambda s: add_metadata(s.folder / "model.safetensors", {"trained_in": "/home/ann/secret-project"})),
    ("nothing_leaks", edit("config.json", "5.23.0", "/home/ann/secret-project")),
    ("nothing_leaks", lambda s: (s.folder / "eval.json").write_text(json.dumps({"evidence": str(Path.cwd() / "x")}), encoding="utf-8")),
]


def test_a_true_publication_has_no_problems(tmp_path: Path) -> None:
    assert validate(staged(tmp_path)) == []


@pytest.mark.parametrize(("rule", "damage"), BAD, ids=[f"{rule}-{i}" for i, (rule, _) in enumerate(BAD)])
def test_each_rule_refuses_its_bad_fixture(tmp_path: Path, rule: str, damage: Damage) -> None:
    publication = staged(tmp_path)
    damage(publication)
    checks = {check.__name__: check for check in RULES}
    assert checks[rule](publication), f"{rule} let it pass"


@pytest.mark.parametrize("damage", [damage for _, damage in BAD if damage.__qualname__.startswith("edit.")])
def test_a_card_or_modelfile_that_was_changed_by_hand_is_refused_with_its_line_and_the_reason(tmp_path: Path, damage: Damage) -> None:
    """Show 4 of issue 7: over twenty broken ones; the good twin is test_a_true_publication_has_no_problems."""
    publication = staged(tmp_path)
    name = (damage.__closure__ or ())[0].cell_contents
    damage(publication)
    problems = validate(publication)
    assert problems
    if name in ("README.md", "Modelfile"):
        assert any(re.search(rf"{name}:\d+: .+", problem) for problem in problems), problems


def test_more_than_twenty_broken_cards_and_modelfiles_are_tried() -> None:
    assert sum(damage.__qualname__.startswith("edit.") for _, damage in BAD) > 20


def test_the_verdict_must_come_first(tmp_path: Path) -> None:
    publication = staged(tmp_path, quality="fail", headline="Worse")
    assert validate(publication) == []
    card("> **Not shown to be good enough: Worse.**", "> A great model.")(publication)
    assert any(problem.startswith("verdict_comes_first") for problem in validate(publication))


def test_every_rule_has_a_bad_fixture() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for rule, _ in BAD} | {"verdict_comes_first"}


@pytest.mark.parametrize("name", ["slm-0m", "dental-7b"])
def test_a_name_with_a_false_size_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(GateFailed, match="failed 1 check") as caught:
        staged(tmp_path, plan=made_plan(name=name), modelfile=MODELFILE.replace(NAME, name))
    assert "does not describe 16,640 parameters" in caught.value.why


def test_a_name_with_its_true_size_passes(tmp_path: Path) -> None:
    name = "route-66b-handbook-16.6k"
    assert validate(staged(tmp_path, plan=made_plan(name=name), modelfile=MODELFILE.replace(NAME, name))) == []


def test_a_corrupted_publication_is_refused_before_the_swap(tmp_path: Path) -> None:
    broken = MODELFILE.replace("FROM ./gguf/", "FROM ./elsewhere/")
    with pytest.raises(GateFailed, match="failed 1 check"):
        staged(tmp_path, modelfile=broken)
    assert not (tmp_path / "hub" / NAME).exists()


def test_the_card_is_the_same_whenever_it_is_rendered(tmp_path: Path) -> None:
    publication = staged(tmp_path)
    assert render_card(publication.facts, publication.decision, publication.licence) == publication.card


@pytest.mark.parametrize(("code", "problem", "left"), [
    ("print('an answer')", "", ""), ("raise ValueError('no such model')", "fails: ValueError: no such model", ""), ("x = 1", "prints no answer", ""),
    ("import os; os.kill(os.getpid(), 11)", "", "died with SIGSEGV"), ("import nowhere_at_all", "", "nowhere_at_all is not installed here"),
])
def test_the_python_on_the_card_is_run_as_it_stands(tmp_path: Path, code: str, problem: str, left: str) -> None:
    publication = staged(tmp_path)
    path = publication.folder / "README.md"
    path.write_text(f"{publication.card}\n```python\n{code}\n```\n", encoding="utf-8")
    wanted = snippets_of(publication.body)[-1]
    assert wanted[1] == f"{code}\n"
    path.write_text(f"---\nlicense: mit\n---\n\n```python\n{code}\n```\n", encoding="utf-8")
    problems, told = run_snippets(publication)
    assert problem in "".join(problems)
    assert left in "".join(told)
    assert (len(problems), len(told)) == (bool(problem), bool(left))


def test_a_large_model_is_not_run_here_and_that_is_said(tmp_path: Path) -> None:
    publication = staged(tmp_path)
    large = publication.model_copy(update={"facts": publication.facts.model_copy(update={"parameters": 7_000_000_000})})
    problems, left = run_snippets(large)
    assert problems == []
    assert len(left) == 2
    assert all("7,000,000,000 parameters" in reason for reason in left)


# --- the parts -------------------------------------------------------------------------------------------------


def test_a_truncated_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, {"token_embd.weight": (256, 64)})
    header = read_gguf(path)
    assert (header.parameters, header.architecture, header.array_lengths) == (16384, "llama", {"tokenizer.ggml.tokens": 2})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactDamaged, match="not a readable GGUF"):
        read_gguf(path)


def test_every_cut_of_a_gguf_header_is_refused_and_never_crashes(tmp_path: Path) -> None:
    path, cut = tmp_path / "m.gguf", tmp_path / "cut.gguf"
    write_gguf(path, {"a": (32,), "b": (32, 2)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ArtifactDamaged):
            read_gguf(cut)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactDamaged, match="no safetensors"):
        read_safetensors(tmp_path)


def test_modelfile_values_may_span_lines() -> None:
    parsed = parse_modelfile('FROM ./a.gguf\nSYSTEM """one\ntwo"""\nPARAMETER stop "x"\nparameter top_p 0.9\n')
    assert (parsed.source, parsed.system) == ("./a.gguf", "one\ntwo")
    assert parsed.parameters == (("stop", "x"), ("top_p", "0.9"))


@pytest.mark.parametrize("text", ["PARAMETER", "NONSENSE x", 'SYSTEM """open'])
def test_a_modelfile_that_ollama_would_refuse_is_refused(text: str) -> None:
    with pytest.raises(ForgeError, match="Modelfile:1"):
        parse_modelfile(text)


@pytest.mark.parametrize("secret", [
    "-----BEGIN RSA PRIVATE KEY-----", "AKIAABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "hf_" + "a1" * 16, "sk-ant-api03-" + "x" * 24,
    "AIza" + "b" * 35, "xoxb-1234567890-abc", "postgres://user:hunter22@db.example.org/x", "api_key = 'abcdefgh1234'",
])
def test_credentials_are_found(secret: str) -> None:
    assert find_secrets(f"before {secret} after")


def test_addresses_and_prose_are_not_machine_paths() -> None:
    text = "see https://example.org/home/page and ./model/x, 3/4, and/or"
    assert find_machine_paths(text) == []
    assert find_machine_paths("saved to /root/work/base") == ["/root/work/base"]
