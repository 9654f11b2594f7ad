"""The part of Go's text/template that chat templates use, run here without Go or Ollama. Its grammar is in go_syntax.py.

Semantics: https://pkg.go.dev/text/template. What is refused here is more than Go refuses; what is rendered, Go renders the same
(tests/test_phases/test_publish_readers.py runs both).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from forge.errors import ForgeError
from forge.phases.quantize.go_syntax import Field, If, Node, Range, Text, Value, parse_go


def render_go(template: str, data: Mapping[str, Any]) -> str:
    """The text that Go would make of `template` with the fields `data`: texts, booleans, None and lists of mappings.

    Raises GoSyntaxError for a template that Go's parser refuses, ForgeError for what is not known here.
    """
    return _run(parse_go(template), data, data)


def _run(nodes: Sequence[Node], dot: Any, root: Mapping[str, Any]) -> str:
    return "".join(_one(node, dot, root) for node in nodes)


def _one(node: Node, dot: Any, root: Mapping[str, Any]) -> str:
    if isinstance(node, If):
        return _run(node.then if _value(node.test, dot, root) else node.otherwise, dot, root)
    if isinstance(node, Range):
        items = _value(node.over, dot, root)
        if items is not None and not isinstance(items, (list, tuple)):
            raise _refuse("a range over what is no list")
        return "".join(_run(node.each, item, root) for item in items) if items else _run(node.otherwise, dot, root)
    text = _value(node, dot, root)
    if not isinstance(text, str):
        raise _refuse(f"a value that is no text: {text!r}")
    return text


def _value(value: Value, dot: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(value, Text):
        return value.text
    if isinstance(value, Field):
        return _field(value, root if value.root else dot)
    return _call(value.function, [_value(argument, dot, root) for argument in value.arguments])


def _field(field: Field, owner: Any) -> Any:
    for name in field.names:
        if not isinstance(owner, Mapping) or name not in owner:
            raise _refuse(f"no field .{name}")
        owner = owner[name]
    return owner


def _call(function: str, values: list[Any]) -> Any:
    few, many = {"eq": (2, 99), "ne": (2, 2), "not": (1, 1), "and": (1, 99), "or": (1, 99)}.get(function, (1, 1))
    if not few <= len(values) <= many:
        raise _refuse(f"{function or 'a value'} with {len(values)} arguments")
    if function == "not":
        return not values[0]
    if function == "and":
        return next((value for value in values if not value), values[-1])
    if function == "or":
        return next((value for value in values if value), values[-1])
    if not all(isinstance(value, str) for value in values) and not all(isinstance(value, bool) for value in values):
        raise _refuse(f"{function} of what is no text")
    return values[0] != values[1] if function == "ne" else values[0] in values[1:]


def _refuse(what: str) -> ForgeError:
    return ForgeError(f"the chat template for Ollama has {what}", why="Go stops there too, or it is not known here")
