"""teardown: reports for every way in which a run can end, escaped, complete and readable without a network."""

from __future__ import annotations

import json
from collections.abc import Set
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from forge.errors import StillBilling
from forge.phases.publish import PublishSettings
from forge.phases.publish import phase as publish
from forge.phases.teardown import phase
from forge.protocols import Prediction
from forge.records import Message, Verdict, write_json, write_jsonl
from forge.testing import run_phase
from tests.browser import UNNAMED, browser, keep, listen
from tests.test_phases.finished_run import ABSTENTION, HOSTILE, NAME, VERDICTS, finished_run

VOID = {"meta", "br", "line", "circle", "rect", "polyline", "i"}

PHASES = {
    "prep": 2.1, "audit": 3.4, "synth": 5.2, "shape": 1.1, "plan_fit": 8.8, "provision": 0.2, "train": 412.0, "eval": 66.0,
    "quantize": 31.0, "publish": 1.4,
}
GONE = {"token": "4b31-1", "provider": "local", "state": "SETTLED", "resource": "pid 12", "deadline_seconds": 3600}


class Page(HTMLParser):
    """Tags, attributes and text of a page; notes every tag that is closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.unbalanced: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def record(outcome: str = "done", *, stopped_in: str = "", leases: tuple[dict[str, Any], ...] = (GONE,), **more: Any) -> dict[str, Any]:
    """The run record as the engine writes it just before teardown."""
    names = list(PHASES)
    reached = names[: names.index(stopped_in) + 1] if stopped_in else names
    status = {"failed": "failed", "interrupted": "interrupted"}.get(outcome, "done")
    rows = [
        {"name": name, "status": status if name == stopped_in else "done", "attempt": 1, "seconds": PHASES[name],
         "metrics": {"items": 12}, "error": ""} for name in reached
    ]
    return {
        "run": "4b31", "corpus": "handbook", "dry_run": False, "outcome": outcome, "error": None, "phases": rows,
        "spend": [
            {"phase": "synth", "what": "12 passages", "reserved_micro": 400_000, "actual_micro": 310_000},
            {"phase": "train", "what": "one machine", "reserved_micro": 30_000_000, "actual_micro": None},
        ],
        "totals": {"settled": 310_000, "reserved": 30_000_000, "budget": 200_000_000}, "leases": list(leases),
        "artifacts": [{"name": "eval", "phase": "eval", "path": "eval.json", "sha256": "ab" * 32, "bytes": 900}], **more,
    }


def predictions(path: Path) -> None:
    rows = [
        Prediction(
            id=f"{split}{i}", split=split, group="g", prompt=(Message(role="user", content=f"{HOSTILE} Which tool? {i}"),), gold="Shears",
            answerable=split != "test_abstain", answer_tokens=3, nll_base=9.0, nll_tuned=3.0, base="the the", tuned="Shears " + "x" * 900,
        )
        for split in ("test_recall", "test_unseen", "test_abstain") for i in range(5)
    ]
    write_jsonl(path, rows)


def close(tmp_path: Path, told: dict[str, Any] | None, *, without: Set[str] = frozenset(), **changes: Any) -> dict[str, str]:
    """Run teardown on a finished run's artifacts; returns the three reports by name."""
    inputs = finished_run(tmp_path / "art", **changes)
    published = run_phase(
        publish, tmp_path / "publish", settings=PublishSettings(try_snippets=False, hub_dir=str(tmp_path / "hub")),
        inputs={name: inputs[name] for name in publish.reads if name in inputs},
    )
    inputs["publication"], inputs["predictions"] = published.out / "publication.json", tmp_path / "predictions.jsonl"
    predictions(inputs["predictions"])
    inputs["run_record"] = tmp_path / "run-record.json"
    if told is not None:
        write_json(inputs["run_record"], told)
    given = {name: inputs[name] for name in phase.reads if name in inputs and name not in without and inputs[name].exists()}
    run = run_phase(phase, tmp_path / "run", inputs=given)
    return reports(run.out)


