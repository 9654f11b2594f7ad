"""Prices of teachers from configs/prices.yaml; a model that is not listed is refused, never free."""

from __future__ import annotations

from functools import cache
from typing import Any

from forge.config import load_data
from forge.errors import UsageError, nearest


@cache
def price_of(model: str) -> dict[str, Any]:
    """The model's entry, read once: parsing the table took most of a request's CPU time. Raises UsageError when there is none."""
    table: dict[str, Any] = load_data("prices")["teachers"]
    if model not in table:
        paid = [name for name, entry in table.items() if entry.get("paid")]
        raise UsageError(
            f'no price is known for the model "{model}"', why=nearest(model, paid) or "a forecast without a price would be a guess",
            next=f"synth.model is one of {', '.join(paid)}; configs/prices.yaml holds the table",
        )
    entry: dict[str, Any] = table[model]
    return entry
