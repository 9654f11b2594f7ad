"""The MLflow mirror against a real sqlite store: backfill, again, and after a run was forged anew."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from forge import model_registry, tracking
from forge.errors import ForgeError, UsageError
from forge.registry import Registry
from forge.run import Run
from tests.test_engine.models_world import finished, predictions

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, made once: its 40 migrations take seconds."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A home with two registered models; the first has a train report."""
    (tmp_path / "home").mkdir()
    shutil.copyfile(empty_store, tmp_path / "home" / "mlflow.db")
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    for run_id in ("one", "two"):
        run = finished(tmp_path / "handbook", run_id, predictions(lambda i: 10.0, rows=3))
        if run_id == "one":
            put(run, "train_report", json.dumps({"lora": {"loss": [[1, 4.5], [2, 3.25]], "val_loss": [[2, 3.5]], "steps": 2}, "precision": "fp32"}))
        model_registry.register(run)
        run.close()
    return tmp_path / "home"


def put(run: Run, name: str, text: str) -> None:
    draft = run.folder / "draft" / name
    draft.write_text(text, encoding="utf-8")
    sql, values = run.store.record(run.store.publish(name, "made", draft, name))
    run.state.execute(sql, *values)


def held(where: str) -> list[Any]:
    """The live runs of the store, as MLflow's own client reads them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=where)
    return sorted(client.search_runs([one.experiment_id for one in client.search_experiments()]), key=lambda run: run.data.tags["forge.run"])


def test_all_models_are_mirrored_once_however_often_it_is_done(home: Path) -> None:
    from mlflow.tracking import MlflowClient

    where, changed = tracking.mirror(Registry(), "mlflow", [], "")
    assert (where, changed) == (f"sqlite:///{home}/mlflow.db", ("one", "two"))
    one, two = held(where)
    assert (one.data.metrics["recall_nll_gain"], one.data.metrics["recall_nll_gain.low"], one.data.metrics["recall_nll_gain.high"]) == (2.0, 1.8, 2.2)
    assert one.data.params["lora.rank"] == "16"
    assert one.data.tags["forge.sha256.adapter"] != two.data.tags["forge.sha256.adapter"]
    assert one.info.status == "FINISHED"
    curve = MlflowClient(tracking_uri=where).get_metric_history(one.info.run_id, "lora.loss")
    assert [(point.step, point.value) for point in curve] == [(1, 4.5), (2, 3.25)]
    assert tracking.mirror(Registry(), "mlflow", [], "") == (where, ())
    assert [run.info.run_id for run in held(where)] == [one.info.run_id, two.info.run_id]


def test_a_run_that_was_forged_anew_replaces_its_mirror(home: Path) -> None:
    where, _ = tracking.mirror(Registry(), "mlflow", ["one"], "")
    run = Run.open("one")
    put(run, "adapter", "other weights")
    model_registry.register(run)
    run.close()
    before = held(where)[0]
    assert tracking.mirror(Registry(), "mlflow", [], "")[1] == ("one", "two")
    after = held(where)
    assert [one.data.tags["forge.run"] for one in after] == ["one", "two"]
    assert after[0].info.run_id != before.info.run_id


def test_a_mirror_that_was_killed_half_way_is_made_again(home: Path) -> None:
    from mlflow.tracking import MlflowClient

    where, _ = tracking.mirror(Registry(), "mlflow", ["one"], "")
    client = MlflowClient(tracking_uri=where)
    client.update_run(held(where)[0].info.run_id, status="RUNNING")
    assert tracking.mirror(Registry(), "mlflow", ["one"], "")[1] == ("one",)
    assert [run.info.status for run in held(where)] == ["FINISHED"]


def test_no_text_of_the_corpus_is_mirrored(home: Path) -> None:
    model = model_registry.read_models().models["one"]
    told = tracking.tracked(model).model_dump_json()
    assert "blue paint" not in told
    assert "handbook does not say" not in told


def test_a_store_that_cannot_be_written_is_said_in_words(home: Path) -> None:
    with pytest.raises(ForgeError, match="cannot be written") as error:
        tracking.mirror(Registry(), "mlflow", ["one"], f"sqlite:///{home}/mlflow.db/mlflow.db")
    assert "forge track --to" in error.value.next
    with pytest.raises(UsageError, match="no registered model"):
        tracking.mirror(Registry(), "mlflow", ["three"], "")
