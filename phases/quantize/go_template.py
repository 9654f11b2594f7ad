"""The part of Go's text/template that chat templates use, so that the template that ships can be run here, without Ollama.

Actions: `{{ .Field }}`, `{{ if cond }} {{ else if cond }} {{ else }} {{ end }}`, `{{ range .List }} {{ end }}`, `{{- -}}`
trimming; conditions `.Field`, `eq`, `ne`, `and`, `or`, `not` with `.Field`, `$.Field`, "text" and parentheses.
Semantics: https://pkg.go.dev/text/template. Anything else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forge.errors import ForgeError

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')


@dataclass
class _Node:
    """text, field, if or range; an `if` without argument is the else branch."""

    kind: str
    value: str = ""
    children: list[_Node] = field(default_factory=list)
    otherwise: list[_Node] = field(default_factory=list)


def render_go(template: str, data: Mapping[str, Any]) -> str:
    """The text that Go would make of `template` with the fields `data`. Raises ForgeError for what is not known."""
    nodes, rest, _ = _parse(_tokens(template))
    if rest:
        raise _refuse(rest[0].value)
    return _run(nodes, data, data)


def _tokens(template: str) -> list[_Node]:
    tokens, at, trim_next = [], 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim_next else text
        tokens.append(_Node("text", text.rstrip() if match[1] else text))
        tokens.append(_Node("action", match[2]))
        at, trim_next = match.end(), bool(match[3])
    tail = template[at:]
    tokens.append(_Node("text", tail.lstrip() if trim_next else tail))
    if "{{" in "".join(node.value for node in tokens if node.kind == "text"):
        raise _refuse("an action without }}")
    return tokens


def _parse(tokens: list[_Node]) -> tuple[list[_Node], list[_Node], str]:
    """Nodes up to the matching end or else, the tokens after it, and which of both it was."""
    nodes: list[_Node] = []
    while tokens:
        token, tokens = tokens[0], tokens[1:]
        word, _, argument = token.value.partition(" ")
        if token.kind == "text":
            nodes.append(token)
        elif word in ("if", "range"):
            node, tokens = _block(_Node(word, argument), tokens)
            nodes.append(node)
        elif word in ("end", "else"):
            return nodes, tokens, token.value
        else:
            nodes.append(_Node("field", token.value))
    return nodes, [], ""


def _block(node: _Node, tokens: list[_Node]) -> tuple[_Node, list[_Node]]:
    node.children, tokens, stop = _parse(tokens)
    if stop.startswith("else if "):
        inner, tokens = _block(_Node("if", stop.removeprefix("else if ")), tokens)
        node.otherwise = [inner]
        return node, tokens
    if stop == "else":
        node.otherwise, tokens, stop = _parse(tokens)
    if stop != "end":
        raise _refuse(f"{{{{ {node.kind} {node.value} }}}} without {{{{ end }}}}")
    return node, tokens


def _run(nodes: Sequence[_Node], dot: Any, root: Mapping[str, Any]) -> str:
    parts = []
    for node in nodes:
        if node.kind == "text":
            parts.append(node.value)
        elif node.kind == "field":
            parts.append(str(_value(node.value, dot, root)))
        elif node.kind == "if":
            parts.append(_run(node.children if _value(node.value, dot, root) else node.otherwise, dot, root))
        else:
            parts += [_run(node.children, item, root) for item in _value(node.value, dot, root)]
    return "".join(parts)


def _value(expression: str, dot: Any, root: Mapping[str, Any]) -> Any:
    values = _operands(_WORD.findall(expression), dot, root)
    functions: dict[str, Callable[..., Any]] = {
        "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "not": lambda a: not a,
        "and": lambda *all_of: next((item for item in all_of if not item), all_of[-1]),
        "or": lambda *any_of: next((item for item in any_of if item), any_of[-1]),
    }
    head, *rest = values
    if isinstance(head, _Function):
        return functions[head.name](*rest)
    if rest:
        raise _refuse(expression)
    return head


@dataclass(frozen=True)
class _Function:
    name: str


def _operands(words: list[str], dot: Any, root: Mapping[str, Any]) -> list[Any]:
    values: list[Any] = []
    while words:
        word, words = words[0], words[1:]
        if word == "(":
            depth, size = 1, 0
            while depth:
                depth += {"(": 1, ")": -1}.get(words[size], 0)
                size += 1
            values.append(_value(" ".join(words[: size - 1]), dot, root))
            words = words[size:]
        elif word.startswith('"'):
            values.append(word[1:-1].encode().decode("unicode_escape"))
        elif word.startswith(("$.", ".")):
            values.append((root if word.startswith("$") else dot)[word.lstrip("$.")])
        elif word in ("eq", "ne", "not", "and", "or") and not values:
            values.append(_Function(word))
        else:
            raise _refuse(word)
    return values


def _refuse(what: str) -> ForgeError:
    return ForgeError(f"the chat template for Ollama has {what!r}", why="only if, range, fields, eq, ne, and, or, not are known")
