"""`forge` over the toy phases with pairs to review: python -m tests.test_cli.toy_review ARGS."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

from forge import registry
from forge.registry import PHASE_GROUP
from tests.test_cli.toy_forge import ToyPoint
from tests.test_engine.review_world import TOYS


def points_with_pairs(original: Any) -> Any:
    """The registry's look-up with the toys in place of the real phases."""

    def points(group: str) -> dict[str, EntryPoint]:
        toys: dict[str, Any] = {name: ToyPoint(toy) for name, toy in TOYS.items()}
        return toys if group == PHASE_GROUP else original(group)

    return points


if __name__ == "__main__":
    registry._points = points_with_pairs(registry._points)
    from forge.cli.app import main

    main()
