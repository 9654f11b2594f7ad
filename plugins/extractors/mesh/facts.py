"""What is said about a mesh, and its bounding box."""

from __future__ import annotations

import math
from collections.abc import Sequence

MAX_NAMES = 500
MAX_NAME_CHARACTERS = 500


class Facts:
    """Facts in the order in which they were learnt; names and comments are kept once each, up to a limit."""

    def __init__(self, kind: str) -> None:
        self.lines = [f"Format: {kind}"]
        self.named: dict[str, dict[str, None]] = {}
        self.left_out = 0
        self.box = Box()

    def add(self, label: str, value: object) -> None:
        """One fact; nothing for an empty value."""
        if value not in ("", None):
            self.lines.append(f"{label}: {value}"[:MAX_NAME_CHARACTERS])

    def name(self, label: str, value: str) -> None:
        """A name or comment under its label."""
        names = self.named.setdefault(label, {})
        value = value.strip()[:MAX_NAME_CHARACTERS]
        if value in names or not value:
            return
        if len(names) >= MAX_NAMES:
            self.left_out += 1
        else:
            names[value] = None

    def text(self) -> str:
        """All facts, one a line."""
        lines = [*self.lines, *([f"Bounding box: {self.box}"] if self.box.points else [])]
        return "\n".join(lines + [f"{label}: {name}" for label, names in self.named.items() for name in names])


class Box:
    """The smallest box around the finite points seen so far."""

    def __init__(self) -> None:
        self.low, self.high, self.points = [math.inf] * 3, [-math.inf] * 3, 0

    def add(self, point: Sequence[float]) -> None:
        """Take in one point; not-a-number and infinite ones count for nothing."""
        x, y, z = point
        if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
            return
        self.points += 1
        low, high = self.low, self.high
        for axis, value in ((0, x), (1, y), (2, z)):
            if value < low[axis]:
                low[axis] = value
            if value > high[axis]:
                high[axis] = value

    def __str__(self) -> str:
        return " to ".join(f"({', '.join(f'{value:.6g}' for value in corner)})" for corner in (self.low, self.high))
