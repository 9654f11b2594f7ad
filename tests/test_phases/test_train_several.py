"""Several processes train as one would: copies of the base, or a split one; stopped, killed and resumed. Real torchrun, gloo, on the CPU.

Each training starts two processes that import torch (10 s); what they did is asked about in several tests.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge.context import FolderContext, InputFile
from forge.errors import ForgeError, GateFailed, Interrupted, UsageError
from forge.phases.train import TrainSettings, phase
from forge.phases.train.checkpoints import latest_checkpoint
from forge.phases.train.launch import Launch, choose_launch, interface_towards, outcome, read_nodes
from forge.phases.train.shards import holds_shards
from forge.phases.train.ways import GIB
from forge.records import KnownBase, Plan, read_record, write_json
from forge.registry import Registry
from forge.store import hash_path
from forge.testing import CountingMoney
from forge.worker import BUG, Failure
from tests.test_phases.tiny_training import approve, make_inputs

pytestmark = pytest.mark.local
MAKES_STEPS = 8


def known_inputs(folder: Path, **plan: Any) -> dict[str, Path]:
    """The tiny world with a small random Llama as its base."""
    paths = make_inputs(folder)
    shape = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 400, "max_position_embeddings": 128, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0,
    }
    (paths["base_source"] / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    write_json(paths["base_source"] / "base.json", KnownBase(kind="random", name="random"))
    approve(folder, paths, scratch=None, parameters=90_000, **{"lora_steps": MAKES_STEPS, **plan})
    return paths


class Training:
    """The phase on these inputs, as often as it is asked to run in one folder."""

    def __init__(self, folder: Path, inputs: dict[str, Path], **settings: Any) -> None:
        self.folder, self.inputs, self.settings = folder, inputs, TrainSettings(checkpoint_steps=2, log_steps=1, **settings)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def run(self, stop: Callable[[], bool] = lambda: False) -> Training:
        ctx = FolderContext(
            self.folder, run_id="test", seed=7, dry_run=False, writes=phase.writes, registry=Registry(), money=CountingMoney(),
            inputs={name: InputFile(path=str(path), sha256=hash_path(path)) for name, path in self.inputs.items()},
            emit=lambda kind, fields: self.events.append((kind, fields)), stop_requested=stop,
            keep=lambda path: self.events.append(("keep", {"name": path.name})),
        )
        phase.run(self.settings, ctx)
        return self

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "out" / "train.json").read_text())
        return found

    def losses(self) -> list[float]:
        return [loss for _, loss in self.report["lora"]["loss"]]

    def adapter(self) -> dict[str, Any]:
        from safetensors.torch import load_file

        found: dict[str, Any] = load_file(self.folder / "out" / "adapter" / "adapter_model.safetensors")
        return found

    def notices(self) -> str:
        return "\n".join(fields["text"] for kind, fields in self.events if kind == "notice")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return known_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def alone(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("alone"), inputs).run()


@pytest.fixture(scope="module")
def copies(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("copies"), inputs, gpus=2).run()


@pytest.fixture(scope="module")
def split(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(tmp_path_factory.mktemp("split"), inputs, gpus=2, parallel="fsdp").run()


def same(one: Training, other: Training) -> None:
    import torch

    assert one.losses() == pytest.approx(other.losses(), abs=2e-5)
    first, second = one.adapter(), other.adapter()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-2, atol=2e-4, msg=name)


def test_two_processes_with_copies_train_as_one(alone: Training, copies: Training) -> None:
    same(copies, alone)
    assert copies.report["lora"]["val_loss"] == [[step, pytest.approx(loss, abs=1e-3)] for step, loss in alone.report["lora"]["val_loss"]]


def test_two_processes_with_a_split_base_train_as_one(alone: Training, split: Training) -> None:
    same(split, alone)


def test_the_report_and_the_log_say_who_trained_and_why(copies: Training, split: Training) -> None:
    assert copies.report["parallel"] == "2 processes, DDP: each process holds the base"
    assert split.report["parallel"] == "2 processes, FSDP2: train.parallel=fsdp"
    assert copies.report["parallel"] in copies.notices()
    assert copies.report["guards"]["adapter_not_zero"] is True


def test_progress_is_told_once_a_step_and_whole_checkpoints_are_kept(copies: Training) -> None:
    told = [fields["done"] for kind, fields in copies.events if kind == "progress" and fields.get("loss")]
    assert told == list(range(1, MAKES_STEPS + 1))
    kept = [fields["name"] for kind, fields in copies.events if kind == "keep" and fields["name"].startswith("checkpoint")]
    assert kept[0] == "checkpoint-2"


def test_a_split_base_leaves_checkpoints_in_parts(split: Training) -> None:
    found = latest_checkpoint(split.folder / "work" / "lora")
    assert found is not None
    assert found[0] == MAKES_STEPS
    assert holds_shards(found[1])
    assert {"__0_0.distcp", "__1_0.distcp"} <= {file.name for file in found[1].iterdir()}


def rank_process(folder: Path, rank: int) -> int:
    """The id of one of the processes that train in a folder, 0 when it is not there (any more)."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command and b"forge.phases.train.ranks" in command and f"\0RANK={rank}\0".encode() in b"\0" + environment:
            return int(entry.name)
    return 0


