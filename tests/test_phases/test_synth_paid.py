"""synth with a teacher that costs money: reserved before the call, settled after it, never asked twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, OverBudget
from forge.ledger import Ledger
from forge.phases.synth import SynthSettings, phase
from forge.records import Pair, Rejected, read_jsonl
from forge.state import State
from forge.testing import CountingMoney, PhaseRun, run_phase

from .clock_world import clock_passages, write_clean

TEACHER = '''
import json
from pathlib import Path
from forge.plugins.teachers.offline import teacher as offline
from forge.protocols import TeacherCapabilities, TeacherResponse, Usage

LOG = Path(__file__).with_name("calls.log")
PLAN = Path(__file__).with_name("plan.json")

class Paid:
    name = "paid"
    requires = ()

    def capabilities(self):
        return TeacherCapabilities(paid=True)

    def price(self, request):
        return 1000

    def generate(self, requests):
        plan = json.loads(PLAN.read_text()) if PLAN.exists() else {}
        for request in requests:
            with LOG.open("a") as file:
                file.write(request.key + "\\n")
            if len(LOG.read_text().split()) == plan.get("crash_at"):
                raise RuntimeError("the line went dead")
            if request.passage.id in plan.get("fail", ()):
                yield TeacherResponse(key=request.key, error="overloaded", micro_usd=plan.get("fault_micro_usd", 0))
                continue
            if request.passage.id in plan.get("silent", ()):
                continue
            answer = next(iter(offline.generate([request])))
            yield answer.model_copy(update={"micro_usd": 400, "usage": Usage(input_tokens=10, output_tokens=20)})

teacher = Paid()
'''


def world(folder: Path, **plan: Any) -> Path:
    plugins = folder / "plugins"
    plugins.mkdir(parents=True, exist_ok=True)
    (plugins / "paid_teacher.py").write_text(TEACHER, encoding="utf-8")
    (plugins / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return plugins


def run(folder: Path, money: Any = None, **settings: Any) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", clock_passages())
    chosen = SynthSettings(teacher="paid", **settings)
    return run_phase(phase, folder, settings=chosen, inputs={"clean": clean}, money=money, plugin_dirs=(folder / "plugins",))


def calls(folder: Path) -> list[str]:
    log = folder / "plugins" / "calls.log"
    return log.read_text(encoding="utf-8").split() if log.exists() else []


class Refusing(CountingMoney):
    """A money box that refuses what does not fit under its cap, and records the order of events."""

    def __init__(self, cap: int) -> None:
        super().__init__(cap)
        self.open: dict[int, int] = {}
        self.paid = 0

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        if self.paid + sum(self.open.values()) + micro > self.cap:
            raise OverBudget(f"{what} could cost too much")
        self.open[len(self.open) + 1] = micro
        self.reserved += 1
        return len(self.open)

    def settle(self, reservation: int, micro: int) -> None:
        self.open[reservation] = 0
        self.paid += micro


def test_every_call_is_reserved_and_settled_at_its_real_cost(tmp_path: Path) -> None:
    world(tmp_path)
    money = Refusing(cap=10_000_000)
    result = run(tmp_path, money)
    made = len(calls(tmp_path))
    assert made == money.reserved
    assert (money.paid, sum(money.open.values())) == (400 * made, 0)
    assert result.metrics["usd"] == pytest.approx(400e-6 * made)


def test_without_budget_no_call_is_made(tmp_path: Path) -> None:
    world(tmp_path)
    with pytest.raises(OverBudget):
        run(tmp_path, Refusing(cap=999))
    assert calls(tmp_path) == []


def test_a_small_budget_buys_the_pilot_and_keeps_it(tmp_path: Path) -> None:
    world(tmp_path)
    money = Refusing(cap=5_000)
    with pytest.raises(OverBudget):
        run(tmp_path, money)
    bought = calls(tmp_path)
    assert len(bought) == 10, "4 of 16 passages and 6 requests for abstentions; the rest is forecast not to fit"
    assert money.paid <= money.cap
    run(tmp_path, Refusing(cap=10_000_000))
    assert calls(tmp_path).count(bought[0]) == 1
    assert len(calls(tmp_path)) == len(set(calls(tmp_path)))


def test_the_real_ledger_refuses_before_the_gate(tmp_path: Path) -> None:
    world(tmp_path)
    ledger = Ledger(State(tmp_path / "state.db"), budget=1_000_000, before_gate=2_500)
    with pytest.raises(OverBudget, match="allowed before approval"):
        run(tmp_path, ledger)
    assert len(calls(tmp_path)) == 4
    assert ledger.totals().settled == 1600
    assert ledger.totals().reserved == 0


def test_a_resumed_run_repeats_no_call_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    world(tmp_path / "broken", crash_at=11)
    with pytest.raises(RuntimeError):
        run(tmp_path / "broken")
    finished = calls(tmp_path / "broken")[:10]
    world(tmp_path / "broken")
    resumed = run(tmp_path / "broken")
    world(tmp_path / "whole")
    whole = run(tmp_path / "whole")
    assert all(calls(tmp_path / "broken").count(key) == 1 for key in finished)
    for name in ("pairs.jsonl", "rejected.jsonl"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes()
    assert resumed.metrics["usd"] == pytest.approx(float(whole.metrics["usd"]))


def test_a_finished_run_asks_nothing_again(tmp_path: Path) -> None:
    world(tmp_path)
    run(tmp_path)
    before = calls(tmp_path)
    run(tmp_path)
    assert calls(tmp_path) == before


def test_a_failed_request_is_recorded_counted_and_paid(tmp_path: Path) -> None:
    world(tmp_path, fail=["doc0-000000"], fault_micro_usd=7)
    money = Refusing(cap=10_000_000)
    result = run(tmp_path, money, max_failed_share=0.2, abstention_share=0)
    failed = [entry for entry in read_jsonl(result.out / "rejected.jsonl", Rejected) if entry.reason == "teacher_failed"]
    assert [(entry.pair.passage, entry.pair.answer) for entry in failed] == [("doc0-000000", "overloaded")]
    assert result.metrics["failed_requests"] == 1
    assert money.paid == 400 * 15 + 7
    assert "doc0-000000" not in {pair.passage for pair in read_jsonl(result.out / "pairs.jsonl", Pair)}


def test_too_many_failures_fail_the_phase_and_resuming_asks_only_for_them(tmp_path: Path) -> None:
    world(tmp_path, fail=["doc0-000000"], silent=["doc1-000000"])
    with pytest.raises(ForgeError, match="failed on 2 of 16 requests") as caught:
        run(tmp_path)
    assert "overloaded" in caught.value.why
    before = len(calls(tmp_path))
    world(tmp_path)
    run(tmp_path, abstention_share=0)
    assert len(calls(tmp_path)) == before + 2


def test_the_estimate_of_a_paid_teacher_is_its_worst_case(tmp_path: Path) -> None:
    from forge.context import FolderContext, InputFile
    from forge.registry import Registry

    plugins = world(tmp_path)
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    ctx = FolderContext(
        tmp_path, run_id="t", seed=7, dry_run=False, inputs={"clean": InputFile(path=str(clean), sha256="")}, writes=phase.writes,
        registry=Registry((plugins,)), money=CountingMoney(), emit=lambda kind, fields: None,
    )
    estimate = phase.estimate(SynthSettings(teacher="paid"), ctx)
    assert estimate.usd_p90 == pytest.approx(16 * 1000e-6)
    assert 0 < estimate.usd_p50 < estimate.usd_p90
    assert calls(tmp_path) == []
