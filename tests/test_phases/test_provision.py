"""provision leases the approved plan's own machine, once, at the approved price, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.context import FolderContext
from forge.errors import GateFailed, NoCapacity
from forge.phases.provision import lease_token, phase
from forge.protocols import Lease, Offer
from forge.records import LoraPlan, Plan, write_json
from forge.store import hash_path
from forge.testing import PhaseRun, run_phase


def plan(**changes: Any) -> Plan:
    lora = LoraPlan(rank=4, alpha=8, target_modules="all-linear", learning_rate=1e-3, epochs=1, steps=4, examples_per_step=4,
                    max_length=64)
    values: dict[str, Any] = {
        "run": "test", "name": "m", "task": "chat", "base": "scratch", "base_license": "apache-2.0",
        "architecture": "LlamaForCausalLM", "parameters": 1, "scratch": None, "lora": lora, "precision": "fp32", "seed": 7,
        "dry_run": False, "system_prompt": "", "abstention": "", "teacher": "offline", "provider": "local", "offer": "cpu",
        "usd_per_hour": 0.0, "deadline_seconds": 1800, "cost_p50_usd": 0, "cost_p90_usd": 0, "budget_usd": 0,
        "quantizations": ("F16",), "hub": "local", "visibility": "local", "verdicts": (), "thresholds": {}, "data": {},
        "reasons": {}, **changes,
    }
    return Plan(**values)


@pytest.fixture
def leased(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Offer, int, str]]:
    """What was leased; the engine's own lease() is tested with the engine."""
    seen: list[tuple[Offer, int, str]] = []

    def lease(self: FolderContext, offer: Offer, deadline_seconds: int, token: str) -> Lease:
        seen.append((offer, deadline_seconds, token))
        return Lease(token=token, run=self.run_id, offer=offer, deadline_seconds=deadline_seconds)

    monkeypatch.setattr(FolderContext, "lease", lease)
    return seen


def provision(tmp_path: Path, approved: str = "", **changes: Any) -> PhaseRun:
    write_json(tmp_path / "plan.json", plan(**changes))
    sha256 = approved or hash_path(tmp_path / "plan.json")
    write_json(tmp_path / "approval.json", {"plan_sha256": sha256, "who": "somebody", "kind": "person"})
    inputs = {"plan": tmp_path / "plan.json", "approval": tmp_path / "approval.json"}
    return run_phase(phase, tmp_path / "run", inputs=inputs)


def test_the_plans_offer_is_leased_until_the_plans_deadline(tmp_path: Path, leased: list[tuple[Offer, int, str]]) -> None:
    run = provision(tmp_path)
    machine = json.loads((run.out / "machine.json").read_text())
    ((offer, deadline, token),) = leased
    assert (offer.provider, offer.name, deadline) == ("local", "cpu", 1800)
    assert machine == {"offer": offer.model_dump(mode="json"), "lease": token}
    assert token == lease_token(hash_path(tmp_path / "plan.json"))


def test_the_same_plan_asks_for_the_same_lease_and_another_plan_for_another(
    tmp_path: Path, leased: list[tuple[Offer, int, str]]
) -> None:
    for seed in (1, 1, 2):
        provision(tmp_path, seed=seed)
    tokens = [token for _, _, token in leased]
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.parametrize("approved", ["0" * 64, "missing"])
def test_nothing_is_leased_for_a_plan_that_nobody_approved(
    tmp_path: Path, leased: list[tuple[Offer, int, str]], approved: str
) -> None:
    with pytest.raises(GateFailed, match="another plan"):
        provision(tmp_path, approved=approved)
    assert leased == []


def test_a_machine_that_is_not_offered_any_more_is_no_capacity(tmp_path: Path, leased: list[tuple[Offer, int, str]]) -> None:
    with pytest.raises(NoCapacity) as caught:
        provision(tmp_path, offer="gpu-7")
    assert "cpu" in caught.value.why
    assert leased == []


def test_a_machine_that_costs_more_than_approved_is_not_leased(
    tmp_path: Path, leased: list[tuple[Offer, int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from forge.plugins.compute import _machine

    monkeypatch.setattr(_machine, "_usd_per_hour", lambda: 0.5)
    with pytest.raises(GateFailed, match=r"now costs \$0.50/h"):
        provision(tmp_path)
    assert leased == []
