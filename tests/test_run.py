"""Whole rehearsals through the command line: all eleven phases, no network, the gate, a second run, the model that answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import browser, keep, listen

ROOT = Path(__file__).resolve().parents[1]
HANDBOOK = ROOT / "examples" / "handbook"
PHASES = [
    "prep", "audit", "synth", "shape", "plan_fit", "provision", "train", "eval", "quantize", "publish", "teardown",
]

pytestmark = [pytest.mark.local, pytest.mark.slow]


class Place:
    """A working directory with a finished rehearsal in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, ""
        self.env = {**os.environ, "FORGE_HOME": str(folder / ".forge"), "XDG_STATE_HOME": str(folder / "state"), "NO_COLOR": "1"}

    def forge(self, *arguments: str, prefix: tuple[str, ...] = (), code: int = 0) -> str:
        """Run a command; returns its output. Asserts the exit code and that there is no traceback."""
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "forge", *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True,
            check=False, timeout=280,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.forge(*arguments, "--json"))

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / ".forge" / "runs" / "first"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("run"))
    no_network = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
    made.output = made.forge("run", str(HANDBOOK), "--dry-run", "--id", "first", prefix=no_network)
    return made


def test_a_rehearsal_needs_no_network_and_no_money_and_prints_the_forecast(place: Place) -> None:
    output = place.output
    assert "$0.00" in output
    assert "forecast of the real run" in output
    assert "\nnext: forge run" in output


def test_all_eleven_phases_ran(place: Place) -> None:
    status = place.json("status", "first")
    assert [phase["name"] for phase in status["phases"]] == PHASES
    assert {phase["status"] for phase in status["phases"]} == {"done"}
    assert status["spent_usd"] == status["reserved_usd"] == 0


def test_every_planted_item_of_the_handbook_is_seen(place: Place) -> None:
    documents = [json.loads(line) for line in (place.run / "phases/prep/documents.jsonl").read_text().splitlines()]
    for document in documents:
        balance = document["balance"]
        assert balance["extracted"] == balance["kept"] + sum(balance["dropped"].values()) + balance["duplicate"]
    audit = json.loads((place.run / "phases/audit/audit.json").read_text(encoding="utf-8"))
    assert audit["kept"] > 20
    written = [path for path in place.run.glob("phases/*/*") if path.is_file()]
    everything = "".join(path.read_text("utf-8", "replace") for path in written)
    assert "sk-ant-api03-FAKE" not in everything
    assert "AKIAIOSFODNN7EXAMPLE" not in everything


def test_no_test_shares_a_source_with_training(place: Place) -> None:
    groups = {}
    for split in ("train", "val", "test_recall", "test_unseen", "test_abstain"):
        rows = [json.loads(line) for line in (place.run / f"phases/shape/{split}.jsonl").read_text().splitlines()]
        assert rows, split
        groups[split] = {row["group"] for row in rows}
    assert not groups["train"] & groups["test_unseen"]
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test_abstain"]


def test_the_published_model_loads_and_answers(place: Place) -> None:
    told = place.forge("chat", "first", "What is a lease?", "--json")
    answer = json.loads(next(line for line in told.splitlines() if line.startswith("{")))
    assert answer["question"] == "What is a lease?"
    assert isinstance(answer["answer"], str)


def test_the_published_folder_is_complete_and_its_hashes_hold(place: Place) -> None:
    from forge.cli.result import model_folder
    from forge.run import Run

    os.environ["FORGE_HOME"] = place.env["FORGE_HOME"]
    folder = model_folder(Run.open("first"))
    assert folder is not None
    for name in ("README.md", "Modelfile", "SHA256SUMS", "config.json", "adapter", "eval.json", "ship-eval.json"):
        assert (folder / name).exists(), name
    assert list((folder / "gguf").glob("*Q4_K_M.gguf"))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_its_rows_are_published_as_a_data_set_by_a_command_of_its_own(place: Place) -> None:
    told = place.json("publish-data", "first", "--hub-dir", "data-hub")
    folder = place.folder / told["folder"]
    assert sum(told["rows"].values()) > 0
    assert told["left_out"]["quotes the corpus"] > 0, "the offline teacher's answers are sentences of the documents"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    place.forge("publish-data", "first", "--to", "nowhere", code=2)
    assert "publish-data" in place.forge("publish-data", "first", "--hub-dir", "data-hub"), "with the next command"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), [("desktop", 1280, 900), ("phone", 390, 844)])
def test_its_report_is_drawn_by_a_browser(place: Place, name: str, width: int, height: int, scheme: str) -> None:
    """Issue 7, show 6: the report of a real rehearsal; its pictures are kept where $FORGE_SHOTS says."""
    report = place.folder / place.json("report", "first")["report"]
    with browser() as opened:
        page = opened.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        faults = listen(page)
        page.goto(report.resolve().as_uri())
        keep(page, f"rehearsal-{name}-{scheme}")
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => one.open = true)")
        boxes = page.eval_on_selector_all("svg", "all => all.map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])")
        assert len(boxes) > 10
        assert all(wide > 20 and high > 10 for wide, high in boxes), "a plot without a size was not drawn"
        assert page.eval_on_selector_all("svg.chart", "all => all.every((one) => one.querySelector('polyline, rect'))")
        assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "wider than the screen"
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (max(background) < 60) == (scheme == "dark")
    assert faults == []


def test_a_second_run_does_nothing(place: Place) -> None:
    before = {path: path.stat().st_mtime_ns for path in place.run.glob("artifacts/??/*")}
    output = place.forge("run", str(HANDBOOK), "--dry-run")
    assert output.count("unchanged") == 10
    assert {path: path.stat().st_mtime_ns for path in place.run.glob("artifacts/??/*")} == before


def test_a_damaged_artifact_is_made_again_with_the_same_bytes(place: Place) -> None:
    pairs = place.run / "phases/synth/pairs.jsonl"
    data = pairs.read_bytes()
    blob = next(path for path in place.run.glob("artifacts/??/*") if path.samefile(pairs))
    blob.chmod(0o644)
    blob.write_bytes(data[:-5])
    output = place.forge("resume", "first")
    assert "synth" in output
    assert pairs.read_bytes() == data
    assert output.count("unchanged") >= 8


def test_a_changed_setting_reruns_only_what_depends_on_it(place: Place) -> None:
    rows = json.loads(place.forge("resume", "first", "--set", "quantize.generated_rows=5", "--preview", "--json"))
    runs = [row["phase"] for row in rows if row["runs"]]
    assert runs[0] == "quantize"
    assert "train" not in runs


def test_one_changed_byte_of_the_plan_stops_the_run_at_the_gate(place: Place) -> None:
    plan = place.run / "plan.json"
    original = plan.read_text(encoding="utf-8")
    plan.write_text(original.replace('"seed": 7', '"seed": 8'), encoding="utf-8")
    try:
        output = place.forge("resume", "first", code=3)
        assert "waits for approval" in output
        assert "forge approve first --plan" in output
        place.forge("plan", "first", "--restore")
        assert plan.read_text(encoding="utf-8") == original
    finally:
        plan.write_text(original, encoding="utf-8")
