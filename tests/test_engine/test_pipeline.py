"""What runs again, what is skipped, what is repaired, and what is never paid twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.errors import ForgeError, Interrupted, OverBudget, RunBusy, UsageError, WaitingAtGate
from forge.run import Run
from forge.testing import tiny_corpus
from tests.test_engine.toys import Buy, Finish, Read, run_toys

WORDS = {"a.txt": "one two three", "b.txt": "four five"}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    Read.runs = Finish.runs = 0
    Buy.calls.clear()
    Buy.fail_after = -1
    made = Run.create(tiny_corpus(tmp_path / "corpus", WORDS), dry_run=False, run_id="toy")
    yield made
    made.close()


def hashes(run: Run) -> dict[str, str]:
    return {artifact.name: artifact.sha256 for artifact in run.store.all() if not artifact.telemetry}


def test_a_run_goes_through_all_phases_and_passes_a_free_gate(run: Run) -> None:
    run_toys(run)
    assert run.state.get("outcome") == "done"
    assert (run.folder / "phases/finish/model/deep/weights.bin").exists()
    approval = json.loads((run.folder / "phases/gate/approval.json").read_text())
    assert approval["kind"] == "free"
    assert approval["plan_sha256"] == hashes(run)["plan"]


def test_a_finished_run_does_nothing_when_run_again(run: Run) -> None:
    run_toys(run)
    before = hashes(run)
    run_toys(run)
    assert (Read.runs, Finish.runs, len(Buy.calls)) == (1, 1, 5)
    assert hashes(run) == before


def test_a_phase_whose_result_depends_on_the_budget_runs_again_when_it_changes_and_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Read, "budgeted", True, raising=False)
    for budget in (5, 5, 6):
        run_toys(run, run__budget_usd=budget, until="plan_it")
        seen.append(Read.runs)
    assert seen == [1, 1, 2]
    assert len(Buy.calls) == 5, "the same words: nothing after it runs"


def test_a_budget_raised_after_the_gate_keeps_what_was_made_under_the_approved_plan(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Read, "budgeted", True, raising=False)
    run_toys(run, run__budget_usd=5)
    run_toys(run, run__budget_usd=6)
    assert (Read.runs, Finish.runs) == (1, 1)
    run_toys(run, run__budget_usd=6, rerun_from="read")
    run_toys(run, run__budget_usd=6)
    assert Read.runs == 2, "made anew for another reason, it is made with the budget of the day, once"


def test_a_changed_table_reruns_the_phase_that_names_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from forge import fingerprint

    limit = 0.9
    monkeypatch.setattr(Read, "configs", ("gates",), raising=False)
    monkeypatch.setattr(fingerprint, "load_data", lambda name: {name: limit})
    run_toys(run)
    limit = 0.8
    run_toys(run)
    assert (Read.runs, Finish.runs) == (2, 1)


def test_a_changed_setting_reruns_its_phase_and_what_depends_on_it(run: Run) -> None:
    run_toys(run)
    run_toys(run, read__upper=True, confirm=lambda text: True)
    assert Read.runs == 2
    assert Finish.runs == 2
    assert "ENO" in (run.folder / "phases/buy/bought.json").read_text()


def test_a_changed_file_in_the_corpus_reruns_and_pays_only_for_what_is_new(run: Run) -> None:
    run_toys(run)
    (run.corpus / "c.txt").write_text("six", encoding="utf-8")
    run_toys(run, confirm=lambda text: True)
    assert Buy.calls == ["one", "two", "three", "four", "five", "six"]


def test_equal_bytes_upstream_rerun_nothing_downstream(run: Run) -> None:
    run_toys(run)
    run_toys(run, rerun_from="read")
    assert Read.runs == 2
    assert Finish.runs == 1
    assert len(Buy.calls) == 5


def test_a_phase_that_cost_money_asks_before_it_runs_again(run: Run) -> None:
    run_toys(run)
    with pytest.raises(WaitingAtGate, match="buy would run again and cost money") as caught:
        run_toys(run, read__upper=True)
    assert "--yes" in caught.value.next
    assert len(Buy.calls) == 5


def test_a_failed_phase_resumes_without_paying_twice(run: Run) -> None:
    Buy.fail_after = 3
    with pytest.raises(RuntimeError, match="the toy broke"):
        run_toys(run)
    assert run.state.get("outcome") == "failed"
    Buy.fail_after = -1
    run_toys(run)
    assert sorted(Buy.calls) == ["five", "four", "one", "three", "two"]
    # the reservation that never reported back stays counted: 5 settled at 7, one open at 10
    totals = run.ledger.totals()
    assert (totals.settled, totals.reserved) == (35, 10)


def test_an_interrupt_keeps_what_is_finished(run: Run) -> None:
    with pytest.raises(Interrupted):
        run_toys(run, stop=lambda: len(Buy.calls) == 2)
    assert run.state.get("outcome") == "interrupted"
    run_toys(run)
    assert len(Buy.calls) == 5


def test_the_report_is_written_after_a_failure_too(run: Run) -> None:
    Buy.fail_after = 0
    with pytest.raises(RuntimeError):
        run_toys(run)
    report = json.loads((run.folder / "phases/close/report.txt").read_text())
    assert report["outcome"] == "failed"
    assert "the toy broke" in report["error"]["why"]


def test_the_record_of_a_failed_run_has_its_last_events_and_what_is_half_done(run: Run) -> None:
    Buy.fail_after = 2
    with pytest.raises(RuntimeError):
        run_toys(run)
    told = json.loads((run.folder / "phases/record/run-record.json").read_text(encoding="utf-8"))
    assert any("phase_failed" in line for line in told["log_tail"])
    assert len(told["log_tail"]) <= 40
    assert any(one["path"].startswith("work/buy/") and one["records"] for one in told["partial"]), told["partial"]
    Buy.fail_after = -1
    run_toys(run)
    assert "log_tail" not in json.loads((run.folder / "phases/record/run-record.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_output_is_quarantined_and_made_again_for_free(run: Run, damage: str) -> None:
    run_toys(run)
    before, calls = hashes(run), len(Buy.calls)
    blob = next(file for file in run.store.blobs.glob("??/*") if file.name == before["bought"])
    data = blob.read_bytes()
    blob.unlink()
    if damage != "delete":
        blob.write_bytes(data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    run_toys(run, confirm=lambda text: pytest.fail("nothing would be paid again"))
    assert hashes(run) == before
    assert len(Buy.calls) == calls
    assert blob.read_bytes() == data


def test_damage_that_the_file_system_hides_is_found_when_the_artifact_is_used(run: Run) -> None:
    run_toys(run)
    before = hashes(run)
    blob = next(file for file in run.store.blobs.glob("??/*") if file.name == before["words"])
    stamp, data = blob.stat(), blob.read_bytes()
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(bytes([data[0] ^ 1]))
    os.utime(blob, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run_toys(run, rerun_from="buy", confirm=lambda text: True)
    assert Read.runs == 2
    assert hashes(run) == before


def test_a_budget_too_small_refuses_before_the_call(run: Run) -> None:
    with pytest.raises(OverBudget):
        run_toys(run, run__budget_usd=0.00001, buy__micro_usd=10_000)
    assert Buy.calls == []
    assert run.ledger.totals().committed == 0


def test_before_the_gate_only_its_share_may_be_spent(run: Run) -> None:
    with pytest.raises(OverBudget, match="before approval"):
        run_toys(run, run__budget_usd=1, run__before_gate_usd=0.00003)
    assert len(Buy.calls) == 3   # 7 settled twice, then 7+7+10 <= 30 < 7+7+7+10
    assert run.ledger.totals().before_gate <= 30


def test_two_runners_never_share_a_run(run: Run) -> None:
    other = Run.open("toy")
    with run.lock(), pytest.raises(RunBusy) as caught, other.lock():
        pass
    assert caught.value.exit_code == 75
    assert f"process {os.getpid()}" in caught.value.why
    other.close()


def test_an_unknown_phase_name_gets_the_nearest_spelling(run: Run) -> None:
    with pytest.raises(UsageError) as caught:
        run_toys(run, rerun_from="raed")
    assert caught.value.why == 'did you mean "read"?'


def test_until_stops_after_a_phase(run: Run) -> None:
    run_toys(run, until="buy")
    assert run.store.get("bought") is not None
    assert run.store.get("plan") is None
    assert run.state.get("outcome") == "stopped"


def test_a_phase_that_does_not_write_its_output_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Read, "run", lambda self, settings, ctx: {})
    with pytest.raises(ForgeError, match=r"did not write words\.json"):
        run_toys(run)


def test_a_run_whose_creation_was_killed_is_created_anew(run: Run) -> None:
    (run.folder.parent / "half").mkdir()
    made = Run.create(run.corpus, dry_run=False, run_id="half")
    run_toys(made)
    assert made.state.get("outcome") == "done"
    with pytest.raises(UsageError, match="exists already"):
        Run.create(run.corpus, dry_run=False, run_id="half")


def test_a_worker_waits_for_the_one_before_it(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from forge.worker import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline() == "in\n"
    second = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    first.kill()
    assert second.stdout
    assert second.stdout.readline() == "in\n"
    second.kill()
    for worker in (first, second):
        worker.communicate()


def test_garbage_of_earlier_attempts_can_be_collected(run: Run) -> None:
    run_toys(run)
    run_toys(run, read__upper=True, confirm=lambda text: True)
    assert run.store.collect_garbage() > 0
    run_toys(run, read__upper=True)
    assert Finish.runs == 2
