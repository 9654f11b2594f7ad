"""publish: what lands in the hub, what is refused, and that a kill or a second run changes nothing."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forge.errors import ArtifactDamaged, ForgeError, GateFailed, UsageError
from forge.phases.publish import PublishSettings, phase
from forge.phases.publish.hub_folder import FolderHub, copy_files, list_files, read_sums, verify
from forge.records import Verdict, read_record, write_json
from forge.testing import PhaseRun, run_phase
from tests.servers.model_hub import ModelHub
from tests.test_phases.finished_run import ABSTENTION, MODELFILE, NAME, VERDICTS, finished_run, made_plan

FAILED_PARITY = Verdict(name="token_parity", estimate=0.9, n=120, threshold=1.0, outcome="fail", kind="integrity", evidence="12 differ")
UNDECIDED = Verdict(name="recall_nll_gain", estimate=0.01, ci=(-0.1, 0.2), n=9, threshold=0.05, outcome="undecided")


def publish(tmp_path: Path, inputs: dict[str, Path], **settings: Any) -> PhaseRun:
    given = {name: inputs[name] for name in phase.reads if name in inputs}
    return run_phase(phase, tmp_path / "run", settings=PublishSettings(try_snippets=False, hub_dir=str(tmp_path / "hub"), **settings), inputs=given)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def first_line(card: str) -> str:
    return card.split("\n---\n\n", 1)[1].splitlines()[0]


def test_a_model_is_published_with_its_card_its_files_and_their_sums(tmp_path: Path) -> None:
    run = publish(tmp_path, finished_run(tmp_path / "art"))
    model = tmp_path / "hub" / NAME
    assert {file.path for file in list_files(model)} == {
        "README.md", "NOTICE", "Modelfile", "template", "system", "params", "SHA256SUMS", "eval.json", "ship-eval.json", "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja",
        "model.safetensors", f"gguf/{NAME}-F16.gguf", f"gguf/{NAME}-Q8_0.gguf", f"gguf/{NAME}-Q4_K_M.gguf",
    }
    assert (run.out / "README.md").read_bytes() == (model / "README.md").read_bytes()
    record = json.loads((run.out / "publication.json").read_text(encoding="utf-8"))
    assert record["name"] == NAME
    assert record["quality"] == "pass"
    assert {file["path"]: file["sha256"] for file in record["files"] if file["path"] != "SHA256SUMS"} == read_sums(model)
    assert first_line((model / "README.md").read_text(encoding="utf-8")) == f"# {NAME}"


def test_only_allowed_files_are_published(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    (inputs["model"] / "state.db").write_bytes(b"x")
    (inputs["gguf"] / "unmeasured-Q2_K.gguf").write_bytes(b"x")
    publish(tmp_path, inputs)
    model = tmp_path / "hub" / NAME
    names = {path.name for path in model.rglob("*")}
    assert not names & {"state.db", "training_args.bin", "unmeasured-Q2_K.gguf"}
    assert not (model / "adapter" / "README.md").exists()
    assert json.loads((model / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"] == "scratch"
    assert "answers" not in json.loads((model / "ship-eval.json").read_text(encoding="utf-8")), "they quote the corpus"


def test_the_card_says_what_each_file_answers_and_which_is_not_published(tmp_path: Path) -> None:
    run = publish(tmp_path, finished_run(tmp_path / "art"))
    card = (run.out / "README.md").read_text(encoding="utf-8")
    assert "| measure | threshold | F16 | Q8_0 | Q4_K_M | Q5_K_M, not published |" in card
    assert "| abstention_recall | 0.9 | 0.97 (0.95 to 0.99) pass | 0.96 (0.94 to 0.98) pass | 0.93 (0.91 to 0.95) pass | 0.41 (0.39 to 0.43) fail |" in card
    assert "| ppl_ratio | 1.1 | reference | 1.0004 (" in card
    assert "F16 40, Q8_0 64, Q4_K_M 40, Q5_K_M 40" in card
    assert "- Q5_K_M" not in card


def test_the_adapter_for_llama_cpp_is_published_when_it_was_made(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(base="harbour/base", base_license="mit"))
    file = inputs["gguf"] / f"{NAME}-lora-F16.gguf"
    file.write_bytes(b"GGUF adapter")
    report = json.loads(inputs["ship_eval"].read_text(encoding="utf-8"))
    report["lora"] = {"name": file.name, "bytes": 12, "sha256": sha256(b"GGUF adapter").hexdigest(), "rank": 8, "difference": 0.001}
    write_json(inputs["ship_eval"], report)
    publish(tmp_path, inputs)
    model = tmp_path / "hub" / NAME
    assert (model / "adapter" / file.name).read_bytes() == b"GGUF adapter"
    assert f"--lora adapter/{file.name}" in (model / "README.md").read_text(encoding="utf-8")
    file.write_bytes(b"another one!")
    with pytest.raises(ArtifactDamaged, match="not the file that was measured"):
        publish(tmp_path / "again", inputs)


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    publish(tmp_path, inputs)
    before = snapshot(tmp_path / "hub")
    out = snapshot(tmp_path / "run" / "out")
    publish(tmp_path, inputs)
    assert snapshot(tmp_path / "hub") == before
    assert snapshot(tmp_path / "run" / "out") == out


@pytest.mark.parametrize("step", range(12))
def test_a_kill_at_any_point_leaves_a_whole_model_and_a_resume_the_same_bytes(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    old = finished_run(tmp_path / "old", headline="The old one.")
    publish(tmp_path, old)
    inputs = finished_run(tmp_path / "art")
    reference = tmp_path / "reference"
    publish(reference, old)
    publish(reference, inputs)

    done = iter(range(100))

    def dies(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(done) == step:
                raise Killed
            return original(*args, **kwargs)
        return call

    with monkeypatch.context() as patch:
        for owner, name in ((shutil, "rmtree"), (shutil, "copyfile"), (Path, "rename"), (Path, "write_text")):
            patch.setattr(owner, name, dies(getattr(owner, name)))
        with pytest.raises(Killed):
            publish(tmp_path, inputs)
    if (tmp_path / "hub" / NAME).exists():
        verify(tmp_path / "hub" / NAME)
    publish(tmp_path, inputs)
    assert snapshot(tmp_path / "hub") == snapshot(reference / "hub")


def test_another_model_of_that_name_is_kept_as_previous(tmp_path: Path) -> None:
    publish(tmp_path, finished_run(tmp_path / "old", headline="The old one."))
    publish(tmp_path, finished_run(tmp_path / "new"))
    assert "The old one." in (tmp_path / "hub" / f"{NAME}.previous" / "README.md").read_text(encoding="utf-8")
    verify(tmp_path / "hub" / f"{NAME}.previous")


def test_a_folder_that_we_did_not_publish_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / "hub" / NAME
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UsageError, match="not a model that was published"):
        publish(tmp_path, finished_run(tmp_path / "art"))
    assert snapshot(mine) == {"thesis.txt": b"years of work"}


def test_a_name_cannot_leave_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="cannot be a folder name"):
        FolderHub(tmp_path).staging("../escape")


def test_a_damaged_copy_is_noticed_when_it_is_read_back(tmp_path: Path) -> None:
    hub = FolderHub(tmp_path)
    staged = hub.staging("m")
    copy_files({"README.md": "hello"}, staged)
    hub.publish("m", staged)
    (tmp_path / "m" / "README.md").write_text("other", encoding="utf-8")
    with pytest.raises(ArtifactDamaged, match="README"):
        verify(tmp_path / "m")


def test_a_dry_run_publishes_into_its_own_folder(tmp_path: Path) -> None:
    run = publish(tmp_path, finished_run(tmp_path / "art", plan=made_plan(dry_run=True)))
    assert not (tmp_path / "hub").exists()
    assert (tmp_path / "run" / "work" / "hub" / NAME / "README.md").is_file()
    assert first_line((run.out / "README.md").read_text(encoding="utf-8")) == "> **Rehearsal, not a usable model.**"


# --- gates -----------------------------------------------------------------------------------------------------


def refused(tmp_path: Path, inputs: dict[str, Path], match: str, **settings: Any) -> None:
    with pytest.raises(GateFailed, match=match) as caught:
        publish(tmp_path, inputs, **settings)
    assert caught.value.exit_code == 6
    assert not (tmp_path / "hub" / NAME).exists(), "nothing may be published"


@pytest.mark.parametrize("quality", ["fail", "undecided"])
def test_a_model_not_shown_to_be_better_is_published_here_with_that_in_its_first_line(tmp_path: Path, quality: str) -> None:
    doubt = UNDECIDED.model_copy(update={"outcome": quality})
    inputs = finished_run(tmp_path / "art", verdicts=[doubt], quality=quality, headline="The gain is within the noise")
    card = (publish(tmp_path, inputs).out / "README.md").read_text(encoding="utf-8")
    word = {"fail": "failed"}.get(quality, quality)
    told = f"Not shown to be better than its base (recall_nll_gain {word}): The gain is within the noise."
    assert first_line(card) == f"> **{told}**"


def test_a_better_model_that_invents_answers_is_not_called_worse_than_its_base(tmp_path: Path) -> None:
    inventive = Verdict(name="abstention_recall", estimate=0.4, ci=(0.3, 0.5), n=40, threshold=0.9, outcome="fail")
    inputs = finished_run(tmp_path / "art", verdicts=[VERDICTS[0], inventive], quality="fail", headline="It is 0.41 nats better.")
    card = (publish(tmp_path, inputs).out / "README.md").read_text(encoding="utf-8")
    assert first_line(card) == "> **Not shown to be good enough (abstention_recall failed): It is 0.41 nats better.**"


def test_a_failed_verdict_outweighs_a_report_that_says_pass(tmp_path: Path) -> None:
    run = publish(tmp_path, finished_run(tmp_path / "art", verdicts=[UNDECIDED], quality="pass"))
    assert run.metrics["quality"] == "undecided"


def test_nothing_measured_is_undecided_and_the_card_says_not_evaluated(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art", verdicts=[], ship_verdicts=[], headline="")
    write_json(inputs["eval"], {})
    card = (publish(tmp_path, inputs).out / "README.md").read_text(encoding="utf-8")
    assert "not evaluated" in first_line(card)
    assert "| not evaluated | not evaluated |" in card


def test_failed_parity_is_refused_even_here(tmp_path: Path) -> None:
    refused(tmp_path, finished_run(tmp_path / "art", parity="fail"), "may not be published")


def test_a_failed_integrity_verdict_is_refused_even_with_a_reason(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art", ship_verdicts=[FAILED_PARITY])
    refused(tmp_path, inputs, "may not be published", publish_anyway="I like it")


def test_a_model_of_unproven_quality_leaves_the_machine_only_with_a_reason(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(visibility="public"), quality="undecided", headline="Too few rows")
    refused(tmp_path, inputs, "quality is undecided", license="apache-2.0")
    card = (publish(tmp_path, inputs, license="apache-2.0", publish_anyway="for the workshop").out / "README.md").read_text(encoding="utf-8")
    assert "Published anyway: for the workshop." in first_line(card)


def test_unmeasured_parity_never_leaves_the_machine(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(visibility="private"), parity="undecided")
    refused(tmp_path, inputs, "integrity check could not be measured", license="mit", publish_anyway="hurry")


def test_a_model_without_a_licence_never_leaves_the_machine(tmp_path: Path) -> None:
    refused(tmp_path, finished_run(tmp_path / "art", plan=made_plan(visibility="public")), "no licence")


def test_a_laxer_licence_than_the_base_is_refused(tmp_path: Path) -> None:
    plan = made_plan(base="Qwen/Qwen2.5-3B", base_license="qwen-research")
    refused(tmp_path, finished_run(tmp_path / "art", plan=plan), "is under qwen-research", license="apache-2.0")


def test_a_llama_derivative_must_bear_the_name(tmp_path: Path) -> None:
    plan = made_plan(base="meta-llama/Llama-3.2-1B", base_license="llama3.2")
    refused(tmp_path, finished_run(tmp_path / "art", plan=plan), "begins with")


LLAMA = {"base": "meta-llama/Llama-3.2-1B", "base_license": "llama3.2", "name": "llama-handbook", "visibility": "public"}


def base_with(tmp_path: Path, **texts: str) -> Path:
    """A base-source whose base brought these files of its licence."""
    (tmp_path / "base-source" / "legal").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "base-source" / "legal" / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return tmp_path / "base-source"


def test_a_llama_derivative_leaves_with_the_agreement_the_notice_and_built_with_llama(tmp_path: Path) -> None:
    plan = made_plan(**LLAMA)
    inputs = finished_run(tmp_path / "art", plan=plan, modelfile=MODELFILE.replace(NAME, "llama-handbook"))
    with pytest.raises(GateFailed, match="licence is missing") as caught:
        publish(tmp_path, inputs)
    assert "publish.license_file" in caught.value.next
    inputs["base_source"] = base_with(tmp_path, LICENSE_txt="LLAMA 3.2 COMMUNITY LICENSE AGREEMENT", NOTICE="Llama's own notice")
    publish(tmp_path, inputs)
    model = tmp_path / "hub" / "llama-handbook"
    notice = (model / "NOTICE").read_text(encoding="utf-8")
    assert "Built with Llama." in notice
    assert "Llama 3.2 is licensed under the Llama 3.2 Community License" in notice
    assert (model / "LICENSE.txt").read_text(encoding="utf-8").startswith("LLAMA 3.2")
    assert (model / "NOTICE.base").exists()


def test_a_licence_text_of_ones_own_is_shipped(tmp_path: Path) -> None:
    (tmp_path / "agreement.txt").write_text("GEMMA TERMS", encoding="utf-8")
    plan = made_plan(base="google/gemma-3-1b-it", base_license="gemma", visibility="public")
    publish(tmp_path, finished_run(tmp_path / "art", plan=plan), license_file=str(tmp_path / "agreement.txt"))
    model = tmp_path / "hub" / NAME
    assert (model / "LICENSE").read_text(encoding="utf-8") == "GEMMA TERMS"
    notice = (model / "NOTICE").read_text(encoding="utf-8")
    assert "subject to the Gemma Terms of Use" in notice
    assert "use restrictions" in notice
    with pytest.raises(UsageError, match="cannot be read"):
        publish(tmp_path / "again", finished_run(tmp_path / "art", plan=plan), license_file=str(tmp_path / "nothing.txt"))


def test_qwen_2_5_3b_is_not_apache(tmp_path: Path) -> None:
    from forge.config import load_data

    assert load_data("models")["bases"]["Qwen/Qwen2.5-3B-Instruct"]["license"] == "qwen-research"
    plan = made_plan(base="Qwen/Qwen2.5-3B-Instruct", base_license="qwen-research", visibility="private")
    inputs = {**finished_run(tmp_path / "art", plan=plan), "base_source": base_with(tmp_path, LICENSE="QWEN RESEARCH")}
    publish(tmp_path, inputs)
    model = tmp_path / "hub" / NAME
    assert "license_name: qwen-research" in (model / "README.md").read_text(encoding="utf-8")
    assert "Not for commercial use." in (model / "NOTICE").read_text(encoding="utf-8")


def test_a_base_of_unknown_licence_is_refused_everywhere(tmp_path: Path) -> None:
    refused(tmp_path, finished_run(tmp_path / "art", plan=made_plan(base="somebody/model", base_license="")), "is not known", license="mit")


@pytest.mark.parametrize("source", ["teacher", "documents"])
def test_terms_that_no_program_can_judge_wait_for_a_person(tmp_path: Path, source: str) -> None:
    plan = made_plan(visibility="public", teacher="anthropic" if source == "teacher" else "offline")
    inputs = finished_run(tmp_path / "art", plan=plan)
    if source == "documents":
        text = inputs["documents"].read_text(encoding="utf-8").replace("CC-BY-4.0", "CC-BY-NC-4.0")
        inputs["documents"].write_text(text, encoding="utf-8")
    refused(tmp_path, inputs, "a person has to decide about terms", license="mit")
    card = (publish(tmp_path, inputs, license="mit", terms="Our counsel looked at them on 2026-11-20.").out / "README.md").read_text(encoding="utf-8")
    assert "and did: *Our counsel looked at them on 2026-11-20.*" in card


def test_a_teacher_whose_terms_nobody_decided_on_stops_a_run_for_a_hub_before_it_starts(far_hub: ModelHub) -> None:
    def section(name: str) -> Any:
        return {
            "plan_fit": SimpleNamespace(hub="huggingface", visibility="private", name=""), "publish": PublishSettings(),
            "synth": SimpleNamespace(teacher="openai_compatible"),
        }[name]

    from forge.plugins.hubs.huggingface import hub

    with pytest.raises(UsageError, match="teacher's terms") as caught:
        phase.access(section, lambda kind, name: hub, None)
    assert "publish.terms" in caught.value.next


def test_a_hub_that_is_not_here_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='no hub "nowhere"'):
        publish(tmp_path, finished_run(tmp_path / "art", plan=made_plan(hub="nowhere", visibility="private")), license="mit")
    assert not (tmp_path / "hub").exists()


def test_restrictive_licences_of_documents_are_said(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    text = inputs["documents"].read_text(encoding="utf-8").replace("CC-BY-4.0", "CC-BY-NC-4.0")
    inputs["documents"].write_text(text, encoding="utf-8")
    card = (publish(tmp_path, inputs).out / "README.md").read_text(encoding="utf-8")
    assert "Documents with these stated licences were read: CC-BY-NC-4.0." in card


def test_a_licence_that_the_plan_names_is_shipped_in_full(tmp_path: Path) -> None:
    publish(tmp_path, finished_run(tmp_path / "art", plan=made_plan(base_license="apache-2.0")))
    text = (tmp_path / "hub" / NAME / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert len(text) > 10_000


def test_a_plan_changed_after_approval_is_refused(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    write_json(inputs["plan"], read_record(inputs["plan"], type(made_plan())).model_copy(update={"seed": 8}))
    refused(tmp_path, inputs, "not the one that was approved")


def test_data_changed_after_approval_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, finished_run(tmp_path / "art", plan=made_plan(data={"audit": "0" * 64})), "audit changed")


def test_a_file_that_was_not_the_measured_one_is_refused(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    file = inputs["gguf"] / f"{NAME}-Q8_0.gguf"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactDamaged, match="not the file that was measured"):
        publish(tmp_path, inputs)


def test_undo_removes_an_unfinished_copy_and_leaves_the_model(tmp_path: Path) -> None:
    inputs = finished_run(tmp_path / "art")
    publish(tmp_path, inputs)
    hub = FolderHub(tmp_path / "hub")
    hub.staging(NAME)
    hub.discard(NAME)
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [".lock", ".slm-forge", NAME]


def test_the_card_quotes_the_abstention_sentence(tmp_path: Path) -> None:
    card = (publish(tmp_path, finished_run(tmp_path / "art")).out / "README.md").read_text(encoding="utf-8")
    assert f"```text\n{ABSTENTION}\n```" in card


def test_a_model_that_passed_goes_to_the_hub_of_the_plan_and_stays_in_the_folder(tmp_path: Path, far_hub: ModelHub) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(hub="huggingface", visibility="public"))
    run = publish(tmp_path, inputs, license="mit")
    local = snapshot(tmp_path / "hub" / NAME)
    there = far_hub.repos[f"ann/{NAME}"]
    assert {path: far_hub.blobs[sha] for path, sha in there.at("main")[1].items() if path != ".gitattributes"} == local
    assert not there.private
    record = json.loads((run.out / "publication.json").read_text(encoding="utf-8"))
    assert record["remote"]["url"] == run.metrics["published"] == f"{far_hub.url}/ann/{NAME}"
    assert there.tags[record["remote"]["tag"]] == record["remote"]["commit"]


@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        ({"quality": "fail"}, {"license": "mit"}, "quality is fail"),
        ({}, {}, "no licence"),
        ({"parity": "skipped"}, {"license": "mit"}, "could not be measured"),
    ],
)
def test_what_is_not_shown_to_be_good_never_reaches_the_hub(
    tmp_path: Path, far_hub: ModelHub, changes: dict[str, str], settings: dict[str, str], words: str
) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(hub="huggingface", visibility="private"), **changes)  # type: ignore[arg-type]
    with pytest.raises(GateFailed, match=words):
        publish(tmp_path, inputs, **settings)
    assert not far_hub.writes


def test_a_hub_needs_a_plan_that_lets_the_model_leave(tmp_path: Path, far_hub: ModelHub) -> None:
    inputs = finished_run(tmp_path / "art", plan=made_plan(hub="huggingface", visibility="local"))
    with pytest.raises(UsageError, match="nothing leaves this machine"):
        publish(tmp_path, inputs)
    assert not far_hub.writes


def test_a_rehearsal_sends_nothing(tmp_path: Path, far_hub: ModelHub) -> None:
    publish(tmp_path, finished_run(tmp_path / "art", plan=made_plan(hub="huggingface", visibility="public", dry_run=True)), license="mit")
    assert not far_hub.writes
