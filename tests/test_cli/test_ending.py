"""forge teardown and forge sweep: a proof for each machine, or exit code 70 and what a person has to type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forge.plugins.compute.local import Local
from forge.protocols import Lease, Offer, Resource
from forge.run import Run
from tests.test_cli.conftest import Command

OFFER = Offer(provider="local", name="cpu", usd_per_hour=0.0, device="cpu", cores=1, memory_gib=1.0)


def lease(run: str) -> Lease:
    return Lease(token=f"lease-{run}", run=run, offer=OFFER, deadline_seconds=600)


def leased_by_a_dead_process(run: str) -> None:
    """A lease on this machine whose process is gone."""
    program = (
        "import sys; from forge.plugins.compute.local import Local; from forge.protocols import Lease\n"
        "Local().start(Lease.model_validate_json(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", program, lease(run).model_dump_json()], check=True, timeout=60)


def test_teardown_proves_each_machine_gone(forge: Command, tmp_path: Path) -> None:
    from forge.lease import Leases, as_provider

    (tmp_path / "c").mkdir()
    run = Run.create(tmp_path / "c", dry_run=False, run_id="one")
    run.ledger.budget, run.ledger.gate_open = 1_000_000, True
    Leases(run, {"local": as_provider(Local())}).acquire(OFFER, 600, "lease-one")
    run.close()
    for words in (["teardown", "one"], ["teardown", "--all"]):
        ran = forge(*words)
        assert ran.code == 0, ran.err
        assert "lease-one" in ran.out
        assert "gone" in ran.out
        assert "not listed at 20" in ran.out
    (proof,) = forge("teardown", "one", "--json").json
    assert (proof["run"], proof["state"], proof["micro_usd"], len(proof["seen_gone"])) == ("one", "SETTLED", 0, 2)
    assert Local().find("all") == []


def test_teardown_says_when_there_was_no_machine(forge: Command, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Run.create(tmp_path / "c", dry_run=False, run_id="one").close()
    assert "run one holds no machine" in forge("teardown", "one").out
    assert "no run holds a machine" in forge("teardown", "--all").out


def test_sweep_ends_what_a_dead_process_left_when_told_yes(forge: Command) -> None:
    assert "no provider lists a machine" in forge("sweep").out
    leased_by_a_dead_process("deleted")
    assert "would be ended" in forge("sweep", "--dry-run").out
    kept = forge("sweep")
    assert "kept" in kept.out
    assert kept.last == "next: forge sweep --yes"
    assert [one.id for one in Local().find("all")] == ["lease-deleted"]
    (one,) = forge("sweep", "--yes", "--json").json["machines"]
    assert (one["done"], len(one["seen_gone"])) == ("ended", 2)
    assert Local().find("all") == []


def test_sweep_leaves_what_a_living_process_holds(forge: Command) -> None:
    Local().start(lease("living"))
    assert "a living process" in forge("sweep", "--yes").out
    assert len(Local().find("all")) == 1


def test_a_machine_that_stays_is_exit_code_70_with_the_command_to_type(forge: Command, monkeypatch: pytest.MonkeyPatch) -> None:

    leased_by_a_dead_process("stuck")
    monkeypatch.setattr("forge.lease.GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr(Local, "stop", lambda self, resource: None)
    monkeypatch.setattr(Local, "stop_command", lambda self, resource: f"kill 4711  # {resource.id}")
    rows = forge("sweep", "--yes").error(70)
    assert "lease-stuck is live" in rows[1]
    assert "kill 4711" in rows[-1]


DIES_AT_WORK = """
import os, signal, sys, time
from pathlib import Path
from forge.lease import Leases, as_provider
from forge.plugins.compute.local import Local
from forge.protocols import Offer
from forge.run import Run
run = Run.create(Path(sys.argv[1]), dry_run=False, run_id="killed")
run.ledger.budget, run.ledger.gate_open = 1_000_000, True
leases = Leases(run, {"local": as_provider(Local())})
leases.acquire(Offer(provider="local", name="cpu", usd_per_hour=1.0, device="cpu", cores=1, memory_gib=1.0), 600, "lease-killed")
channel = leases.channel("lease-killed")
channel.spawn("j", ["/bin/sh", "-c", "echo $$ > pid; sleep 300 & sleep 300"], {})
while not channel.read("jobs/j/pid", 0):
    time.sleep(0.01)
Path(sys.argv[2]).write_bytes(channel.read("jobs/j/pid", 0))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("words", [["teardown", "killed"], ["sweep"]], ids=["teardown", "sweep"])
def test_kill_minus_nine_of_a_run_at_work_leaves_no_job_and_a_settled_ledger(forge: Command, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "c").mkdir()
    died = subprocess.run([sys.executable, "-c", DIES_AT_WORK, str(tmp_path / "c"), str(tmp_path / "pid")], check=False, timeout=120)
    assert died.returncode == -9
    ran = forge(*words)
    assert ran.code == 0, ran.err
    assert "lease-killed" in ran.out
    assert Local().find("all") == []
    job = Path(f"/proc/{int((tmp_path / 'pid').read_text(encoding='utf-8'))}/stat")
    assert not job.exists() or job.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    run = Run.open("killed")
    spend = run.ledger.totals()
    assert 0 < spend.settled < 183_334   # $1/h for ten minutes and 10 %
    assert spend.reserved == 0
    run.close()


def test_a_run_ends_what_another_run_left(forge: Command, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    Run.create(tmp_path / "c", dry_run=False, run_id="dead").close()
    leased_by_a_dead_process("dead")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.md").write_text("# Valve\n\nThe valve opens at three bar.\n", encoding="utf-8")
    ran = forge("run", tmp_path / "corpus", "--budget", "1", "--until", "prep", "--id", "new")
    assert ran.code == 0, ran.err
    assert "local lease-dead of run dead is ended" in ran.err + ran.out
    assert Local().find("all") == []


def test_resources_say_who_holds_them() -> None:
    made = Local().start(lease("mine"))
    assert isinstance(made, Resource)
    assert (made.run, made.held, made.overdue) == ("mine", True, False)
