"""audit on a cluster: its shards are done by the nodes, a later one takes those that are done, and the bytes are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.phases.audit import phase
from forge.plugins.compute.slurm import Slurm
from forge.testing import run_phase
from tests.servers.slurm import Cluster
from tests.test_phases.test_audit_shards import contents, passages, written
from tests.test_plugins.slurm_world import nodes_python, provider

CLUSTER = {"cores": 4, "min_job_age": 3600}


def test_audit_goes_on_on_the_cluster_where_it_was_stopped_and_writes_the_bytes_of_one_process(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = provider(tmp_path / "shared", monkeypatch, python=nodes_python(tmp_path), cores=1)
    monkeypatch.setattr(Slurm, "queue_seconds", 0.3)
    inputs = written(tmp_path / "in", passages(70))

    def stop_in_the_second() -> None:
        if [*tmp_path.rglob("shards-1/task.sh")]:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_phase(phase, tmp_path / "there", inputs=inputs, shards=3, executor=lambda folder, tick: site.executor(folder, "run-a", 3, stop_in_the_second))
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shards-0/*.result")}
    assert len(done) == 3
    there = run_phase(phase, tmp_path / "there", inputs=inputs, shards=3, executor=lambda folder, tick: site.executor(folder, "run-a", 3, tick))
    assert contents(there.out) == contents(run_phase(phase, tmp_path / "here", inputs=inputs).out)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len({name for name in slurm.run("squeue", "-h", "--states=completed", "-o", "%j").split() if name.endswith("@map")}) == 2
