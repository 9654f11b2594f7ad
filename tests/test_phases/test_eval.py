"""eval on a tiny world, for real: both models asked about every row, the same bytes wherever it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from forge.context import FolderContext, InputFile
from forge.errors import ArtifactDamaged, GateFailed, Interrupted
from forge.phases.eval import EvalSettings, phase
from forge.phases.eval.models import Models
from forge.phases.eval.report import summarize
from forge.phases.eval.select import stratified
from forge.phases.train import phase as train
from forge.protocols import Prediction
from forge.records import Chat, Example, Message, Verdict, read_jsonl, write_jsonl
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney, run_phase
from tests.test_phases.tiny_training import ENDLESS, make_inputs

SETTINGS = EvalSettings(max_generated=6, max_abstain=3, max_base=2, max_new_tokens=12)
QUESTION = (Message(role="system", content="Answer from the manual."), Message(role="user", content="When is the AquaLine pump opened?"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    paths = make_inputs(folder / "inputs", steps=30, lora_steps=30)
    out = run_phase(train, folder, inputs=paths).out
    return {**paths, "base_model": out / "base", "adapter": out / "adapter"}


@pytest.fixture(scope="module")
def straight(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_phase(phase, tmp_path_factory.mktemp("eval"), settings=SETTINGS, inputs=inputs).out


@pytest.fixture(scope="module")
def models(inputs: dict[str, Path]) -> Models:
    return Models(inputs["base_model"], inputs["adapter"], threads=1, precision="fp32")


def run_until(folder: Path, inputs: dict[str, Path], stop: Callable[[], bool]) -> Path:
    ctx = FolderContext(
        folder, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
        inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in inputs.items()},
        emit=lambda kind, fields: None, stop_requested=stop,
    )  # fmt: skip
    try:
        phase.run(SETTINGS, ctx)
    finally:
        ctx.close()
    return ctx.out


@pytest.mark.local
def test_every_test_row_has_a_likelihood_and_a_sample_has_answers(straight: Path) -> None:
    rows = list(read_jsonl(straight / "predictions.jsonl", Prediction))
    assert {row.split: sum(other.split == row.split for other in rows) for row in rows} == {
        "test_recall": 12, "test_unseen": 4, "test_abstain": 4,
    }
    assert all(row.nll_base > 0 and row.nll_tuned > 0 and row.answer_tokens > 1 for row in rows)
    assert [row.generated for row in rows].count(True) == 6 + 4 + 3
    assert [bool(row.base) for row in rows].count(True) <= 2
    assert all(row.tuned == "" for row in rows if not row.generated)


@pytest.mark.local
def test_the_report_says_what_was_measured(straight: Path) -> None:
    report = json.loads((straight / "eval.json").read_text())
    assert report["counts"]["test_recall"] == 12
    assert report["counts"]["test_recall_generated"] == 6
    assert report["quality"] in ("fail", "undecided")  # 12 items never pass
    assert report["headline"].count("\n") == 0
    assert {verdict["name"] for verdict in report["verdicts"]} >= {"recall_nll_gain", "abstention_recall", "over_refusal", "name_fidelity"}


@pytest.mark.local
def test_tuning_made_the_answers_likelier(straight: Path) -> None:
    rows = [row for row in read_jsonl(straight / "predictions.jsonl", Prediction) if row.split == "test_recall"]
    assert sum(row.nll_tuned for row in rows) < sum(row.nll_base for row in rows)


@pytest.mark.local
@pytest.mark.parametrize("call", [2, 4, 5])
def test_a_stopped_evaluation_goes_on_to_the_same_bytes(call: int, straight: Path, inputs: dict[str, Path], tmp_path: Path) -> None:
    calls = count(1)
    with pytest.raises(Interrupted):
        run_until(tmp_path, inputs, lambda: next(calls) == call)
    finished = (tmp_path / "work/batches.journal").read_bytes()
    out = run_until(tmp_path, inputs, lambda: False)
    assert (tmp_path / "work/batches.journal").read_bytes().startswith(finished)
    assert finished.count(b"\n") == call - 1
    for name in ("eval.json", "predictions.jsonl"):
        assert (out / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.local
def test_a_likelihood_does_not_depend_on_the_rows_beside_it(models: Models) -> None:
    rows = [models.encode(QUESTION, answer) for answer in ("At 2 bar.", "At 3 bar and then at 4 bar, slowly.", "Yes.")]
    together = models.answer_losses(rows, "tuned")
    alone = [models.answer_losses([row], "tuned")[0] for row in rows]
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.local
def test_a_likelihood_is_the_models_own_loss_on_answer_and_end_of_turn(models: Models) -> None:
    import torch

    row = models.encode(QUESTION, "At 2 bar.")
    assert models.tokenizer.decode(row.answer) == "At 2 bar.<|im_end|>"
    ids = torch.tensor([[*row.prompt, *row.answer]])
    labels = torch.tensor([[-100] * len(row.prompt) + list(row.answer)])
    with torch.no_grad():
        expected = float(models.model(input_ids=ids, labels=labels).loss) * len(row.answer)
    assert models.answer_losses([row], "tuned") == pytest.approx([expected], rel=1e-4)


@pytest.mark.local
def test_the_base_is_asked_without_the_adapter(models: Models, inputs: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    row = models.encode(QUESTION, "At 2 bar.")
    plain = AutoModelForCausalLM.from_pretrained(inputs["base_model"])
    with torch.no_grad():
        logits = plain(torch.tensor([[*row.prompt, *row.answer]])).logits[0].log_softmax(-1)
    expected = -sum(float(logits[len(row.prompt) - 1 + i, token]) for i, token in enumerate(row.answer))
    assert models.answer_losses([row], "base") == pytest.approx([expected], rel=1e-4)
    assert models.answer_losses([row], "base") != models.answer_losses([row], "tuned")


@pytest.mark.local
def test_generation_is_greedy_and_stops_at_the_end_of_the_turn(models: Models) -> None:
    import torch

    row = models.encode(QUESTION, "At 2 bar.")
    ids = list(row.prompt)
    with torch.no_grad():
        for _ in range(40):
            ids.append(int(models.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == models.tokenizer.eos_token_id:
                break
    text = models.tokenizer.decode(ids[len(row.prompt) :], skip_special_tokens=True)
    other = models.encode((*QUESTION[:1], Message(role="user", content="Why?")), "So.")  # shorter: the batch is padded
    answer = models.generate([row, other], "tuned", 40)[0]
    assert answer.text == text
    assert answer.finished == (ids[-1] == models.tokenizer.eos_token_id)
    assert not models.generate([row], "tuned", 1)[0].finished


@pytest.mark.local
def test_a_template_that_ends_no_turn_cannot_be_measured(inputs: dict[str, Path], models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.tokenizer, "chat_template", ENDLESS)
    with pytest.raises(ArtifactDamaged, match="does not end an answer"):
        models.encode(QUESTION, "At 2 bar.")


@pytest.mark.local
def test_a_dry_run_generates_little(inputs: dict[str, Path], tmp_path: Path) -> None:
    out = run_phase(phase, tmp_path, settings=EvalSettings(max_base=1), inputs=inputs, dry_run=True).out
    counts = json.loads((out / "eval.json").read_text())["counts"]
    assert [counts[f"{test}_generated"] for test in ("test_recall", "test_unseen", "test_abstain")] == [8, 4, 4]


def test_a_test_that_was_not_approved_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    paths = make_inputs(tmp_path / "inputs")
    write_jsonl(tmp_path / "changed.jsonl", list(read_jsonl(paths["test_recall"], Example))[1:])
    with pytest.raises(GateFailed, match="test_recall is not the test that was approved"):
        run_phase(phase, tmp_path, inputs={**paths, "test_recall": tmp_path / "changed.jsonl"})


def _example(number: int, bucket: str) -> Example:
    body = Chat(prompt=QUESTION, completion=(Message(role="assistant", content="Yes."),))
    return Example(id=f"e{number:03}", split="test_recall", group="g", bucket=bucket, body=body)


def test_the_sample_takes_from_every_bucket_and_grows_with_its_cap() -> None:
    examples = [_example(i, "rare" if i % 10 == 0 else "common") for i in range(100)]
    small, large = stratified(examples, 10, seed=7), stratified(examples, 30, seed=7)
    assert sum(example.bucket == "rare" for example in small) == 5
    assert {example.id for example in small} <= {example.id for example in large}
    assert stratified(examples[::-1], 10, seed=7) == small
    assert stratified(examples, 10, seed=8) != small
    assert stratified([], 10, seed=7) == []


@pytest.mark.parametrize(
    ("outcomes", "quality"),
    [(["pass", "pass"], "pass"), (["pass", "undecided"], "undecided"), (["fail", "undecided"], "fail"), ([], "undecided")],
)
def test_quality_is_the_worst_of_what_is_judged(outcomes: list[str], quality: str) -> None:
    verdicts = [Verdict(name=str(i), estimate=1.0, outcome=outcome) for i, outcome in enumerate(outcomes)]
    told = Verdict(name="told", estimate=1.0, outcome="undecided", kind="info")
    assert summarize([*verdicts, told], [], "Well.\n\n| table |")["quality"] == quality
    assert summarize([*verdicts, told], [], "Well.\n\n| table |")["headline"] == "Well."
