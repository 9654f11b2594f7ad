"""All weights of a small base are tuned, through plan, training, evaluation and export; alone and in two processes.

One chain with real training (8 s), and one training in two processes that import torch (10 s).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, UsageError
from forge.phases.eval import EvalSettings
from forge.phases.eval import phase as evaluate
from forge.phases.plan_fit import phase as plan_fit
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.plan_fit.training import SweepSettings
from forge.phases.quantize import QuantizeSettings
from forge.phases.quantize import phase as quantize
from forge.phases.quantize.merge import refuse_unchanged
from forge.phases.shape import ShapeSettings
from forge.phases.shape import phase as shape
from forge.phases.train import phase as train
from forge.phases.train.ways import GIB, Machine, Shape, choose_way
from forge.records import write_json
from forge.store import hash_path
from forge.testing import PhaseRun, run_phase
from tests.test_phases.planned_world import World, rehearsed
from tests.test_phases.test_known_base import base_folder
from tests.test_phases.test_train_several import Training, known_inputs

pytestmark = pytest.mark.local


class Chain:
    """Shape, plan, training, evaluation and export of one base whose weights are all tuned."""

    def __init__(self, folder: Path) -> None:
        world = World(folder / "world", makers=("Arvo", "Belmar", "Corwin", "Dantec"))
        self.paths, self.folder, self.world = world.write(), folder, world
        self.run("shape", shape, ShapeSettings(base=str(base_folder(folder / "my-llama", "llama"))), "clean", "pairs")
        self.plan(PlanFitSettings(train_minutes=0.05, name="llama-tuned", tuning="full"))
        write_json(folder / "approval.json", {"plan_sha256": hash_path(self.paths["plan"]), "who": "test", "kind": "test"})
        write_json(folder / "machine.json", {"offer": {}, "lease": "test"})
        self.paths |= {"approval": folder / "approval.json", "machine": folder / "machine.json"}
        self.run("train", train)
        self.run("eval", evaluate, EvalSettings(max_generated=4, max_abstain=2, max_base=1, max_new_tokens=8))
        self.run("quantize", quantize, QuantizeSettings(likelihood_rows=4, generated_rows=2))

    def plan(self, settings: PlanFitSettings) -> PhaseRun:
        return self.run("plan_fit", plan_fit, settings, rehearse=rehearsed(), corpus=self.world.folder)

    def run(self, name: str, phase: Any, settings: Any = None, *only: str, **more: Any) -> PhaseRun:
        given = {key: self.paths[key] for key in (only or phase.reads) if key in self.paths}
        done = run_phase(phase, self.folder / name, settings=settings, inputs=given, **more)
        self.paths |= {output.name: done.out / output.path for output in phase.writes if (done.out / output.path).exists()}
        return done

    def json(self, name: str) -> Any:
        return json.loads(self.paths[name].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("full"))


def test_the_plan_says_that_all_weights_are_trained(chain: Chain) -> None:
    plan = chain.json("plan")
    assert plan["tuning"] == "full"
    assert plan["reasons"]["adapter"].startswith("none: plan_fit.tuning=full trains all weights, at ")
    page = chain.paths["plan_page"].read_text(encoding="utf-8") if "plan_page" in chain.paths else (chain.folder / "plan_fit/out/plan.md").read_text(encoding="utf-8")
    assert "- all weights; " in page


def test_what_is_trained_is_a_model_of_its_own_and_every_matrix_has_moved(chain: Chain) -> None:
    from safetensors.torch import load_file

    base, tuned = (load_file(chain.paths[name] / "model.safetensors") for name in ("base_model", "adapter"))
    assert chain.json("train_report")["lora"]["trainable_parameters"] == chain.json("plan")["parameters"]
    assert not (chain.paths["adapter"] / "adapter_config.json").exists()
    assert all(not weight.equal(tuned[name]) for name, weight in base.items() if weight.dim() > 1)


def test_base_and_tuned_model_are_told_apart_and_the_tuned_one_ships_unmerged(chain: Chain) -> None:
    told = chain.json("eval")
    assert "base" in json.dumps(told)
    merge = next(verdict for verdict in chain.json("ship_eval")["verdicts"] if verdict["name"] == "merge_logit_diff")
    assert (merge["outcome"], merge["estimate"]) == ("pass", 0.0)
    assert any(file.suffix == ".gguf" for file in chain.paths["gguf"].iterdir())


def test_weights_that_did_not_move_are_refused(chain: Chain) -> None:
    with pytest.raises(ForgeError, match="the tuned weights are the base's"):
        refuse_unchanged(chain.paths["base_model"], chain.paths["base_model"])


def test_a_sweep_of_adapters_is_refused(chain: Chain) -> None:
    with pytest.raises(UsageError, match="a sweep tries adapters"):
        chain.plan(PlanFitSettings(tuning="full", sweep=SweepSettings(rank=(4, 8))))


def test_two_processes_with_split_weights_tune_as_one(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    paths = known_inputs(tmp_path / "inputs", tuning="full")
    alone, two = Training(tmp_path / "alone", paths).run(), Training(tmp_path / "two", paths, gpus=2, parallel="fsdp").run()
    assert two.losses() == pytest.approx(alone.losses(), abs=1e-3)
    first, second = (load_file(one.folder / "out" / "adapter" / "model.safetensors") for one in (alone, two))
    assert all(weight.allclose(second[name], rtol=1e-2, atol=2e-3) for name, weight in first.items())


def test_a_gpu_tunes_in_bfloat16_and_needs_ten_times_the_memory() -> None:
    small = Shape(1_720_000_000, 2048, 28, 6144, 151936, True, 1_720_000_000)
    ways = choose_way(
        Machine("cuda", "NVIDIA H200", (9, 0), 138 * GIB, True, 7.9e14), small, asked="auto", step_tokens=8000, longest=512, total_tokens=3e6, full=True
    )
    assert (ways[0].precision, ways[0].full) == ("bf16", True)
    with pytest.raises(UsageError, match="frozen base"):
        choose_way(Machine("cuda", "NVIDIA H200", (9, 0), 138 * GIB, True, 7.9e14), small, asked="fp8", step_tokens=8000, longest=512, total_tokens=3e6, full=True)


def test_the_lean_loss_gives_a_trained_head_its_gradient() -> None:
    import torch

    from forge.phases.train.loss import summed_answer_loss

    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(40, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True), torch.randint(0, 50, (40,))
    summed_answer_loss(hidden, weight, targets, 16).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum").backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert torch.allclose(ours[0], hidden.grad, atol=1e-4)
    assert torch.allclose(ours[1], weight.grad, atol=1e-4)
