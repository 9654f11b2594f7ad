"""A Go TEMPLATE read off what a model's own chat template writes around each message: for models of no family that is known by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from forge.records import Message

Render = Callable[[tuple[Message, ...]], str]
WORDS = ("Sentinelone", "Sentineltwo", "Sentinelthree", "Sentinelfour")
"""Contents that no template writes by itself; plain words, since some templates look into what they are given."""

DATES = ("%Y-%m-%d", "%d %b %Y", "%d %B %Y", "%B %d, %Y")
"""How templates write today's date. What is written today would be wrong tomorrow."""


def derive_template(render: Render, *, bos: str) -> str:
    """Go text that writes before and after each message what `render` writes there; "" when it is not that simple.

    Only a guess until it has been compared with `render`: a template may trim, move or repeat what it is given.
    """
    system, ask, answer, again = (
        Message(role=role, content=word) for role, word in zip(("system", "user", "assistant", "user"), WORDS, strict=True)
    )
    whole = render((system, ask, answer, again)).removeprefix(bos)
    pieces = re.split("|".join(WORDS), whole)
    if len(pieces) != len(WORDS) + 1 or any(date.today().strftime(form) in whole for form in DATES):
        return ""
    head, to_user, to_answer, to_next, tail = pieces
    alone = render((ask,)).removeprefix(bos).partition(WORDS[1])[0]
    opens = _common_end(to_user, to_next, alone)
    after_system, after_answer = to_user.removesuffix(opens), to_next.removesuffix(opens)
    closes = _common_start(to_answer, tail)
    if after_system and closes.startswith(after_system):     # what ends one message ends all; the rest opens the answer
        closes = after_system
    around = {"system": (head, after_system), "user": (opens, closes), "assistant": (to_answer.removeprefix(closes), after_answer)}
    cases = [f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}' for role, (before, after) in around.items()]
    return "{{- range .Messages }}{{ " + "{{ else ".join(cases) + "{{ end }}{{ end }}" + tail.removeprefix(closes)


def _common_end(*texts: str) -> str:
    return _common_start(*(text[::-1] for text in texts))[::-1]


def _common_start(*texts: str) -> str:
    length = next((at for at, chars in enumerate(zip(*texts, strict=False)) if len(set(chars)) > 1), min(map(len, texts)))
    return texts[0][:length]
