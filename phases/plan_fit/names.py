"""The model's name: a slug that is legal as a repository, a file and an Ollama model, with the model's real size."""

from __future__ import annotations

import re

from forge.errors import UsageError

LONGEST = 60
ROUNDING = 0.15
"""A label further than this from the real size gets a decimal."""


def model_name(chosen: str, corpus_name: str, parameters: int) -> str:
    """`handbook-2m`: the chosen name, or the corpus folder's with the size. Raises UsageError for a bad one."""
    if chosen:
        if chosen != slug(chosen):
            raise UsageError(
                f'plan_fit.name cannot be "{chosen}"', why="lower-case letters, digits and single hyphens are allowed",
                next=f"--set plan_fit.name={slug(chosen) or 'my-model'}",
            )
        return chosen
    return f"{slug(corpus_name) or 'model'}-{size_label(parameters)}"


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST].strip("-")


def size_label(parameters: int) -> str:
    """`850k`, `2m`, `1.7b`, `70b`: parameters, rounded, in the unit that leaves one to three digits."""
    for unit, name in ((10**9, "b"), (10**6, "m"), (10**3, "k")):
        if parameters >= unit * 0.9995:
            value = parameters / unit
            coarse = abs(round(value) - value) > ROUNDING * value  # "1m" would not describe 1.44 million
            return f"{value:.1f}".removesuffix(".0") + name if coarse or (unit == 10**9 and value < 10) else f"{value:.0f}{name}"
    return str(parameters)
