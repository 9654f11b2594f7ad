"""Ollama's own reading of a Modelfile, and what it would get wrong later.

The grammar is a port of ollama/ollama parser/parser.go and the option table of api/types.go at fb30760 (2026-08-21): commands
in any case, comments only at the start of a line, values bare to the end of the line, "quoted" or \"\"\"over lines\"\"\", no
escapes; a value that is missing is an unexpected end of file; characters that Go does not print are dropped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from forge.errors import ForgeError
from forge.phases.quantize.go_syntax import parse_go
from forge.records import Record

COMMANDS = frozenset(
    ["from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message", "requires"]
)
INTEGERS = frozenset(
    ["num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "draft_num_predict"]
)
FLOATS = frozenset(["temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"])
BOOLEANS = frozenset({"use_mmap"})
BLANKS, NEWLINES = " \t", "\r\n"
ROLES = frozenset({"system", "user", "assistant"})


class Command(Record):
    """One command of a Modelfile: PARAMETER and MESSAGE carry their key in `key`. line: where it begins, from 1."""

    name: str
    key: str = ""
    value: str
    line: int = 0


def parse_modelfile(text: str) -> list[Command]:
    """The commands as Ollama would read them. Raises ForgeError where `ollama create` would stop."""
    commands, at = [], 0
    while at < len(text):
        if text[at] in BLANKS + NEWLINES:
            at += 1
        elif text[at] == "#":
            at = _line_end(text, at)
        else:
            line = text.count("\n", 0, at) + 1
            try:
                command, at = _command(text, at)
            except ForgeError as error:
                raise ForgeError(f"Modelfile:{line}: {error.fact.removeprefix('Modelfile: ')}") from error
            commands.append(command.model_copy(update={"line": line}))
    if not any(command.name == "from" for command in commands):
        raise _broken("there is no FROM line")
    return commands


def lint_modelfile(text: str, folder: Path, *, control: Sequence[str], end_of_turn: str, marks: Sequence[str]) -> list[str]:
    """Everything wrong with a Modelfile that lies in `folder`, in words; empty when `ollama create` and its answers are right.

    control: texts of the GGUF's CONTROL tokens; end_of_turn: the one that ends an answer; marks: markers that the chat
    template of the model uses.
    """
    try:
        commands = parse_modelfile(text)
    except ForgeError as error:
        return [error.fact]
    stops = [command for command in commands if command.name == "parameter" and command.key.lower() == "stop"]
    found = [(command, problem) for command in commands for problem in _lint_command(command, folder)]
    found += [(one, problem) for one in commands if one.name == "template" for problem in _lint_template(one.value, marks)]
    found += [(stop, f"stop {stop.value!r} is no control token of the GGUF: it would hide a defect") for stop in stops if stop.value not in control]
    problems = [f"Modelfile:{command.line}: {problem}" for command, problem in sorted(found, key=lambda one: one[0].line)]
    if end_of_turn not in {stop.value for stop in stops}:
        problems.append(f"the end of a turn, {end_of_turn}, is not among the stops")
    return problems


def _command(text: str, at: int) -> tuple[Command, int]:
    at += not _kept(text[at])     # Ollama takes it for the first letter, and drops it
    name, at = _word(text, at, r"[A-Za-z]*")
    if name.lower() not in COMMANDS:
        raise _broken(f"{text[at - len(name) - 1 : _line_end(text, at)].strip()[:40]!r} does not begin with a command")
    key = ""
    if name.lower() == "parameter":
        key, at = _word(text, at, r"[A-Za-z0-9_]*")     # two blanks after PARAMETER make a nameless one
    if name.lower() == "message":
        key, at = _word(text, at, r"[A-Za-z]+")
        if key not in ROLES:
            raise _broken(f"MESSAGE role {key!r} is not one of system, user, assistant")
    value, at = _value(text, at)
    return Command(name=name.lower(), key=key, value=value), at


def _word(text: str, at: int, pattern: str) -> tuple[str, int]:
    """A word that one blank separates from what follows; anything else is Ollama's "unexpected EOF"."""
    match = re.compile(f"({pattern})[{BLANKS}]").match(text, at)
    if not match:
        raise _broken(f"unexpected EOF: no name with a value in {text[at : _line_end(text, at)][:40]!r}")
    return match[1], match.end()


def _value(text: str, at: int) -> tuple[str, int]:
    """Up to the first end of line where no quote is open."""
    end = at
    while True:
        end = _line_end(text, end)
        value = _unquote("".join(char for char in text[at:end] if _kept(char)).strip())
        if value is not None:
            return value, end
        if end == len(text):
            raise _broken("unexpected EOF: a quote is never closed")
        end += 1


def _unquote(text: str) -> str | None:
    """The value without its quotes; None while they are open."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text


def _kept(char: str) -> bool:
    """Ollama drops what Go's strconv.IsPrint refuses: control characters, and a no-break space as well."""
    return char in BLANKS + NEWLINES or unicodedata.category(char)[0] in "LMNPS"


def _line_end(text: str, at: int) -> int:
    match = re.compile(f"[{NEWLINES}]").search(text, at)
    return match.start() if match else len(text)


def _lint_command(command: Command, folder: Path) -> list[str]:
    if command.name == "from":
        if "://" in command.value:
            return [f"FROM {command.value} is a URL: Ollama takes a file or a model name"]
        if command.value.startswith((".", "/")) and not (folder / command.value).is_file():
            return [f"FROM {command.value} does not exist"]
    if command.name == "parameter":
        return _lint_parameter(command.key.lower(), command.value)
    return []


def _lint_parameter(key: str, value: str) -> list[str]:
    try:
        if key in INTEGERS:
            int(value)
        elif key in FLOATS:
            float(value)
        elif key in BOOLEANS and value not in ("true", "false"):
            raise ValueError(value)
        elif key not in BOOLEANS and key != "stop":
            return [f"PARAMETER {key} is unknown to Ollama"]
    except ValueError:
        return [f"PARAMETER {key} cannot be {value!r}"]
    return []


def _lint_template(template: str, marks: Sequence[str]) -> list[str]:
    problems = []
    if ".Messages" in template and ".System" in template:
        problems.append("TEMPLATE uses .System and .Messages: the system prompt would be rendered twice")
    try:
        parse_go(template)
    except ForgeError as error:
        problems.append(f"TEMPLATE: {error.fact}")
    missing = [mark for mark in marks if mark not in template]
    if missing:
        problems.append(f"TEMPLATE does not use {', '.join(missing)}, which the model was trained with")
    return problems


def _broken(fact: str) -> ForgeError:
    return ForgeError(f"Modelfile: {fact}")
