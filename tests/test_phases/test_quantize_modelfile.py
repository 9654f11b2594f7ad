"""The Modelfile: Ollama's grammar, what would break later, and a template that renders as the model's own."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import jinja2
import pytest

from forge.errors import ForgeError
from forge.phases.quantize.go_template import render_go
from forge.phases.quantize.modelfile import (
    GO_TEMPLATES,
    Sampling,
    answer_limit,
    choose_template,
    probe_conversations,
    render_ollama,
    write_modelfile,
)
from forge.phases.quantize.modelfile_lint import Command, lint_modelfile, parse_modelfile
from forge.records import Message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content']"
    " + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
SYSTEM = 'Answer from the "Field Handbook".\nIf it does not say, say so: 100 %.'
MARKERS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
GOOD = '''FROM ./gguf/x-Q4_K_M.gguf
TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
PARAMETER stop "<|im_end|>"
'''


def rendered(template: str, turns: tuple[Message, ...]) -> str:
    """What apply_chat_template(add_generation_prompt=True) does."""
    environment = jinja2.Environment()
    environment.globals["strftime_now"] = date.today().strftime
    messages = [turn.model_dump() for turn in turns]
    return environment.from_string(template).render(messages=messages, add_generation_prompt=True)


# --- the grammar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM model1\nADAPTER adapter1\n", [("from", "", "model1"), ("adapter", "", "adapter1")]),
        ("from ./a b.gguf", [("from", "", "./a b.gguf")]),
        ("\n\n  FROM    x   \n# comment\nSYSTEM  hello  ", [("from", "", "x"), ("system", "", "hello")]),
        ("FROM x\r\nPARAMETER num_ctx 4096\r\n", [("from", "", "x"), ("parameter", "num_ctx", "4096")]),
        ('FROM x\nSYSTEM """\nmulti\n# no comment\n"""', [("from", "", "x"), ("system", "", "\nmulti\n# no comment\n")]),
        ('FROM x\nSYSTEM "one "two" three"', [("from", "", "x"), ("system", "", 'one "two" three')]),
        ('FROM x\nSYSTEM """"quoted""""', [("from", "", "x"), ("system", "", '"quoted"')]),
        ('FROM x\nPARAMETER stop "<|im_end|>"', [("from", "", "x"), ("parameter", "stop", "<|im_end|>")]),
        ("FROM x\nMESSAGE user hi there", [("from", "", "x"), ("message", "user", "hi there")]),
        ("FROM x\nSYSTEM # kept", [("from", "", "x"), ("system", "", "# kept")]),
        ("FROM x\nSYSTEM no\u00a0break\x07", [("from", "", "x"), ("system", "", "nobreak")]),
        ("FROM x\n\ue000PARAMETER  stop y", [("from", "", "x"), ("parameter", "", "stop y")]),
        ("FROM x\nSYSTEM ünïcödé 🦙", [("from", "", "x"), ("system", "", "ünïcödé 🦙")]),
    ],
)
def test_a_modelfile_is_read_as_ollama_reads_it(text: str, expected: list[tuple[str, str, str]]) -> None:
    found = [command.model_copy(update={"line": 0}) for command in parse_modelfile(text)]
    assert found == [Command(name=name, key=key, value=value) for name, key, value in expected]


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("PARAMETER temperature 1", "no FROM"),
        ("", "no FROM"),
        ("FROM x\nPARAMETER <|eot_id|>", "unexpected EOF"),
        ("FROM x\nPARAMETER temperature", "unexpected EOF"),
        ("FROM\nSYSTEM x", "unexpected EOF"),
        ('FROM x\nSYSTEM """never closed', "never closed"),
        ('FROM x\nSYSTEM "a" b', "never closed"),
        ("FROM x\nMESSAGE robot hi", "role 'robot'"),
        ("FROM x\nBADCOMMAND y", "does not begin with a command"),
        ("FROM x\n   # c\n<|im_end|> y", "unexpected EOF"),
    ],
)
def test_what_ollama_create_refuses_is_refused(text: str, fact: str) -> None:
    with pytest.raises(ForgeError, match=fact):
        parse_modelfile(text)


def test_the_line_that_ollama_would_stop_at_is_named() -> None:
    with pytest.raises(ForgeError, match=r"Modelfile:4: unexpected EOF"):
        parse_modelfile('FROM x\nSYSTEM """a\nb"""\nPARAMETER stop\n')


