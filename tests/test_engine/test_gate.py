"""The gate: bound to every byte of the plan, passed only by a person or by $0.00."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge import gate
from forge.errors import WaitingAtGate
from forge.phase import Context, Settings
from forge.records import write_json
from forge.run import Run
from forge.testing import tiny_corpus
from tests.test_engine.toys import Buy, Finish, PlanIt, run_toys, toy_plan


@pytest.fixture
def paid_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """A run whose plan would cost $1 an hour."""

    def run(self: PlanIt, settings: Settings, ctx: Context) -> dict[str, Any]:
        write_json(ctx.output("plan"), toy_plan(ctx.run_id, {}, usd_per_hour=1.0))
        write_json(ctx.output("speed"), {})
        return {}

    monkeypatch.setattr(PlanIt, "run", run)
    Finish.runs = 0
    Buy.calls.clear()
    Buy.fail_after = -1
    made = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one"}), dry_run=False, run_id="paid")
    yield made
    made.close()


def test_a_plan_that_costs_money_waits_and_names_the_command(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate) as caught:
        run_toys(paid_run)
    assert caught.value.exit_code == 3
    _, sha256, _ = gate.current(paid_run)
    assert f"forge approve paid --plan {sha256[:12]}" in caught.value.next
    assert Finish.runs == 0
    assert paid_run.state.get("outcome") == "waiting"


def test_an_approved_plan_runs(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    gate.approve(paid_run, gate.current(paid_run)[1][:12])
    run_toys(paid_run)
    assert Finish.runs == 1


def test_a_rehearsal_that_was_given_money_for_a_machine_waits_too(paid_run: Run, tmp_path: Path) -> None:
    rehearsal = Run.create(tiny_corpus(tmp_path / "more", {"a.txt": "one"}), dry_run=True, run_id="rehearsal")
    with pytest.raises(WaitingAtGate):
        run_toys(rehearsal)
    assert Finish.runs == 0
    rehearsal.close()


def test_a_person_at_the_terminal_can_approve(paid_run: Run) -> None:
    run_toys(paid_run, ask=lambda plan, sha256: plan.usd_per_hour == 1.0)
    assert Finish.runs == 1


def test_a_person_who_says_no_stops_it(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run, ask=lambda plan, sha256: False)
    assert Finish.runs == 0


@pytest.mark.parametrize("edit", [('"usd_per_hour": 1.0', '"usd_per_hour": 9.0'), ("{\n", "{ \n")], ids=["a price", "a blank"])
def test_one_changed_byte_of_an_approved_plan_voids_the_approval(paid_run: Run, edit: tuple[str, str]) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    gate.approve(paid_run, gate.current(paid_run)[1])
    visible = paid_run.folder / "plan.json"
    visible.write_text(visible.read_text(encoding="utf-8").replace(*edit, 1), encoding="utf-8")
    with pytest.raises(WaitingAtGate, match="waits for approval") as caught:
        run_toys(paid_run)
    assert "edited" in caught.value.why
    assert Finish.runs == 0


def test_an_edited_and_approved_plan_is_the_plan_that_runs(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    visible = paid_run.folder / "plan.json"
    visible.write_text(visible.read_text(encoding="utf-8").replace('"name": "toy"', '"name": "mine"'), encoding="utf-8")
    gate.approve(paid_run, gate.current(paid_run)[1])
    run_toys(paid_run)
    stored = paid_run.store.get("plan")
    assert stored is not None
    assert '"name": "mine"' in paid_run.store.open(stored).read_text(encoding="utf-8")
    run_toys(paid_run)
    assert Finish.runs == 1


def test_a_plan_edited_into_nonsense_says_how_to_get_it_back(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    (paid_run.folder / "plan.json").write_text("{}", encoding="utf-8")
    with pytest.raises(WaitingAtGate, match="no plan any more") as caught:
        run_toys(paid_run)
    assert "--restore" in caught.value.next
    gate.restore(paid_run)
    assert gate.current(paid_run)[2] is False


def test_the_approval_of_another_plan_does_not_count(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    with pytest.raises(WaitingAtGate, match="not 0123456789ab"):
        gate.approve(paid_run, "0123456789ab")
    with pytest.raises(WaitingAtGate, match="at least 6"):
        gate.approve(paid_run, gate.current(paid_run)[1][:3])


def test_a_free_plan_asks_when_the_user_wants_to_be_asked(tmp_path: Path) -> None:
    Buy.fail_after, Finish.runs = -1, 0
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one"}), dry_run=False, run_id="free")
    with pytest.raises(WaitingAtGate) as caught:
        run_toys(run, gate__always_ask=True)
    assert caught.value.why == "gate.always_ask is set"
    run_toys(run)
    assert Finish.runs == 1


def test_an_edited_free_plan_needs_a_person(tmp_path: Path) -> None:
    Buy.fail_after, Finish.runs = -1, 0
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one"}), dry_run=False, run_id="free")
    run_toys(run, until="plan_it")
    visible = run.folder / "plan.json"
    visible.write_text(visible.read_text(encoding="utf-8").replace('"steps": 1', '"steps": 2'), encoding="utf-8")
    with pytest.raises(WaitingAtGate):
        run_toys(run)
    assert Finish.runs == 0


def test_a_rejected_run_forgets_its_approvals(paid_run: Run) -> None:
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
    gate.approve(paid_run, gate.current(paid_run)[1])
    gate.reject(paid_run)
    with pytest.raises(WaitingAtGate):
        run_toys(paid_run)
