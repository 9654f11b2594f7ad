"""A run with three dollars, and the fixtures of the slurm provider: a module says with CLUSTER what its cluster is to be like (tests.servers.slurm.cluster)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.plugins.compute.slurm import Slurm
from forge.run import Run
from forge.testing import tiny_corpus
from tests.servers.slurm import Cluster, cluster
from tests.test_plugins.slurm_world import empty, provider


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Past its gate, with three dollars."""
    made = Run.create(tiny_corpus(tmp_path / "c", {"a.txt": "a"}), dry_run=False, run_id="run-1")
    made.ledger.budget, made.ledger.gate_open = 3_000_000, True
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One cluster for the whole module."""
    with cluster(**getattr(request.module, "CLUSTER", {"cores": 4})) as found:
        yield found


@pytest.fixture
def slurm(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, empty again afterwards."""
    monkeypatch.setenv("SLURM_CONF", str(shared_cluster.place / "slurm.conf"))
    yield shared_cluster
    empty(shared_cluster)


@pytest.fixture
def site(slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A provider with a folder of its own that looks often."""
    return provider(tmp_path, monkeypatch)
