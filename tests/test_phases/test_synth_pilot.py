"""The priced pilot: asked first, never paid twice, and close to the server's own bill."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from forge.errors import OverBudget
from forge.phases.audit import phase as audit
from forge.phases.prep import phase as prep
from forge.phases.synth import SynthSettings, phase
from forge.phases.synth.pilot import choose
from forge.phases.synth.requests import request_pairs
from forge.testing import CountingMoney, PhaseRun, run_phase, tiny_corpus
from tests.servers.claude import ClaudeServer

from .clock_world import clock_passages, write_clean

pytest.importorskip("anthropic")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")


def run(folder: Path, server: ClaudeServer, money: CountingMoney | None = None, **settings: object) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", clock_passages(60))
    chosen = SynthSettings.model_validate({"teacher": "anthropic", "endpoint": server.url, "mode": "live", **settings})
    return run_phase(phase, folder, settings=chosen, inputs={"clean": clean}, money=money)


def pilot_of(made: PhaseRun) -> dict[str, Any]:
    return dict(json.loads((made.out / "checks.json").read_text(encoding="utf-8"))["pilot"])


@pytest.mark.parametrize("manner", ["honest", "yes"])
def test_the_forecast_is_within_twice_the_bill_and_no_request_is_billed_twice(tmp_path: Path, manner: str) -> None:
    with ClaudeServer(manner=manner) as server:
        made = run(tmp_path, server)
    pilot = pilot_of(made)
    assert (pilot["state"], pilot["passages"], pilot["asked"]) == ("on", 120, 30)
    assert 0.5 < pilot["usd_p50"] * 1e6 / server.books.micro_usd < 2
    assert pilot["usd_p50"] < pilot["usd_p90"]
    assert set(server.books.billed.values()) == {1}
    assert made.metrics["usd"] == pytest.approx(server.books.micro_usd / 1e6), "looked up again, counted once"


def test_a_forecast_over_the_cap_stops_after_the_pilot_and_a_larger_cap_goes_on_from_it(tmp_path: Path) -> None:
    with ClaudeServer() as server:
        with pytest.raises(OverBudget) as caught:
            run(tmp_path, server, Box(15_000))
        assert "forge resume --before-gate" in caught.value.next
        piloted = server.books.micro_usd
        assert 0 < piloted < 15_000 / 2
        run(tmp_path, server, Box(10**9))
        assert set(server.books.billed.values()) == {1}


def test_short_and_long_passages_are_in_the_pilot_as_in_the_corpus() -> None:
    passages = [p.model_copy(update={"id": f"p{n}", "text": "word " * (n + 5)}) for n, p in enumerate(clock_passages(100))]
    chosen = choose(request_pairs(passages, "teacher", 9), seed=3)
    assert len(chosen) == 40
    mean, of_all = (sum(map(len, texts)) / len(texts) for texts in ([one.passage.text for one in chosen], [p.text for p in passages]))
    assert abs(mean - of_all) < 0.03 * of_all


def test_a_free_teacher_and_a_handful_of_passages_need_no_pilot(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", clock_passages(3))
    assert pilot_of(run_phase(phase, tmp_path / "free", settings=SynthSettings(), inputs={"clean": clean}))["state"] == "off"
    assert choose(request_pairs(clock_passages(3), "teacher", 9), seed=3) == []


class Box(CountingMoney):
    """A money box of so many micro-dollars."""

    def reserve(self, key: str, micro: int, what: str, *, again: bool = False) -> int:
        if self.settled + micro > self.cap:
            raise OverBudget(f"{what} could cost too much")
        return super().reserve(key, micro, what, again=again)


def test_a_corpus_of_nine_tenths_noise_is_forecast_within_twice_its_bill(tmp_path: Path) -> None:
    corpus = tiny_corpus(tmp_path / "corpus", {f"watch-{number}.md": watch(number) for number in range(16)})
    text = sum(path.stat().st_size for path in corpus.iterdir())
    tiny_corpus(corpus, {name: random.Random(name).randbytes(3 * text) for name in ("noise.bin", "photo.jpg", "backup.zip")})
    read = run_phase(prep, tmp_path / "prep", corpus=corpus).out
    kept = run_phase(audit, tmp_path / "audit", inputs={"passages": read / "passages.jsonl", "documents": read / "documents.jsonl"}).out
    with ClaudeServer() as server:
        chosen = SynthSettings(teacher="anthropic", endpoint=server.url, mode="live")
        pilot = pilot_of(run_phase(phase, tmp_path / "synth", settings=chosen, inputs={"clean": kept / "clean.jsonl"}))
        assert pilot["state"] == "on"
        assert 0.5 < pilot["usd_p50"] * 1e6 / server.books.micro_usd < 2


def watch(number: int) -> str:
    """A document of eight paragraphs of different lengths, none like another."""
    draw = random.Random(number)
    parts = "balance spring escapement mainspring ratchet barrel crown jewel pallet dial bezel rotor".split()  # noqa: SIM905
    paragraphs = [
        " ".join(
            f"The {draw.choice(parts)} of calibre {draw.randrange(1000, 9999)} drives the {draw.choice(parts)} with {draw.randrange(20, 900)} beats, and the"
            f" {draw.choice(parts)} keeps the {draw.choice(parts)} from the {draw.choice(parts)}."
            for _ in range(3 + paragraph)
        )
        for paragraph in range(8)
    ]
    return f"# Calibre {number}\n\n" + "\n\n".join(paragraphs) + "\n"
