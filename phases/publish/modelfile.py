"""Reads an Ollama Modelfile: enough to compare what it ships with what was trained and measured.

Grammar: ollama/ollama parser/parser.go (fb30760, 2026-08-21): a command at the start of a line, its value bare to the end
of the line, in "…" or in triple quotes over several lines; `#` begins a comment only at the start of a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from forge.errors import ForgeError
from forge.records import Record

COMMANDS = {
    "FROM", "LICENSE", "TEMPLATE", "SYSTEM", "ADAPTER", "DRAFT", "RENDERER", "PARSER", "PARAMETER", "MESSAGE", "REQUIRES",
}


class Modelfile(Record):
    """The parts of a Modelfile. `parameters` keeps every line's name and value in order; `stop` may repeat."""

    source: str = ""
    system: str = ""
    template: str = ""
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def sampling(self) -> dict[str, str]:
        """Parameters without the stop strings: what decides how an answer is drawn."""
        return {name: value for name, value in self.parameters if name != "stop"}


def parse_modelfile(text: str) -> Modelfile:
    """The parts of a Modelfile. Raises ForgeError with the line that Ollama would refuse."""
    found: dict[str, str] = {}
    parameters: list[tuple[str, str]] = []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        command, _, rest = line.strip().partition(" ")
        if command.upper() not in COMMANDS or not rest.strip():
            raise ForgeError(f"Modelfile:{number} is not a command with a value", why=line.strip()[:80])
        name = ""
        if command.upper() == "PARAMETER":
            name, _, rest = rest.strip().partition(" ")
        value = _value(rest.strip(), lines, number)
        if name:
            parameters.append((name, value))
        else:
            found[command.upper()] = value
    return Modelfile(
        source=found.get("FROM", ""), system=found.get("SYSTEM", ""), template=found.get("TEMPLATE", ""),
        parameters=tuple(parameters),
    )


def ollama_files(modelfile: Modelfile) -> dict[str, str]:
    """The files that `ollama run hf.co/REPOSITORY` reads in place of a Modelfile: name -> text.

    huggingface.co/docs/hub/ollama, "Custom chat template and parameters": `template`, `system`, and `params` as JSON.
    """
    params: dict[str, Any] = {name: _number(value) for name, value in modelfile.sampling.items()}
    stops = [value for name, value in modelfile.parameters if name == "stop"]
    texts = {"template": modelfile.template, "system": modelfile.system}
    told = {name: text for name, text in texts.items() if text}
    return {**told, "params": json.dumps(params | ({"stop": stops} if stops else {}), ensure_ascii=False, indent=2, sort_keys=True) + "\n"}


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _value(first: str, lines: Iterator[tuple[int, str]], number: int) -> str:
    """The value that begins on this line; a triple-quoted one takes lines until its end."""
    if not first.startswith('"""'):
        quoted = len(first) >= 2 and first[0] == first[-1] == '"'
        return first[1:-1] if quoted else first
    body = first[3:]
    if body.endswith('"""'):
        return body[:-3]
    parts = [body]
    for _, line in lines:
        if line.rstrip().endswith('"""'):
            parts.append(line.rstrip()[:-3])
            return "\n".join(parts)
        parts.append(line)
    raise ForgeError(f"Modelfile:{number} opens a triple quote that never ends")
