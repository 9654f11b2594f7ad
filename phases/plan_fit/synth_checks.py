"""What synth found out about its own pairs: the round trip, the judge with its recall on planted defects, the pilot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Judge(NamedTuple):
    """The cheap grader of all facts, as checks.json tells of it.

    state: "on", "off" or "undecided", and why. recall: share of the planted defects that it found, with its exact interval.
    facts: how many it was to judge; unchecked: of them without an answer; refused: of them refused (they are no pairs any more).
    share: of the text whose pairs were answered again or judged. refused_share: of the facts in it that either refused, with interval.
    """

    state: str = "off"
    why: str = "no checks.json"
    recall: float | None = None
    recall_ci: tuple[float, float] = (0.0, 1.0)
    planted: int = 0
    facts: int = 0
    unchecked: int = 0
    refused: int = 0
    share: float = 1.0
    refused_share: float = 0.0
    refused_ci: tuple[float, float] = (0.0, 0.0)

    @property
    def left(self) -> tuple[float, float]:
        """Share of the pairs with a defect that is still in them, and its upper bound.

        The defects are what was refused over the judge's recall (Rogan and Gladen 1978): all of them where nobody looked, and
        those that the judge misses where it did.
        """
        def residual(refused: float, recall: float) -> float:
            there = min(1.0, refused / recall) if recall else 1.0
            return there * (1 - self.share * recall)

        return residual(self.refused_share, self.recall or 0.0), residual(self.refused_ci[1], self.recall_ci[0])

    def fault(self, recall_min: float, missing_max: float, defects_max: float) -> str:
        """Why this judge decides nothing; empty when it is off, or on and proven and what it left is surely little enough."""
        if self.state == "off":
            return ""
        if self.state != "on":
            return f"synth's judge is undecided: {self.why}"
        if self.recall_ci[0] < recall_min:
            return f"synth's judge found {self.recall:.0%} of {self.planted} planted defects, surely only {self.recall_ci[0]:.0%}; {recall_min:.0%} are needed"
        if self.unchecked > missing_max * self.facts:
            return f"synth's judge gave no answer on {self.unchecked:,} of {self.facts:,} facts"
        if self.left[1] > defects_max:
            return f"up to {self.left[1]:.1%} of the pairs may have a defect that synth's checks did not see or did not look at (synth.check_share=1 looks at all)"
        return ""

    def __str__(self) -> str:
        if self.state != "on":
            return f"graded by exact checks only ({self.why})" if self.state == "off" else f"judge undecided ({self.why})"
        low, high = self.recall_ci
        return (
            f"synth's judge read {self.facts - self.unchecked:,} facts and refused {self.refused:,}; of {self.planted} planted defects it found"
            f" {self.recall:.0%} ({low:.0%}-{high:.0%}); synth's checks looked at {self.share:.0%} of the text and left {self.left[0]:.1%} defects, at most"
            f" {self.left[1]:.1%}"
        )


class SynthChecks(NamedTuple):
    """The parts of checks.json that the plan uses."""

    judge: Judge = Judge()
    pilot: Mapping[str, Any] = {}
    targets: Mapping[str, tuple[int, int]] = {}
    """bucket -> pairs wanted and made, as synth counted them."""


NO_CHECKS = SynthChecks()


def read_synth_checks(path: Path) -> SynthChecks:
    """checks.json of synth; a part that is missing is told as such, never guessed."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    judge = found.get("judge") or {"state": "off", "why": "checks.json tells nothing of a judge"}
    low, high = judge.get("recall_ci") or (0.0, 1.0)
    looked = found.get("checked") or {}
    first, last = looked.get("refused_ci") or (0.0, 0.0)
    return SynthChecks(
        Judge(
            str(judge["state"]), str(judge.get("why", "")), judge.get("recall"), (float(low), float(high)), int(judge.get("planted", 0)),
            int(judge.get("facts", 0)), int(judge.get("unchecked", 0)), sum((judge.get("refused") or {}).values()),
            looked.get("packs", 1) / (looked.get("of_packs") or 1), looked.get("refused", 0) / (looked.get("facts") or 1), (float(first), float(last)),
        ),
        found.get("pilot") or {},
        {name: (int(entry["wanted"]), int(entry["made"])) for name, entry in ((found.get("targets") or {}).get("made") or {}).items()},
    )