def reports(out: Path) -> dict[str, str]:
    return {name: (out / name).read_text(encoding="utf-8") for name in ("after-action.md", "qa-report.md", "failure-report.md", "report.html")}


def test_a_finished_run_is_told_on_one_page(tmp_path: Path) -> None:
    page = Page(close(tmp_path, record())["report.html"])
    for expected in (
        NAME, "Better than its base on held-out questions.", "8 min 51 s", "$0.31", "recall_nll_gain", "0.29 to 0.52", "nothing bills",
        "kept by audit", "near duplicate", f"{NAME}-Q4_K_M.gguf", "forge chat 4b31", "Pretraining loss", "Tuning loss (LoRA)", "Speed", "ann",
    ):
        assert expected in page.text, expected
    assert page.unbalanced == []
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") >= 3 + 1 + len(VERDICTS)


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html = close(tmp_path, record())["report.html"]
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert not [attribute for attribute in page.attributes if attribute[1] in ("src", "href", "srcset") or attribute[1].startswith("on")]
    assert "url(" not in html
    assert "http" not in html.replace("http-equiv", "")


def test_what_comes_from_the_corpus_is_escaped_everywhere(tmp_path: Path) -> None:
    hostile = [Verdict(name="x", estimate=0.5, n=3, outcome="undecided", evidence=HOSTILE)]
    told = record("failed", stopped_in="train", error={"fact": HOSTILE, "why": HOSTILE, "next": HOSTILE}, corpus=HOSTILE)
    pages = close(tmp_path, told, verdicts=hostile, headline=HOSTILE)
    assert "<script" not in pages["report.html"]
    assert HOSTILE in Page(pages["report.html"]).text
    assert "<script" not in pages["qa-report.md"]


def test_each_file_stands_for_itself_on_the_page(tmp_path: Path) -> None:
    page = Page(close(tmp_path, record())["report.html"])
    assert "left out" in page.text
    assert "abstention_recall_q5_k_m is 0.41 (0.39 to 0.43), the limit is 0.9" in page.text
    assert page.unbalanced == []


def test_every_figure_has_words_for_those_who_cannot_see_it(tmp_path: Path) -> None:
    page = Page(close(tmp_path, record())["report.html"])
    labels = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert len(labels) == page.tags.count("svg")
    assert "recall_nll_gain: 0.41, interval 0.29 to 0.52, threshold 0.05" in labels
    assert ("html", "lang", "en") in page.attributes


def test_a_failed_run_says_where_and_why_and_how_to_go_on(tmp_path: Path) -> None:
    error = {"fact": "the loss became NaN", "why": "the learning rate is too high", "next": "forge resume 4b31 --set train.rate=1e-4"}
    late = {"train_report", "progress", "eval", "predictions", "ship_eval", "publication"}
    pages = close(tmp_path, record("failed", stopped_in="train", error=error), without=late)
    text = Page(pages["report.html"]).text
    for expected in ("Stopped in train: the loss became NaN", "too high", "forge resume 4b31 --set", "not reached", "$30.00"):
        assert expected in text, expected
    assert "error: the loss became NaN" in pages["after-action.md"]
    assert "| quantize | not reached |" in pages["after-action.md"]
    assert "Not measured." in pages["qa-report.md"]


def test_a_failed_run_leaves_a_report_of_its_failure_with_the_logs_and_what_is_half_done(tmp_path: Path) -> None:
    error = {"fact": "the loss is not a number", "why": "step 12", "next": "forge resume 4b31 --set train.learning_rate=1e-4"}
    told = record("failed", stopped_in="train", error=error) | {
        "log_tail": ["10:00:01 train progress done 12", "10:00:02 train phase_failed ``` <script>"],
        "worker_log": {"file": "machine/jobs/train-1/log", "lines": ["RuntimeError: loss is nan"]},
        "partial": [{"path": "work/train/work/checkpoint-10", "bytes": 12345, "records": 0}, {"path": "work/train/work/items.journal", "bytes": 99, "records": 7}],
    }
    pages = close(tmp_path, told)
    text = pages["failure-report.md"]
    for expected in (
        "in train, attempt 1", "error: the loss is not a number", "next: forge resume 4b31 --set train.learning_rate=1e-4", "10:00:01 train progress done 12",
        "machine/jobs/train-1/log", "RuntimeError: loss is nan", "| `work/train/work/checkpoint-10` | 12,345 |", "| 99 | 7 |", "not done again: prep, audit",
        "`forge resume 4b31`",
    ):
        assert expected in text, expected
    assert text.count("```") == 4, "a log line ends no block"
    page = Page(pages["report.html"])
    assert "The last 2 events" in page.text
    assert "RuntimeError: loss is nan" in page.text
    assert "<script>" not in pages["report.html"]


