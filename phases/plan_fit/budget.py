"""Axis 7, budget: what is spent, what is to come at P90, and what the machine could cost at worst."""

from __future__ import annotations

from collections.abc import Mapping

from forge.ledger import MICRO, Spend
from forge.phases.plan_fit.forecast import Row
from forge.phases.plan_fit.weigh import worst_usd
from forge.protocols import Offer
from forge.records import Verdict


def judge_budget(
    spend: Spend, to_come: Row, offer: Offer, deadline_seconds: int, thresholds: Mapping[str, float]
) -> Verdict:
    """Spent plus P90 within the cap less its headroom, and the lease's worst case within what is left."""
    cap, spent = spend.budget / MICRO, spend.committed / MICRO
    limit = cap * (1 - thresholds["budget_headroom"])
    worst = worst_usd(offer, deadline_seconds)
    needed = spent + to_come.usd_p90
    fits = needed <= limit and spent + worst <= cap
    evidence = (
        f"${spent:.2f} spent + ${to_come.usd_p90:.2f} to come at P90 (${to_come.usd_p50:.2f} at P50) of ${cap:.2f};"
        f" the machine costs ${worst:.2f} if it runs to its deadline"
    )
    return Verdict(
        name="budget", estimate=round(needed, 6), ci=(round(spent + to_come.usd_p50, 6), round(needed, 6)), n=1,
        threshold=round(limit, 6), outcome="pass" if fits else "fail", evidence=evidence, kind="integrity",
    )