# --- the lint ---------------------------------------------------------------------------------------------------


def lint(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "gguf").mkdir(exist_ok=True)
    (tmp_path / "gguf/x-Q4_K_M.gguf").touch()
    return lint_modelfile(text, tmp_path, control=MARKERS, end_of_turn="<|im_end|>", marks=["<|im_end|>"])


def test_a_good_modelfile_has_no_problem(tmp_path: Path) -> None:
    assert lint(tmp_path, GOOD) == []


MISTAKES = (
    ("FROM https://huggingface.co/ns/repo/resolve/main/gguf/x.gguf", "FROM ./gguf/x-Q4_K_M.gguf", "is a URL"),
    ("FROM ./gguf/other.gguf", "FROM ./gguf/x-Q4_K_M.gguf", "does not exist"),
    ('"""{{ if .System }}{{ .System }}{{ end }}{{- range', '"""{{- range', "rendered twice"),
    ('stop "ttiuser"', 'stop "<|im_end|>"', "would hide a defect"),
    ('PARAMETER stop "<|im_start|>"', 'PARAMETER stop "<|im_end|>"', "not among the stops"),
    ("PARAMETER max_tokens 40\nPARAMETER stop", "PARAMETER stop", "max_tokens is unknown"),
    ("PARAMETER temperature cold\nPARAMETER stop", "PARAMETER stop", "cannot be 'cold'"),
    ("PARAMETER num_ctx 1.5\nPARAMETER stop", "PARAMETER stop", "cannot be '1.5'"),
    ("PARAMETER <|im_end|>", 'PARAMETER stop "<|im_end|>"', "unexpected EOF"),
    ("{{ end <|im_start|>", "{{ end }}<|im_start|>", "is no Go template"),
    ("{{ .Content }}\n", "{{ .Content }}<|im_end|>\n", "does not use <|im_end|>"),
    ("{{ end }}{{ end }}<|im_start|>", "{{ end }}<|im_start|>", "is no Go template"),
    ("<|im_end|>\n<|im_start|>", "<|im_end|>\n{{ end }}<|im_start|>", "without {{ end }}"),
    ("{{ .Content | trim }}", "{{ .Content }}", "is no Go template"),
    ("{{ printf .Content }}", "{{ .Content }}", "has 'printf'"),
)
"""(bad, good, problem): GOOD with `bad` in place of `good` has the problem."""


@pytest.mark.parametrize(("bad", "good", "problem"), MISTAKES)
def test_every_known_mistake_is_found(tmp_path: Path, bad: str, good: str, problem: str) -> None:
    text = GOOD.replace(good, bad, 1)
    problems = lint(tmp_path, text)

    assert text != GOOD
    assert any(problem in found for found in problems), problems
    assert problem == "not among the stops" or any(re.match(r"Modelfile:\d+: ", found) for found in problems), "each is told with its line"


# --- the template -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jinja", "family", "bos"), [(CHATML, "chatml", ""), (LLAMA3, "llama3", "<|begin_of_text|>")])
def test_the_family_is_found_by_rendering(jinja: str, family: str, bos: str) -> None:
    found, template = choose_template(lambda turns: rendered(jinja, turns), SYSTEM, bos=bos)

    assert found == family
    for turns in probe_conversations(SYSTEM):
        assert render_ollama(template, turns) == rendered(jinja, turns).removeprefix(bos)


@pytest.mark.parametrize("change", [("<|im_end|>\n'", "<|im_end|>'"), ("assistant\n", "assistant")])
def test_a_template_of_no_known_family_is_read_off_the_model_s_own(change: tuple[str, str]) -> None:
    jinja = CHATML.replace(*change)
    family, template = choose_template(lambda turns: rendered(jinja, turns), SYSTEM, bos="")

    assert family == "own"
    assert template != GO_TEMPLATES["chatml"]
    for turns in probe_conversations(SYSTEM):
        assert render_ollama(template, turns) == rendered(jinja, turns)


def test_a_template_that_trims_messages_is_the_same_for_messages_without_blanks_around_them() -> None:
    jinja = CHATML.replace("m['content']", "m['content'] | trim")
    family, template = choose_template(lambda turns: rendered(jinja, turns), SYSTEM, bos="")

    assert family == "own, untrimmed"
    for turns in probe_conversations(SYSTEM)[:2]:
        assert render_ollama(template, turns) == rendered(jinja, turns)
    assert choose_template(lambda turns: rendered(jinja, turns), f"{SYSTEM}\n", bos="") == ("own Jinja", ""), "its system prompt would be another"


