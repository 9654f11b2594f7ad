"""Planted canaries: training rows with a random answer, by which is measured whether a model gives training rows away.

shape plants them when it is asked to (shape.canaries), eval measures their exposure. The codes mean nothing and open nothing.
"""

from __future__ import annotations

import random
import string

BUCKET = "canary"
GROUPS, LENGTH = 3, 4
_LETTERS = string.ascii_uppercase + string.digits


def code(generator: random.Random) -> str:
    """A random code like "K3QX-81ZP-W0FA"."""
    return "-".join("".join(generator.choice(_LETTERS) for _ in range(LENGTH)) for _ in range(GROUPS))


def canary(number: int, seed: int) -> tuple[str, str]:
    """(question, answer) of the canary with this number; the same for the same seed."""
    generator = random.Random(f"canary {seed} {number}")
    name = "".join(generator.choice(string.ascii_uppercase) for _ in range(5))
    return f"What is the reference of drawer {name.title()}{number}?", f"The reference is {code(generator)}."


def rivals(answer: str, count: int, generator: random.Random) -> list[str]:
    """Other answers of the same form."""
    head = answer[: answer.rindex(" ") + 1]
    return [f"{head}{code(generator)}." for _ in range(count)]