def test_a_process_that_is_killed_ends_all_and_is_named_and_the_rest_is_made_from_the_last_whole_checkpoint(
    split: Training, tmp_path: Path, inputs: dict[str, Path]
) -> None:
    training = Training(tmp_path, inputs, gpus=2, parallel="fsdp")

    def kill() -> None:
        while latest_checkpoint(tmp_path / "work" / "lora") is None:
            time.sleep(0.005)
        os.kill(rank_process(tmp_path, 1), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ForgeError) as error:
        training.run()
    killer.join()
    assert error.value.fact == "training stopped: process 1 (GPU 1) was killed by SIGKILL"
    assert rank_process(tmp_path, 0) == 0

    training.run()
    assert "tuning goes on after step" in training.notices()
    same(training, split)


def test_a_wish_to_stop_saves_the_same_step_everywhere_and_is_gone_on_from(copies: Training, tmp_path: Path, inputs: dict[str, Path]) -> None:
    training = Training(tmp_path, inputs, gpus=2)
    with pytest.raises(Interrupted):
        training.run(stop=lambda: latest_checkpoint(tmp_path / "work" / "lora") is not None)
    found = latest_checkpoint(tmp_path / "work" / "lora")
    assert found is not None
    assert 2 <= found[0] < MAKES_STEPS
    same(training.run(), copies)


def test_a_failure_of_all_is_told_as_one_process_would(tmp_path: Path) -> None:
    paths = known_inputs(tmp_path / "inputs")
    changed = read_record(paths["plan"], Plan)
    approve(tmp_path / "inputs", paths, scratch=None, parameters=90_000, lora=changed.lora.model_copy(update={"max_length": 8}))
    with pytest.raises(ForgeError) as error:
        Training(tmp_path / "run", paths, gpus=2).run()
    assert error.value.fact == "training guard no_truncation failed"


# ---- who trains: decided without starting anything ------------------------------------------------------------------------------


def decided(tmp_path: Path, *, gpus: int = 2, gib: float = 40, parameters: int = 7_600_000_000, **settings: Any) -> Launch:
    plan = read_record(known_inputs(tmp_path / "inputs")["plan"], Plan).model_copy(update={"parameters": parameters})
    base = tmp_path / "base"
    base.mkdir()
    shape = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064}
    (base / "config.json").write_text(json.dumps(shape))
    return choose_launch(plan, TrainSettings(**settings), base, gpus=gpus, memory=lambda: int(gib * GIB))


def test_a_base_that_one_gpu_holds_is_copied_and_a_larger_one_is_split(tmp_path: Path) -> None:
    small, large = decided(tmp_path / "a"), decided(tmp_path / "b", gib=16, precision="bf16")
    assert (small.here, small.how) == (2, "ddp")
    assert small.reason.startswith("2 GPUs, DDP: the base in bf16 needs 1")
    assert (large.how, large.ranks) == ("fsdp", 2)
    assert large.reason.startswith("2 GPUs, FSDP2: one GPU cannot hold the base, split over 2 it needs 1")


def test_a_base_that_fits_in_four_bits_is_copied(tmp_path: Path) -> None:
    assert decided(tmp_path, gib=12).reason.startswith("2 GPUs, DDP: the base in nf4")