@pytest.mark.parametrize("jinja", [
    CHATML.replace("{% for m", "{{ strftime_now('%d %b %Y') }}{% for m"),
    CHATML.replace("{% for m in messages %}", "{{ messages[0]['content'] }}{% for m in messages[1:] %}{{ '{{' }}"),
    "{% for m in messages[1:] %}{{ '[INST]' + (messages[0]['content'] + '\n' if loop.last else '') + m['content'] + '[/INST]' }}{% endfor %}",
])
def test_what_go_cannot_say_is_left_to_the_template_inside_the_file(jinja: str, tmp_path: Path) -> None:
    family, template = choose_template(lambda turns: rendered(jinja, turns), SYSTEM, bos="")
    text = write_modelfile("./gguf/x-Q4_K_M.gguf", template, SYSTEM, Sampling(context_tokens=512, answer_tokens=128, stops=("<|im_end|>",)))

    assert (family, template) == ("own Jinja", "")
    assert [command.value for command in parse_modelfile(text) if command.name in ("template", "requires")] == ["0.30.0"]
    assert lint(tmp_path, text) == []


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ .A }}", "1"),
        ("a {{- .A -}} b", "a1b"),
        ("{{ if .Empty }}x{{ else if .A }}y{{ else }}z{{ end }}", "y"),
        ("{{ range .List }}[{{ .N }}{{ $.A }}]{{ end }}", "[n1]"),
        ('{{ if eq .A "1" }}one{{ end }}{{ if (not (eq .A "1")) }}other{{ end }}', "one"),
        ('{{ if and .A (or .Empty .A) }}both{{ end }}{{ if ne .A "2" }}!{{ end }}', "both!"),
    ],
)
def test_go_templates_run_as_go_runs_them(template: str, text: str) -> None:
    assert render_go(template, {"A": "1", "Empty": "", "List": [{"N": "n"}]}) == text


@pytest.mark.parametrize("template", ["{{ if .A }}x", "{{ .A | upper }}", "{{ with .A }}{{ end }}", "{{ .A", "{{ end }}"])
def test_go_that_is_not_known_is_refused(template: str) -> None:
    with pytest.raises(ForgeError, match="chat template for Ollama"):
        render_go(template, {"A": "1"})


# --- the file ---------------------------------------------------------------------------------------------------


def test_the_written_modelfile_says_what_was_trained(tmp_path: Path) -> None:
    sampling = Sampling(context_tokens=512, answer_tokens=128, stops=("<|im_end|>",))
    text = write_modelfile("./gguf/x-Q4_K_M.gguf", GO_TEMPLATES["chatml"], SYSTEM, sampling)
    commands = parse_modelfile(text)
    values = {command.key or command.name: command.value for command in commands}

    assert lint(tmp_path, text) == []
    assert values == {
        "from": "./gguf/x-Q4_K_M.gguf", "template": GO_TEMPLATES["chatml"], "system": SYSTEM, "temperature": "0",
        "repeat_penalty": "1.0", "num_ctx": "512", "num_predict": "128", "stop": "<|im_end|>",
    }


@pytest.mark.parametrize("system", ['say """\nhello', "no\u00a0break", "bell\x07"])
def test_a_system_prompt_that_ollama_would_change_is_refused(system: str) -> None:
    with pytest.raises(ForgeError, match="another system"):
        write_modelfile("./x.gguf", GO_TEMPLATES["chatml"], system, Sampling(context_tokens=1, answer_tokens=1, stops=()))


def test_no_system_prompt_writes_no_system_line() -> None:
    text = write_modelfile("./x.gguf", GO_TEMPLATES["chatml"], "", Sampling(context_tokens=1, answer_tokens=1, stops=()))

    assert "SYSTEM" not in text


@pytest.mark.parametrize(("longest", "context", "limit"), [(20, 512, 64), (40, 512, 128), (400, 512, 256), (1, 2, 1)])
def test_an_answer_may_take_twice_the_longest_expected_one(longest: int, context: int, limit: int) -> None:
    assert answer_limit(longest, context) == limit
