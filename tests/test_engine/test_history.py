"""Forecast and fact of earlier runs: what is kept, and what it makes of the next forecast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge import history
from forge.costs import phase_costs
from forge.history import Told
from forge.phase import Context
from forge.records import canonical_json
from forge.run import Run, home
from forge.testing import tiny_corpus
from tests.test_engine.toys import Buy, BuySettings, run_toys


def kept(*ratios: float, phase: str = "train", where: str = "local/cpu") -> list[Told]:
    return [Told(run=f"r{n}", phase=phase, where=where, seconds_forecast=10, seconds=10 * ratio, usd_forecast=1, usd=ratio) for n, ratio in enumerate(ratios)]


def test_four_runs_that_took_longer_correct_the_next_forecast_and_say_from_what() -> None:
    correction = history.seconds_correction("train", "local/cpu", kept(1.1, 1.3, 1.3, 9))
    assert (correction.factor, str(correction)) == (1.3, "x1.3 from 4 earlier runs")
    assert history.usd_correction("train", "local/cpu", kept(2, 2, 2)).factor == 2


def test_two_runs_another_machine_and_a_phase_too_short_to_time_correct_nothing() -> None:
    assert history.seconds_correction("train", "local/cpu", kept(2, 2)) == (1.0, 0)
    assert history.seconds_correction("train", "aws/p5", kept(2, 2, 2)) == (1.0, 0)
    short = [told.model_copy(update={"seconds_forecast": 0.1}) for told in kept(2, 2, 2)]
    assert history.seconds_correction("train", "local/cpu", short) == (1.0, 0)


def test_a_correction_has_a_bound_and_only_the_newest_runs_count() -> None:
    assert history.seconds_correction("train", "local/cpu", kept(90, 90, 90)).factor == history.MOST
    assert history.seconds_correction("train", "local/cpu", kept(*[4.0] * 30, *[1.0] * 20)) == (1.0, 20)


def test_one_run_on_a_gpu_tells_its_speed_for_every_machine_that_has_such_a_gpu() -> None:
    told = [Told(run="r", phase="train", where="aws/g5.xlarge", gpu="NVIDIA A10G", rate_forecast=500, rate=400)]
    assert history.speed_correction("NVIDIA A10G", told) == (0.8, 1)
    assert history.speed_correction("NVIDIA H100", told) == history.speed_correction("", told) == (1.0, 0)


def test_the_speed_of_a_training_on_a_gpu_is_kept_as_it_was_told_last(tmp_path: Path) -> None:
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two"}), dry_run=False, run_id="toy")
    told = {"speed": {"gpu": "NVIDIA A10G", "gpus": 1, "tokens_per_second": 500.0}, "uncorrected": {"train": {"seconds_p50": 60, "usd_p50": 0.1}}}
    progress = "".join(f'{{"stage": "{stage}", "tokens_per_second": {rate}}}\n' for stage, rate in (("pretrain", 9000), ("lora", 100), ("lora", 400)))
    for name, text in (("forecast", json.dumps(told)), ("progress", progress)):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        sql, values = run.store.record(run.store.publish(name, "train", file, name, telemetry=True))
        run.state.execute(sql, *values)
    run.state.execute("INSERT INTO phase(name, status, attempt, fingerprint, started, ended, metrics) VALUES('train', 'done', 1, '', 0, 90, '{}')")
    assert history.keep(run) == 1
    (kept,) = history.read()
    assert (kept.gpu, kept.rate_forecast, kept.rate, kept.seconds) == ("NVIDIA A10G", 500, 400, 90)
    run.close()


def test_a_finished_run_is_kept_once_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two"}), dry_run=False, run_id="toy")
    run_toys(run)
    told = {one.phase: one for one in history.read()}
    assert told["read"].seconds_forecast == 1
    assert 0 < told["read"].seconds < 60
    assert history.keep(run) == 0
    with (home() / history.FILE).open("a", encoding="utf-8") as file:
        file.write(canonical_json(kept(2)[0])[:30])
    assert {one.phase for one in history.read()} == set(told)
    run.close()


def test_a_phase_that_forecast_its_own_bill_is_kept_and_shown_with_its_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buy = Buy.run

    def piloted(self: Buy, settings: BuySettings, ctx: Context) -> dict[str, float | str]:
        numbers: dict[str, float | str] = {history.OWN_P50: 0.000015, history.OWN_P90: 0.00003, history.OWN_BASIS: "pilot: 1 of 2 words"}
        return {**buy(self, settings, ctx), **numbers}

    monkeypatch.setattr(Buy, "run", piloted)
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two"}), dry_run=False, run_id="toy")
    run_toys(run, run__budget_usd=1)
    told = next(one for one in history.read() if one.phase == "buy")
    assert (told.usd_forecast, told.usd) == (0.000015, 0.000014)
    row = next(row for row in phase_costs(run, ["buy"]) if row.phase == "buy")
    assert (row.estimated_p50, row.estimated_p90, row.spent, row.basis) == (15, 30, 14, "pilot: 1 of 2 words")
    run.close()


def test_a_rehearsal_tells_nothing_about_real_runs(tmp_path: Path) -> None:
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two"}), dry_run=True, run_id="toy")
    run_toys(run)
    assert history.read() == []
    run.close()


def test_a_history_that_cannot_be_written_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(run: Run) -> int:
        raise OSError("no space left on device")

    monkeypatch.setattr(history, "keep", full)
    run = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two"}), dry_run=False, run_id="toy")
    run_toys(run)
    assert run.state.get("outcome") == "done"
    assert "could not be kept" in (run.folder / "events.jsonl").read_text(encoding="utf-8")
    run.close()