def test_a_run_that_did_not_fail_says_so_in_its_failure_report(tmp_path: Path) -> None:
    text = close(tmp_path, record())["failure-report.md"]
    assert "Nothing failed" in text
    assert "## What failed" not in text


def test_an_interrupted_run_says_how_to_resume(tmp_path: Path) -> None:
    pages = close(tmp_path, record("interrupted", stopped_in="synth", error={"fact": "Interrupted", "why": "", "next": ""}))
    assert "error:" not in pages["after-action.md"]
    assert "forge resume 4b31" in pages["after-action.md"]
    assert "stopped by its user" in Page(pages["report.html"]).text


def test_a_waiting_run_says_how_to_approve(tmp_path: Path) -> None:
    assert "forge approve 4b31 --plan" in close(tmp_path, record("waiting", stopped_in="plan_fit"))["after-action.md"]


def test_with_nothing_at_all_there_is_still_a_report(tmp_path: Path) -> None:
    pages = reports(run_phase(phase, tmp_path / "run", inputs={}).out)
    assert "run test" in pages["report.html"]
    assert Page(pages["report.html"]).unbalanced == []


@pytest.mark.parametrize("name", sorted(phase.reads))
def test_any_one_artifact_may_be_missing(tmp_path: Path, name: str) -> None:
    pages = close(tmp_path, record(), without={name})
    assert Page(pages["report.html"]).unbalanced == []


@pytest.mark.parametrize("name", ["plan", "eval", "ship_eval", "audit", "progress", "documents", "run_record", "publication"])
def test_a_damaged_artifact_is_named_and_the_rest_is_told(tmp_path: Path, name: str) -> None:
    inputs = finished_run(tmp_path / "art")
    inputs |= {"run_record": tmp_path / "record.json", "publication": tmp_path / "publication.json"}
    write_json(inputs["run_record"], record())
    write_json(inputs["publication"], {})
    inputs[name].write_text('{"verdicts": [{}], "torn": tru}', encoding="utf-8")
    pages = reports(run_phase(phase, tmp_path / "run", inputs={n: p for n, p in inputs.items() if n in phase.reads}).out)
    assert f"- {name}: " in pages["after-action.md"]
    assert "Could not be read" in pages["report.html"]


