"""The grammar of Go's text/template as far as chat templates need it: a template becomes nodes, or is refused as Go refuses it.

Actions: `{{ .Field }}`, `{{ if }} {{ else if }} {{ else }} {{ end }}`, `{{ range }} {{ else }} {{ end }}`, comments, `{{- -}}` trimming;
operands `.Field`, `$.Field`, "text", `text`, parentheses, pipes and Go's functions. Ported from text/template/parse of Go 1.19 (lex.go,
parse.go). Two ways to say no: GoSyntaxError where Go's own parser stops, ForgeError for Go that is valid and not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from forge.errors import ForgeError

SPACES = " \t\r\n"
FUNCTIONS = frozenset({"eq", "ne", "and", "or", "not"})
OTHER_FUNCTIONS = frozenset(
    ["call", "html", "index", "slice", "js", "len", "print", "printf", "println", "urlquery", "ge", "gt", "le", "lt",
     "json", "currentDate", "yesterdayDate", "toTypeScriptType"]
)
"""Go's own and Ollama's (template/template.go): valid, and not known here."""
OTHER_WORDS = frozenset({"with", "define", "block", "template", "break", "continue", "nil", "true", "false"})
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}

_CLOSE = re.compile(r"([ \t\r\n]-)?\}\}")
# A run of spaces leaves the last one to " -}}". What follows a name in Go is one of the characters of _AFTER_NAME.
_AFTER_NAME = r"(?=[ \t\r\n.,|:)(]|\}\}|\Z)"
_TOKENS = re.compile(
    rf"""(?P<space>[ \t\r\n]+?(?=[ \t\r\n]-\}}\}}|[^ \t\r\n]|\Z))|(?P<string>"(?:\\[^\n]|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<open>\()|(?P<close>\))|(?P<pipe>\|)"""
    rf"""|(?P<field>\.[A-Za-z_][A-Za-z_0-9]*){_AFTER_NAME}|(?P<dot>\.){_AFTER_NAME}|(?P<root>\$){_AFTER_NAME}|(?P<word>[A-Za-z_][A-Za-z_0-9]*){_AFTER_NAME}"""
)
_KNOWN_TO_GO = re.compile(rf"[:='0-9+\-,]|\.[0-9]|\$[A-Za-z_0-9]+{_AFTER_NAME}|[.$]?[A-Za-z_0-9]*[^\x00-\x7f]")
_UNICODE = re.compile(r"u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}")


class GoSyntaxError(ForgeError):
    """Go's parser refuses the template: Ollama could not load the model."""


class Token(NamedTuple):
    """kind: text, begin ({{), end (}}) or a name of the groups of _TOKENS."""

    kind: str
    text: str


@dataclass(frozen=True)
class Text:
    """Characters that stand for themselves; also a string in an action."""

    text: str


@dataclass(frozen=True)
class Field:
    """`.A.B`, or `$.A.B` with `root`; no names: the dot itself."""

    names: tuple[str, ...]
    root: bool


@dataclass(frozen=True)
class Call:
    """A function and what it is given. function "": a value alone."""

    function: str
    arguments: tuple[Value, ...]


@dataclass(frozen=True)
class If:
    """Both branches of a condition."""

    test: Value
    then: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class Range:
    """A body for each item, or `otherwise` when there is none."""

    over: Value
    each: tuple[Node, ...]
    otherwise: tuple[Node, ...]


Value = Text | Field | Call
Node = Text | Field | Call | If | Range


def parse_go(template: str) -> tuple[Node, ...]:
    """The nodes of a template. Raises GoSyntaxError where Go's parser stops, ForgeError for what is not known here."""
    reader = _Reader(_tokens(template))
    nodes = reader.nodes()
    if stop := reader.stop:
        _wrong(f"unexpected {{{{{stop}}}}}")
    return nodes


def _tokens(template: str) -> list[Token]:
    found: list[Token] = []
    at, trim = 0, False
    while (start := template.find("{{", at)) >= 0:
        inner = start + 2
        trims = template[inner : inner + 1] == "-" and template[inner + 1 : inner + 2] in tuple(SPACES)
        text = template[at:start]
        text = text.lstrip(SPACES) if trim else text
        found.append(Token("text", text.rstrip(SPACES) if trims else text))
        inner += 2 * trims
        if template.startswith("/*", inner):
            at, trim = _comment(template, inner)
            continue
        found.append(Token("begin", "{{"))
        at, trim = _action(template, inner, found)
    found.append(Token("text", template[at:].lstrip(SPACES) if trim else template[at:]))
    return [token for token in found if token.text]


def _comment(template: str, at: int) -> tuple[int, bool]:
    """Where the text goes on, and whether it is trimmed."""
    end = template.find("*/", at + 2)
    closed = _CLOSE.match(template, end + 2) if end >= 0 else None
    if closed is None:
        _wrong("a comment without */}}")
    return closed.end(), bool(closed[1])


def _action(template: str, at: int, found: list[Token]) -> tuple[int, bool]:
    while not (closed := _CLOSE.match(template, at)):
        match = _TOKENS.match(template, at)
        if match is None:
            _no_token(template, at)
        found.append(Token(str(match.lastgroup), match[0]))
        at = match.end()
    found.append(Token("end", "}}"))
    return closed.end(), bool(closed[1])


