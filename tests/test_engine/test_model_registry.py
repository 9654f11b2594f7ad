"""The registry of models: what is kept of each, and who may become champion."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from forge import model_registry
from forge.errors import ArtifactDamaged, GateFailed, UsageError
from forge.records import Verdict
from forge.run import home
from tests.test_engine.models_world import finished, predictions


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and a corpus to forge from."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "handbook"
    folder.mkdir()
    return folder


def worse(i: int) -> float:
    return 10.0 + i % 5


def better(i: int) -> float:
    return 6.0 + i % 5


def test_a_model_is_registered_with_its_numbers_and_what_it_comes_from(corpus: Path) -> None:
    run = finished(corpus, "one", predictions(worse))
    model = model_registry.register(run)
    assert model is not None
    assert (model.place, model.quality, model.files) == ("chat/handbook", "pass", {"gguf/x.gguf": "sha of one"})
    assert model.metrics[0].ci == (1.8, 2.2)
    artifact = run.store.get("adapter")
    assert artifact is not None
    assert model.lineage.made_of == {"adapter": artifact.sha256}
    assert set(model.lineage.measured_on) == {"test_recall", "predictions", "eval"}
    assert model_registry.read_models().alias_of("one") == "challenger"


def test_registering_again_changes_nothing(corpus: Path) -> None:
    run = finished(corpus, "one", predictions(worse))
    model_registry.register(run)
    before = (home() / "registry.json").read_bytes()
    model_registry.register(run)
    assert (home() / "registry.json").read_bytes() == before


def test_rehearsals_are_not_registered(corpus: Path) -> None:
    assert model_registry.register(finished(corpus, "dry", predictions(worse), dry_run=True)) is None
    with pytest.raises(UsageError, match="no model to register"):
        model_registry.promote("dry")


def test_the_first_champion_needs_every_gate_and_the_next_must_be_better(corpus: Path) -> None:
    for run_id, said in (("one", predictions(worse)), ("two", predictions(better)), ("same", predictions(lambda i: worse(i) + (i % 2) - 0.5))):
        model_registry.register(finished(corpus, run_id, said))
    _, compared = model_registry.promote("one")
    assert compared is None
    with pytest.raises(GateFailed) as refused:
        model_registry.promote("same")
    assert "no difference between same and one" in refused.value.why
    assert refused.value.next == "forge compare one same"
    model, compared = model_registry.promote("two")
    assert compared is not None
    assert compared.better == "second"
    models = model_registry.read_models()
    assert models.alias_of(model.run) == "champion"
    assert [(entry.run, entry.before) for entry in models.promotions] == [("one", ""), ("two", "one")]
    with pytest.raises(GateFailed, match="does not become champion"):
        model_registry.promote("one")      # the worse one does not come back


BAD = {
    "a gate that failed": ({"verdicts": (Verdict(name="recall_nll_gain", estimate=0.0, ci=(-1, 1), n=60, outcome="fail"),)}, "gate recall_nll_gain is fail"),
    "a gate that could not be decided": ({"verdicts": (Verdict(name="recall_nll_gain", estimate=None, outcome="undecided"),)}, "is undecided"),
    "quality that was not shown": ({"quality": "undecided"}, "quality is undecided, not pass"),
}


@pytest.mark.parametrize("case", BAD)
def test_no_model_passes_with(corpus: Path, case: str) -> None:
    changes, reason = BAD[case]
    model_registry.register(finished(corpus, "one", predictions(better), **changes))   # type: ignore[arg-type]
    with pytest.raises(GateFailed) as refused:
        model_registry.promote("one")
    assert reason in refused.value.why
    assert model_registry.read_models().promotions == ()


def test_a_model_that_declines_less_is_refused_however_likely_its_answers(corpus: Path) -> None:
    model_registry.register(finished(corpus, "one", predictions(worse)))
    model_registry.promote("one")
    model_registry.register(finished(corpus, "two", predictions(better, declines=0.6)))
    with pytest.raises(GateFailed) as refused:
        model_registry.promote("two")
    assert "it is worse in abstention_recall: 1.000 before, 0.600 now" in refused.value.why


def test_weights_that_changed_after_they_were_measured_are_refused(corpus: Path) -> None:
    run = finished(corpus, "one", predictions(worse))
    model_registry.register(run)
    artifact = run.store.get("adapter")
    assert artifact is not None
    blob = run.store.open(artifact).resolve()
    blob.chmod(0o600)
    blob.write_text("other weights!!!", encoding="utf-8")
    with pytest.raises(GateFailed, match="does not become champion") as refused:
        model_registry.promote("one")
    assert "adapter is not what was registered" in refused.value.why


def test_models_that_share_no_tests_are_not_ranked(corpus: Path) -> None:
    model_registry.register(finished(corpus, "one", predictions(worse)))
    model_registry.promote("one")
    other = [row.model_copy(update={"id": f"x{row.id}"}) for row in predictions(better)]
    model_registry.register(finished(corpus, "two", other))
    with pytest.raises(GateFailed) as refused:
        model_registry.promote("two")
    assert "0 test rows in common" in refused.value.why


def test_a_champion_that_is_forged_anew_is_a_challenger_again(corpus: Path) -> None:
    run = finished(corpus, "one", predictions(worse))
    model_registry.register(run)
    model_registry.promote("one")
    draft = run.folder / "draft" / "adapter"
    draft.write_text("new weights", encoding="utf-8")
    sql, values = run.store.record(run.store.publish("adapter", "made", draft, "adapter"))
    run.state.execute(sql, *values)
    model_registry.register(run)
    assert model_registry.read_models().alias_of("one") == "challenger"


def test_a_damaged_registry_says_what_to_do(corpus: Path) -> None:
    home().mkdir(parents=True)
    (home() / "registry.json").write_text('{"models": 3}', encoding="utf-8")
    with pytest.raises(ArtifactDamaged) as damaged:
        model_registry.read_models()
    assert "forge champion" in damaged.value.next


def _register(run_id: str) -> None:
    from forge.run import Run

    model_registry.register(Run.open(run_id))


def test_processes_that_register_at_the_same_time_lose_nothing(corpus: Path) -> None:
    names = [f"run{i}" for i in range(6)]
    for name in names:
        finished(corpus, name, predictions(worse, rows=2)).close()
    workers = [multiprocessing.get_context("fork").Process(target=_register, args=(name,)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert sorted(model_registry.read_models().models) == names
    assert json.loads((home() / "registry.json").read_text(encoding="utf-8"))["version"] == 1
