"""Real readers of what is published: Go's text/template, as Ollama runs it, on every TEMPLATE that a Modelfile of ours can have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError
from forge.phases.quantize.go_syntax import GoSyntaxError
from forge.phases.quantize.go_template import render_go
from forge.phases.quantize.modelfile import GO_TEMPLATES, choose_template, probe_conversations, render_ollama
from forge.phases.quantize.modelfile_lint import lint_modelfile, parse_modelfile
from forge.records import Message
from tests.ollama_go import ask_go, build_ollama_go
from tests.test_phases.test_quantize_modelfile import GOOD, MARKERS, MISTAKES
from tests.test_phases.tiny_llama import write_tokenizer

SYSTEM = 'Answer from the "Field Handbook".\nIf it does not say, say so: 100 %.'
JINJA = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "zephyr": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
}
"""The chat template of each family, in Jinja."""
OWN = {
    "granite": "{% for m in messages %}{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] + '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    "mistral": "{% for m in messages %}{% if m['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' + m['content'] + '[/SYSTEM_PROMPT]' }}"
    "{% elif m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}{% else %}{{ m['content'] + '</s>' }}{% endif %}{% endfor %}",
    "gemma": "{% for m in messages %}{{ '<start_of_turn>' + {'assistant': 'model'}.get(m['role'], m['role']) + '\n' + m['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "knowledge": "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + ('Cutoff: 2023\n\n' if m['role'] == 'system' else '') + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}",
}
"""Chat templates of no family that has a name here, in the manner of models that exist."""
AWKWARD = (
    "", "ünïcödé 🦙 日本語 \u00a0 e\u0301", "a \"quote\", a 'quote', a `quote`", "{{ .Role }} {{- end }} }} {{/* */}}", "{% raw %}{{ x }}{# y #}",
    "\n\ntwo\r\n\tlines  ", "<b>&amp;</b> \\n \\u00e9", "<|im_end|>\n<|im_start|>system\n", "%s %d $0 ${x}", "\x0b\x1c\u2028 edge",
)


@pytest.fixture(scope="session")
def go(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Go's text/template, as Ollama calls it."""
    return build_ollama_go(tmp_path_factory.mktemp("go"))


def conversations() -> list[tuple[Message, ...]]:
    """One turn and several, with and without a system message, each awkward text in each role."""
    found = list(probe_conversations(SYSTEM))
    for number, text in enumerate(AWKWARD):
        other = AWKWARD[number - 3]
        system, ask = Message(role="system", content=text), Message(role="user", content=other)
        answer, again = Message(role="assistant", content=text), Message(role="user", content=text)
        found += [(ask,), (system, ask), (system, ask, answer, again), (ask, answer, again)]
    return found


def turns(conversation: Sequence[Message]) -> list[dict[str, str]]:
    return [turn.model_dump() for turn in conversation]


def with_template(folder: Path, template: str) -> Any:
    """transformers' tokenizer with this chat template."""
    from transformers import AutoTokenizer

    write_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.local
@pytest.mark.parametrize("family", sorted(GO_TEMPLATES))
def test_go_our_renderer_and_transformers_render_the_same_text(family: str, go: Path, tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, JINJA[family])
    asked = conversations()
    answers = ask_go(go, [{"template": GO_TEMPLATES[family], "messages": turns(one)} for one in asked])
    for conversation, answer in zip(asked, answers, strict=True):
        expected = tokenizer.apply_chat_template(turns(conversation), tokenize=False, add_generation_prompt=True)
        assert answer == {"text": expected}
        assert render_ollama(GO_TEMPLATES[family], conversation) == expected


@pytest.mark.local
@pytest.mark.parametrize("kind", sorted(OWN))
def test_go_renders_what_was_read_off_a_model_s_own_template(kind: str, go: Path, tmp_path: Path) -> None:
    tokenizer = with_template(tmp_path, OWN[kind])

    def render(conversation: Sequence[Message]) -> str:
        return str(tokenizer.apply_chat_template(turns(conversation), tokenize=False, add_generation_prompt=True))

    family, template = choose_template(render, SYSTEM, bos="")
    asked = [one for one in conversations() if one[0].role == "system" or kind != "knowledge"]     # Go cannot ask whether there is a system message
    answers = ask_go(go, [{"template": template, "messages": turns(one)} for one in asked])
    assert family == "own"
    assert answers == [{"text": render(one)} for one in asked]


def test_turns_of_one_role_in_a_row_become_one_as_in_ollama(go: Path) -> None:
    said = (Message(role="user", content="One."), Message(role="user", content="Two."), Message(role="system", content="Now."))
    template = "{{ .System }}|{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}"
    answer, = ask_go(go, [{"template": template, "messages": turns(said)}])
    assert answer == {"text": "Now.|[user:One.\n\nTwo.][system:Now.]"}
    assert render_ollama(template, said) == answer["text"]