def test_a_base_that_all_together_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="does not fit this machine"):
        decided(tmp_path, gib=4)


def test_there_are_no_more_processes_than_examples_in_a_step(tmp_path: Path) -> None:
    assert decided(tmp_path, gpus=8).here == 4


def test_gpus_that_are_not_there_are_refused(tmp_path: Path) -> None:
    plan = read_record(known_inputs(tmp_path / "inputs")["plan"], Plan)
    with pytest.raises(UsageError, match="this machine has 2"):
        choose_launch(plan, TrainSettings(gpus=3), tmp_path, gpus=2, memory=lambda: 0)


def test_a_base_from_scratch_and_a_sweep_use_one(tmp_path: Path) -> None:
    scratch = read_record(make_inputs(tmp_path / "scratch")["plan"], Plan)
    assert choose_launch(scratch, TrainSettings(), tmp_path, gpus=2, memory=lambda: 0) == Launch(reason="one of 2: a base from scratch is small")


def test_machines_that_train_together_are_told_by_the_environment() -> None:
    assert read_nodes({}) == (1, 0, "")
    assert read_nodes({"FORGE_NODES": "2", "FORGE_NODE_RANK": "1", "FORGE_HEAD": "10.0.0.1:29500"}) == (2, 1, "10.0.0.1:29500")
    for half in ({"FORGE_NODES": "2"}, {"FORGE_NODES": "2", "FORGE_NODE_RANK": "2", "FORGE_HEAD": "h:1"}, {"FORGE_NODES": "2", "FORGE_NODE_RANK": "0", "FORGE_HEAD": "h"}):
        with pytest.raises(UsageError, match="FORGE_NODE_RANK and FORGE_HEAD"):
            read_nodes(half)


def test_the_interface_that_leads_to_a_machine_is_found() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no.such.host.invalid") == ""


# ---- what the processes left, and what is made of it ---------------------------------------------------------------------------

SUMMARY = """
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 11)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_20:34:58
  host      : localhost
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: 12)
"""


def left(folder: Path, *, failures: dict[int, Failure], rank: int = 1, code: int = 1, log: str = "") -> Path:
    """The folder of an attempt that failed."""
    for number, failure in failures.items():
        (folder / f"failure-{number}.json").write_text(failure.model_dump_json())
    (folder / "torchrun.log").write_text(SUMMARY.format(rank=rank, code=code))
    for number in (0, 1):
        (folder / f"logs/x/attempt_0/{number}").mkdir(parents=True)
        (folder / f"logs/x/attempt_0/{number}/stderr.log").write_text(log)
    return folder


def test_memory_that_ran_out_on_one_gpu_starts_all_again(tmp_path: Path) -> None:
    left(tmp_path, failures={1: Failure(kind="OutOfMemoryError", fact="CUDA out of memory"), 0: Failure(kind=BUG, fact="connection closed")})
    assert outcome(1, Launch(here=2), tmp_path) is None


def test_what_one_process_raised_is_told_before_what_the_others_saw_of_it(tmp_path: Path) -> None:
    left(tmp_path, failures={1: Failure(kind="GateFailed", fact="the guard"), 0: Failure(kind=BUG, fact="connection closed by peer")})
    with pytest.raises(GateFailed, match="the guard"):
        outcome(1, Launch(here=2), tmp_path)


def test_a_process_that_crashed_is_named_with_what_it_said(tmp_path: Path) -> None:
    left(tmp_path, failures={0: Failure(kind=BUG, fact="RuntimeError: connection closed"), 1: Failure(kind=BUG, fact="ValueError: a broken row")})
    with pytest.raises(ForgeError, match=r"process 1 \(GPU 1\) ended with code 1") as error:
        outcome(1, Launch(here=2), tmp_path)
    assert error.value.why == "ValueError: a broken row"


def test_a_process_that_died_without_a_word_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    left(tmp_path, failures={0: Failure(kind=BUG, fact="RuntimeError: connection closed")}, rank=1, code=-9, log="\n".join(f"line {n}" for n in range(40)))
    with pytest.raises(ForgeError, match=r"process 1 \(GPU 1\) was killed by SIGKILL") as error:
        outcome(1, Launch(here=2), tmp_path)
    assert error.value.why.endswith("line 38 | line 39")