def test_a_torn_last_line_of_the_progress_is_left_out(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    with inputs["progress"].open("a", encoding="utf-8") as file:
        file.write('{"step": 71, "tokens_per_sec')
    out = run_phase(phase, tmp_path / "run", inputs={"progress": inputs["progress"]}).out
    assert "Speed" in reports(out)["report.html"]


def test_a_lease_that_is_not_confirmed_gone_is_shouted_after_the_reports_are_written(tmp_path: Path) -> None:
    write_json(tmp_path / "record.json", record(leases=(GONE, GONE | {"token": "4b31-2", "state": "STOPPING"})))
    with pytest.raises(StillBilling, match="1 machine") as caught:
        run_phase(phase, tmp_path / "run", inputs={"run_record": tmp_path / "record.json"})
    assert caught.value.exit_code == 70
    assert caught.value.next == "forge teardown 4b31"
    pages = reports(tmp_path / "run" / "out")
    assert "may still bill" in pages["report.html"]
    assert "forge teardown 4b31" in pages["after-action.md"]


@pytest.mark.parametrize("state", ["INTENT", "REQUESTED", "LIVE", "STOPPING", "", "unknown"])
def test_only_a_confirmed_end_counts(tmp_path: Path, state: str) -> None:
    write_json(tmp_path / "record.json", record(leases=(GONE | {"state": state},)))
    with pytest.raises(StillBilling):
        run_phase(phase, tmp_path / "run", inputs={"run_record": tmp_path / "record.json"})


def test_an_undecided_model_is_not_reported_as_good(tmp_path: Path) -> None:
    doubt = [Verdict(name="recall_nll_gain", estimate=0.01, ci=(-0.1, 0.2), n=9, threshold=0.05, outcome="undecided")]
    pages = close(tmp_path, record(), verdicts=doubt, quality="undecided", headline="Too few rows")
    text = Page(pages["report.html"]).text
    assert "Not shown to be better than its base (recall_nll_gain undecided): Too few rows." in text
    assert "quality: undecided" in text
    assert "UNDECIDED" in pages["qa-report.md"]
    assert "since recall_nll_gain could not be decided" in pages["after-action.md"]


def test_long_answers_are_cut_and_the_sample_is_small(tmp_path: Path) -> None:
    page = Page(close(tmp_path, record())["report.html"])
    assert page.text.count("this model") == 4 + 2 + 2
    assert "x" * 500 not in page.text
    assert ABSTENTION in page.text


@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1280, 900), ("phone", 390, 844)])
def test_a_browser_draws_the_page(tmp_path: Path, name: str, width: int, height: int) -> None:
    """Issue 7, show 6: no error, no request, every plot drawn, nothing wider than the screen."""
    close(tmp_path, record())
    report = tmp_path / "run" / "out" / "report.html"
    with browser() as opened:
        page = opened.new_page(viewport={"width": width, "height": height})
        faults = listen(page)
        page.goto(report.as_uri())
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => one.open = true)")
        boxes = page.eval_on_selector_all("svg", "all => all.map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])")
        assert len(boxes) >= 4 + len(VERDICTS)
        assert all(wide > 20 and high > 10 for wide, high in boxes)
        assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "wider than the screen"
        assert page.evaluate(UNNAMED) == []
        assert len(page.screenshot(full_page=True)) > 20_000, "a blank page is smaller"
        keep(page, f"report-{name}")
    assert faults == []


def test_a_sweep_and_the_stages_stand_in_the_report(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    train, measured = (json.loads(inputs[name].read_text(encoding="utf-8")) for name in ("train_report", "eval"))
    tried = {"train_loss": 1.0, "low": 0.9, "high": 1.1, "behind": 0.0, "behind_low": 0.0, "behind_high": 0.0, "stopped_at": 0}
    train["sweep"] = {"chosen": "r8", "why": "r8 is the smallest of 2", "validation_rows": 40, "candidates": [
        {"name": "r8", "val_loss": 1.02, **tried}, {"name": "r64", "val_loss": 1.01, **tried},
    ]}
    nats = {name: {"mean": value, "low": value - 0.1, "high": value + 0.1} for name, value in (("base", 4.0), ("after_tone", 2.0), ("final", 2.5))}
    measured["stages"] = {"models": list(nats), "table": [{"stage": "tone", "rows": 12, "nats_per_token": nats}], "prompts": [
        {"question": f"{HOSTILE} How are you?", "answers": {"final": "Fine."}, "nats_per_token": {"base": 4.0, "after_tone": 2.0, "final": 2.5}},
    ]}
    write_json(inputs["train_report"], train)
    write_json(inputs["eval"], measured)
    write_json(tmp_path / "run-record.json", record())
    given = {name: inputs[name] for name in phase.reads if name in inputs and inputs[name].exists()}
    html = reports(run_phase(phase, tmp_path / "run", inputs={**given, "run_record": tmp_path / "run-record.json"}).out)["report.html"]
    page = Page(html)
    for expected in ("Which adapter was chosen", "r8", "the smallest of 2", "40 validation rows", "What each stage taught", "after tone", "2.500 (2.400 to 2.600)", "Fine."):
        assert expected in page.text, expected
    assert page.unbalanced == []
    assert HOSTILE not in html
