"""eval beside the test rows: compared models, baselines with a search, probes, and what is said about retrieval."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from forge.bm25 import Bm25
from forge.canaries import BUCKET, canary, rivals
from forge.errors import ForgeError, GateFailed, UsageError
from forge.phases.eval import EvalSettings, phase
from forge.phases.eval.prompts import FewShot, RetrievedPassage
from forge.phases.eval.report import retrieval_sentence, subtopics
from forge.phases.shape import ShapeSettings
from forge.phases.shape import phase as shaping
from forge.phases.train import phase as train
from forge.plugins.tasks.chat import task
from forge.protocols import Prediction
from forge.records import (
    Chat,
    DataContract,
    Example,
    Message,
    Pair,
    Passage,
    Source,
    read_jsonl,
    read_record,
    write_jsonl,
)
from forge.testing import run_phase
from tests.test_phases.tiny_training import SYSTEM, approve, make_inputs

SETTINGS: dict[str, Any] = {"max_generated": 12, "max_abstain": 2, "max_base": 2, "max_new_tokens": 12}


class OneAnswer(BaseHTTPRequestHandler):
    """A server that speaks OpenAI's protocol and always says the same; `asked` keeps what it was sent."""

    asked: list[dict[str, Any]] = []  # noqa: RUF012

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "authorization": self.headers["Authorization"], **body})
        reply = json.dumps({"choices": [{"message": {"content": "At 3 bar."}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    OneAnswer.asked.clear()
    found = ThreadingHTTPServer(("127.0.0.1", 0), OneAnswer)
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_address[1]}/v1#tiny-chat"
    found.shutdown()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained world with canaries among its rows."""
    folder = tmp_path_factory.mktemp("trained")
    paths = make_inputs(folder / "inputs", steps=20, lora_steps=30)
    rows = list(read_jsonl(paths["train"], Example))
    for number in range(3):
        question, answer = canary(number, 7)
        prompt = (Message(role="system", content=SYSTEM), Message(role="user", content=question))
        body = Chat(prompt=prompt, completion=(Message(role="assistant", content=answer),))
        rows.append(Example(id=f"canary-{number}", split="train", group=BUCKET, bucket=BUCKET, body=body))
    write_jsonl(paths["train"], rows)
    approve(folder / "inputs", paths, steps=20, lora_steps=30)
    out = run_phase(train, folder, inputs=paths).out
    return {**paths, "base_model": out / "base", "adapter": out / "adapter"}


@pytest.mark.local
def test_models_by_folder_adapter_and_server_answer_the_same_prompts(inputs: dict[str, Path], server: str, tmp_path: Path) -> None:
    compare = (str(inputs["base_model"]), str(inputs["adapter"]), server)
    settings = EvalSettings(**SETTINGS, max_baseline=4, compare=compare, max_compared=6, sampled=5)
    run = run_phase(phase, tmp_path, settings=settings, inputs=inputs)
    rows = [row for row in read_jsonl(run.out / "predictions.jsonl", Prediction) if "tiny-chat" in row.others]
    assert len(rows) == 6
    assert {row.others["tiny-chat"] for row in rows} == {"At 3 bar."}
    assert [row.others["adapter"] for row in rows] == [row.tuned for row in rows]   # the run's own adapter is the tuned model
    assert all("base" in row.others for row in rows)
    assert {call["path"] for call in OneAnswer.asked} == {"/v1/chat/completions"}
    assert {call["authorization"] for call in OneAnswer.asked} == {None}   # nothing that has to be paid for
    assert OneAnswer.asked[0]["messages"][-1]["role"] == "user"
    assert OneAnswer.asked[0]["temperature"] == 0
    report = json.loads((run.out / "eval.json").read_text())
    names = {row["name"] for row in report["rivals"]}
    assert {"tiny-chat", "adapter", "base", "majority", "nearest", "tuned_sampled"} <= names
    found = {verdict["name"]: verdict for verdict in report["verdicts"]}
    assert found["canary_exposure"]["n"] == 3
    assert 0 <= found["canary_exposure"]["estimate"] <= 7
    assert found["forgetting"]["estimate"] is not None


@pytest.mark.local
def test_a_gguf_file_answers_as_the_model_that_it_was_made_of(inputs: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from forge.phases.quantize.gguf_export import export_f16

    export_f16(inputs["base_model"], tmp_path / "tiny.gguf", name="tiny", license="")
    compare = (str(inputs["base_model"]), str(tmp_path / "tiny.gguf"))
    settings = EvalSettings(max_generated=4, max_abstain=1, max_base=0, max_new_tokens=6, max_baseline=0, probes=False, compare=compare, max_compared=4)
    out = run_phase(phase, tmp_path / "run", settings=settings, inputs=inputs).out
    rows = [row for row in read_jsonl(out / "predictions.jsonl", Prediction) if "tiny.gguf" in row.others]
    assert len(rows) == 4
    assert sum(row.others["tiny.gguf"] == row.others["base"] for row in rows) >= 3   # F16 may turn a close call


@pytest.mark.local
def test_baselines_and_probes_can_be_left_out(inputs: dict[str, Path], tmp_path: Path) -> None:
    run = run_phase(phase, tmp_path, settings=EvalSettings(**SETTINGS, max_baseline=0, probes=False), inputs=inputs)
    report = json.loads((run.out / "eval.json").read_text())
    assert {row["name"] for row in report["rivals"]} == {"majority", "nearest"}
    assert "forgetting" not in {verdict["name"] for verdict in report["verdicts"]}


@pytest.mark.local
@pytest.mark.parametrize(("name", "error"), [("/no/such/model", UsageError), ("http://127.0.0.1:9/v1#m", ForgeError)])
def test_a_model_that_cannot_be_asked_is_told(name: str, error: type[ForgeError], inputs: dict[str, Path], tmp_path: Path) -> None:
    settings = EvalSettings(max_generated=2, max_abstain=1, max_base=0, max_new_tokens=4, max_baseline=0, probes=False, compare=(name,))
    with pytest.raises(error):
        run_phase(phase, tmp_path, settings=settings, inputs=inputs)


def test_training_rows_that_were_not_approved_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    paths = make_inputs(tmp_path / "inputs")
    write_jsonl(tmp_path / "changed.jsonl", list(read_jsonl(paths["train"], Example))[1:])
    with pytest.raises(GateFailed, match="train is not the data that was approved"):
        run_phase(phase, tmp_path, inputs={**paths, "train": tmp_path / "changed.jsonl"})


def test_the_search_finds_the_text_that_answers() -> None:
    index = Bm25(["The pump opens at 3 bar.", "The valve is red.", "Pumps and valves are parts."])
    assert index.best("When does the pump open?", 2)[0] == 0
    assert index.best("colour of the valve")[0] == 1
    assert index.best("zebra") == []


def _example(number: int, bucket: str = "fact") -> Example:
    prompt = (Message(role="system", content="Answer."), Message(role="user", content=f"When is pump {number} opened?"))
    return Example(id=f"e{number}", split="train", group=f"g{number}", bucket=bucket, body=Chat(prompt=prompt, completion=(Message(role="assistant", content="At noon."),)))


def test_examples_go_before_the_question_and_as_many_as_fit() -> None:
    shots = FewShot([_example(i, ("fact", "abstain")[i % 2]) for i in range(10)], task, 7)
    turns = shots.ask(_example(99), lambda asked: True)
    assert turns is not None
    assert [turn.role for turn in turns] == ["system", *["user", "assistant"] * 4, "user"]
    fewer = shots.ask(_example(99), lambda asked: len(asked) <= 4)
    assert fewer is not None
    assert len(fewer) == 4
    assert shots.ask(_example(99), lambda asked: False) is None


def test_a_passage_that_does_not_fit_is_cut() -> None:
    passage = Passage(id="p", source=Source(path="a", sha256=""), group="g", text="pump " * 40)
    search = RetrievedPassage([passage], task, lambda text, percent: text[: len(text) * percent // 100])
    turns = search.ask(_example(1), lambda asked: len(asked[-1].content) < 180)
    assert turns is not None
    assert turns[-1].content.endswith("When is pump 1 opened?")
    assert 100 <= turns[-1].content.count("pump ") * 5 <= 160
    assert search.ask(_example(1), lambda asked: False) is None


@pytest.mark.parametrize(
    ("ci", "rows", "said"),
    [((0.1, 0.3), 24, "would not do"), ((-0.3, -0.1), 24, "does better"), ((-0.1, 0.2), 24, "may do"), ((0.1, 0.3), 5, "not measured")],
)
def test_the_report_says_whether_retrieval_would_do(ci: tuple[float, float], rows: int, said: str) -> None:
    row = {"name": "bm25_base", "measure": "token_f1", "theirs": 0.4, "tuned": 0.6, "difference": 0.2, "ci": ci, "rows": rows}
    assert said in retrieval_sentence([row])
    looked_up = {**row, "name": "nearest", "difference": -0.1, "ci": (-0.2, 0.0), "rows": 100}
    assert "most similar trained question" in retrieval_sentence([row, looked_up])   # the search that comes closest counts
    assert "not measured" in retrieval_sentence([])


def test_each_subtopic_has_its_number() -> None:
    rows = [
        Prediction(id=f"p{i}", split="test_recall", group=f"g{i}", prompt=(), gold="At noon.", answerable=True, answer_tokens=3, nll_base=2, nll_tuned=1,
                   tuned="At noon." if i % 2 else "No.", generated=True, subtopic="pumps" if i % 2 else "valves")
        for i in range(8)
    ]  # fmt: skip
    found = {row["subtopic"]: row for row in subtopics(task, rows, "")}
    assert found["pumps"]["value"] == 1.0
    assert found["valves"]["value"] == 0.0
    assert found["pumps"]["rows"] == 4


def test_canaries_are_the_same_for_a_seed_and_their_rivals_have_their_form() -> None:
    assert canary(1, 7) == canary(1, 7)
    assert canary(1, 7) != canary(1, 8)
    answer = canary(1, 7)[1]
    others = rivals(answer, 50, random.Random(1))
    assert len({answer, *others}) == 51
    assert {len(other) for other in others} == {len(answer)}


def test_shape_plants_canaries_in_training_only_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    passages = [Passage(id=f"p{i}", source=Source(path=f"{i}.md", sha256=""), group=f"g{i}", text=f"The pump {i} opens at {i} bar, always.") for i in range(40)]
    pairs = [
        Pair(id=f"q{i}-{form}", bucket="fact", question=f"{asked} pump {i} {'abcdefgh'[i % 8] * (i % 5 + 2)}?", answer=f"At {i} bar.", evidence=f"opens at {i} bar",
             passage=f"p{i}", group=f"g{i}", fact=f"f{i}", form=form)
        for i in range(40) for form, asked in enumerate(("When opens", "Say the pressure of", "What is known of"))
    ]  # fmt: skip
    write_jsonl(tmp_path / "clean.jsonl", passages)
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    given = {"clean": tmp_path / "clean.jsonl", "pairs": tmp_path / "pairs.jsonl"}
    for count in (0, 5):
        out = run_phase(shaping, tmp_path / str(count), settings=ShapeSettings(base="scratch", canaries=count), inputs=given).out
        assert sum(row.bucket == BUCKET for row in read_jsonl(out / "train.jsonl", Example)) == count
        assert read_record(out / "shape.json", DataContract).buckets.get(BUCKET, 0) == count


def test_show_has_a_table_of_rivals_and_one_of_subtopics(tmp_path: Path) -> None:
    rival = {"name": "tfidf", "measure": "accuracy", "theirs": 0.9, "tuned": 0.95, "difference": 0.05, "ci": [0.01, 0.09], "rows": 150}
    report = {"rivals": [rival], "subtopics": [{"subtopic": "pumps", "measure": "accuracy", "rows": 12, "value": 0.9}]}
    (tmp_path / "eval.json").write_text(json.dumps(report), encoding="utf-8")
    found = {table.name: table for table in phase.tables(lambda name: tmp_path / f"{name}.json", dropped=False)}
    assert found["rivals"].rows == (("tfidf", 0.9, 0.95, 0.05, "+0.010 to +0.090", 150),)
    assert found["subtopics"].rows == (("pumps", 0.9, 12),)