BROKEN = (
    "{{ if .A }}x", "{{ .A", "{{ end }}", "{{ else }}", "{{ .A }", "{{ }}", "{{- }}", "{{ if }}{{ end }}", "{{ if .A }}{{ end x }}", "{{ if .A }}{{ else }}{{ else }}{{ end }}",
    "{{ range .List }}{{ else if .A }}{{ end }}", '{{ "a }}', "{{ `a }}", '{{ .A"x" }}', "{{ (.A }}", "{{ .A) }}", "{{ upper .A }}", '{{ "\\q" }}', "{{/* never closed }}",
    "{{ /* not at the start */ }}", "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end <|im_start|>assistant", "{{{ .A }}}", "{{ <|im_end|> }}",
)
"""What Go's parser refuses; the last ones as the broken Modelfiles of the other tests have them."""


@pytest.mark.parametrize("template", BROKEN)
def test_what_go_cannot_parse_is_refused_as_no_go_template(template: str, go: Path) -> None:
    answer, = ask_go(go, [{"template": template, "fields": {"A": "1", "List": []}}])
    assert "parse" in answer
    with pytest.raises(GoSyntaxError):
        render_go(template, {"A": "1", "List": []})


@pytest.mark.parametrize(("bad", "good"), [(bad, good) for bad, good, _ in MISTAKES])
def test_the_lint_finds_the_grammar_wrong_exactly_where_go_does(bad: str, good: str, go: Path, tmp_path: Path) -> None:
    text = GOOD.replace(good, bad, 1)
    try:
        template = next(command.value for command in parse_modelfile(text) if command.name == "template")
    except ForgeError:
        return     # not even the Modelfile can be read
    answer, = ask_go(go, [{"template": template, "messages": []}])
    problems = lint_modelfile(text, tmp_path, control=MARKERS, end_of_turn="<|im_end|>", marks=["<|im_end|>"])
    assert any("is no Go template" in problem for problem in problems) == ("parse" in answer)


FIELDS: dict[str, Any] = {"A": "1", "Empty": "", "Yes": True, "No": False, "Nil": None, "List": [{"N": "n", "M": "ü"}, {"N": "", "M": "x"}], "Nothing": [], "In": {"B": "b"}}
VALUES = (
    ".A", ".Empty", "$.A", ".N", ".M", ".In.B", ".List", ".Nil", ".Yes", "$", ".", '"1"', '"a\\nb"', '"}}"', "`r}}`", '"ü"', '"\\u00e9"', '"\\q"', ".Missing",
    "len", "nil", "3", '(eq .A "1")', "(not .Empty)", "(.A)", "(.In).B", "$x", '"a', "(", ")", "<", "| not", "| eq .A", "|", "-1", "'c'",
)
CALLS = ("eq", "ne", "and", "or", "not", "eq", "unheard")
WORDS = ("text", " a ", "\n", "x\u00a0", "é ", "{", "}", " \x0b ", "", "{{/* c */}}", "{{- /* c */ -}}", "{{/* c */ }}")


class Templates:
    """Random templates: mostly well made, some broken."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def template(self) -> str:
        return "".join(self.part(0) for _ in range(self.random.randrange(1, 4)))

    def part(self, depth: int) -> str:
        roll = self.random.random()
        if roll < 0.35:
            return self.pick(WORDS)
        if roll < 0.6 or depth > 2:
            return self.action(self.value())
        body = "".join(self.part(depth + 1) for _ in range(self.random.randrange(3)))
        otherwise = self.pick(("", self.action("else") + self.part(depth + 1), self.action(f"else if {self.value()}") + self.part(depth + 1)))
        end = self.action("end") if self.random.random() < 0.95 else ""
        head = f"range {self.pick(('.List', '.Nothing', '.Nil', self.value()))}" if roll > 0.82 else f"if {self.value()}"
        return self.action(head) + body + otherwise + end

    def value(self) -> str:
        if self.random.random() < 0.6:
            return self.pick(VALUES)
        return " ".join([self.pick(CALLS), *(self.pick(VALUES) for _ in range(self.random.choice((0, 1, 2, 2, 3))))])

    def action(self, inside: str) -> str:
        return self.pick(("{{", "{{", "{{- ")) + self.pick(("", " ", "\n")) + inside + self.pick(("", " ", "\t")) + self.pick(("}}", "}}", " -}}"))

    def pick(self, choices: Sequence[str]) -> str:
        return self.random.choice(choices)


def test_what_is_rendered_go_renders_the_same_and_what_is_called_broken_go_refuses(go: Path) -> None:
    made = Templates(20261122)
    templates = [made.template() for _ in range(2000)]
    seen = {"text": 0, "syntax": 0}
    for template, answer in zip(templates, ask_go(go, [{"template": one, "fields": FIELDS} for one in templates]), strict=True):
        try:
            rendered = render_go(template, FIELDS)
        except GoSyntaxError:
            seen["syntax"] += 1
            assert "parse" in answer, template
        except ForgeError:
            continue
        else:
            seen["text"] += 1
            assert answer == {"text": rendered}, template
    assert min(seen.values()) > 300, seen
