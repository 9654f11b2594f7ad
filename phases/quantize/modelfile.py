"""The Modelfile that ships: made from Modelfile.j2, proven equal to the model's own chat template, linted as Ollama reads it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from forge.errors import ForgeError
from forge.phases.quantize.go_template import render_go
from forge.phases.quantize.modelfile_lint import parse_modelfile
from forge.phases.quantize.own_template import Render, derive_template
from forge.records import Message, Record

GO_TEMPLATES = {
    "chatml": "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    "llama3": (
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "zephyr": "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
}
"""Template family -> Go text. All range over .Messages alone: Ollama puts the system message in there as well."""

class Sampling(Record):
    """What the Modelfile asks of Ollama. Greedy: quantized small models drift when sampled, and the evaluation was greedy."""

    context_tokens: int
    answer_tokens: int
    stops: tuple[str, ...]


def probe_conversations(system_prompt: str) -> tuple[tuple[Message, ...], ...]:
    """Three conversations that a wrong template renders wrongly: one turn, several, and awkward characters."""
    system = Message(role="system", content=system_prompt)
    ask, answer = Message(role="user", content="What is it?"), Message(role="assistant", content="It is a test.")
    why, because = Message(role="user", content="Why?"), Message(role="assistant", content="Since it is asked.")
    awkward = Message(role="user", content='  "quoted" {{ .Role }} {% raw %}\n\nsecond paragraph <b>\\n</b> ')
    return (system, ask), (system, ask, answer, why, because, ask), (system, awkward)


def choose_template(render: Render, system_prompt: str, *, bos: str) -> tuple[str, str]:
    """(family, Go text) of a template that renders as the model's own chat template does on three conversations.

    Families known by name first, then one read off the model's own template. Where that trims messages, which Go cannot, it has to be
    the same for messages without blanks around them. Where Go cannot say what it does (it moves the system prompt, writes today's
    date), the text is "": without a TEMPLATE, Ollama runs the model's own.
    bos: text that the model's template starts with but llama.cpp adds by itself; "" for none.
    """
    conversations = probe_conversations(system_prompt)
    own = derive_template(render, bos=bos)
    for family, template in {**GO_TEMPLATES, "own": own}.items():
        if template and all(_same(render(turns).removeprefix(bos), template, turns) for turns in conversations):
            return family, template
    trimmed = [tuple(turn.model_copy(update={"content": turn.content.strip()}) for turn in turns) for turns in conversations]
    if own and system_prompt == system_prompt.strip() and all(_same(render(turns).removeprefix(bos), own, turns) for turns in trimmed):
        return "own, untrimmed", own
    return "own Jinja", ""


def _same(expected: str, template: str, turns: Sequence[Message]) -> bool:
    try:
        return render_ollama(template, turns) == expected
    except ForgeError:     # a piece of the model's template that reads as Go, "{{" for one
        return False


def render_ollama(template: str, turns: Sequence[Message]) -> str:
    """What Ollama sends to the model for these turns: template/template.go at fb30760 (2026-08-21), without tools and images.

    Ollama makes one turn of turns of one role in a row, and puts all system messages into .System as well.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if messages and messages[-1]["Role"] == turn.role:
            messages[-1]["Content"] += f"\n\n{turn.content}"
        else:
            messages.append({"Role": turn.role, "Content": turn.content, "Thinking": "", "ToolName": "", "ToolCallID": ""})
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    return render_go(template, {"System": system, "Messages": messages, "Tools": None, "Response": "", "Think": False, "ThinkLevel": "", "IsThinkSet": False})


def write_modelfile(gguf: str, template: str, system_prompt: str, sampling: Sampling) -> str:
    """The Modelfile's text. Raises ForgeError when Ollama would read another system prompt or template than the given."""
    import jinja2

    source = (files("forge") / "Modelfile.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    text = environment.from_string(source).render(
        gguf=gguf, template=template, system=system_prompt, sampling=sampling
    )
    for name, wanted in (("system", system_prompt), ("template", template)):
        if _read_back(text, name) != wanted:
            raise ForgeError(
                f"Ollama would read another {name} than the model was trained with",
                why='a Modelfile has no escapes: """ at the end of a line ends a value; control characters and no-break spaces are dropped',
                next="write shape.system_prompt without them",
            )
    return text


def answer_limit(longest_answer: int, context_tokens: int) -> int:
    """Tokens that an answer may take: twice the longest expected one, in steps of 64, at most half the context."""
    return max(1, min(context_tokens // 2, -(-2 * longest_answer // 64) * 64))


def _read_back(text: str, name: str) -> str | None:
    """The value of a command as Ollama reads it, "" when there is none, None when it cannot read the file."""
    try:
        return next((command.value for command in parse_modelfile(text) if command.name == name), "")
    except ForgeError:
        return None