def _no_token(template: str, at: int) -> NoReturn:
    rest = template[at : at + 20].split("}}")[0]
    if _KNOWN_TO_GO.match(template, at):
        _unknown(rest)
    _wrong(f"unexpected {rest!r}" if rest else "an action without }}")


class _Reader:
    """Takes tokens from the front. stop: the else or end that the last list of nodes ended with, "" at the end of the template."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at, self.stop = tokens, 0, ""

    def nodes(self, inside: str = "") -> tuple[Node, ...]:
        """Everything up to {{ else }}, {{ end }} or the end of the template, which is an error `inside` a block."""
        found: list[Node] = []
        while self.at < len(self.tokens):
            token = self._next()
            if token.kind == "text":
                found.append(Text(token.text))
                continue
            word = self._peek()
            if word.kind == "word" and word.text in ("else", "end"):
                self._next()
                self.stop = word.text
                return tuple(found)
            found.append(self._block() if word.kind == "word" and word.text in ("if", "range") else self._values("end"))
        if inside:
            _wrong(f"{{{{ {inside} }}}} without {{{{ end }}}}")
        self.stop = ""
        return tuple(found)

    def _block(self) -> Node:
        kind = self._next().text
        test, body = self._values("end"), self.nodes(kind)
        otherwise: tuple[Node, ...] = ()
        if self.stop == "else":
            if self._peek().text == "if" and kind == "if":
                return If(test, body, (self._block(),))
            self._close("else")
            otherwise = self.nodes(kind)
            if self.stop != "end":
                _wrong("expected {{ end }}, found {{ else }}")
        self._close("end")
        return If(test, body, otherwise) if kind == "if" else Range(test, body, otherwise)

    def _values(self, until: str) -> Value:
        """What stands between here and the end of the action or parenthesis: commands, each the last argument of the next."""
        value = self._command(until, ())
        while self._next().kind == "pipe":
            if self._peek().kind != "word":
                _unknown("| before what is no function")
            value = self._command(until, (value,))
        return value

    def _command(self, until: str, piped: tuple[Value, ...]) -> Value:
        """A function with its operands, or one value; the token after it is not taken."""
        function, values = "", list[Value]()
        while (token := self._peek()).kind not in (until, "pipe"):
            self._next()
            if token.kind == "word":
                function = self._name(token.text, first=not values and not function)
            else:
                values.append(self._operand(token))
            if self._raw().kind not in ("space", "end", "close", "pipe"):
                _wrong(f"unexpected {self._raw().text!r} in an operand")
        if not values and not function:
            _wrong("a value is missing")
        return values[0] if len(values) == 1 and not function else Call(function, (*values, *piped))

    def _operand(self, token: Token) -> Value:
        if token.kind == "open":
            value = self._values("close")
            if self._raw().kind == "field":
                _unknown(f"(...){self._raw().text}")
            return value
        if token.kind in ("string", "raw"):
            if self._raw().kind == "field":
                _wrong(f"unexpected . after {token.text}")
            return Text(_unquote(token.text))
        if token.kind == "dot":
            return Field((), root=False)
        if token.kind not in ("field", "root"):
            _wrong(f"unexpected {token.text!r}")
        names = [token.text[1:]] if token.kind == "field" else []
        while self._raw().kind == "field":
            names.append(self._next_raw().text[1:])
        return Field(tuple(names), root=token.kind == "root")

    def _name(self, word: str, *, first: bool) -> str:
        if word in OTHER_FUNCTIONS | OTHER_WORDS or (word in FUNCTIONS and not (first and self._raw().kind != "field")):
            _unknown(word)
        if word not in FUNCTIONS:
            _wrong(f"function {word!r} is not defined")
        return word

    def _close(self, word: str) -> None:
        if (token := self._next()).kind != "end":
            _wrong(f"unexpected {token.text!r} after {word}")

    def _raw(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else Token("none", "")

    def _next_raw(self) -> Token:
        self.at += 1
        return self.tokens[self.at - 1]

    def _peek(self) -> Token:
        while self._raw().kind == "space":
            self.at += 1
        return self._raw()

    def _next(self) -> Token:
        self._peek()
        return self._next_raw()


def _unquote(literal: str) -> str:
    """strconv.Unquote."""
    return literal[1:-1] if literal[0] == "`" else re.sub(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", _escape, literal[1:-1])


def _escape(match: re.Match[str]) -> str:
    told = match[1]
    if _UNICODE.fullmatch(told):
        number = int(told[1:], 16)
        return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else _wrong(f"no character {match[0]}")
    if told not in ESCAPES:
        _unknown(match[0]) if told in "x01234567" else _wrong(f"no escape {match[0]}")
    return ESCAPES[told]


def _wrong(what: str) -> NoReturn:
    raise GoSyntaxError(f"the chat template for Ollama is no Go template: {what}")


def _unknown(what: str) -> NoReturn:
    raise ForgeError(f"the chat template for Ollama has {what!r}", why="only if, range, fields, eq, ne, and, or, not are known")
