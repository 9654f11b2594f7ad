"""A base that somebody else trained, from its folder to files that are proven to be the tuned model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, MissingAccess, UsageError
from forge.phases.eval import EvalSettings
from forge.phases.eval import phase as evaluate
from forge.phases.plan_fit import phase as plan_fit
from forge.phases.plan_fit.settings import PlanFitSettings
from forge.phases.quantize import QuantizeSettings
from forge.phases.quantize import phase as quantize
from forge.phases.shape import ShapeSettings
from forge.phases.shape import phase as shape
from forge.phases.shape.bases import count_parameters, explain, find_base
from forge.phases.shape.own_tokenizer import OwnTokenizer
from forge.phases.train import phase as train
from forge.records import DataContract, KnownBase, Message, Plan, read_record, write_json
from forge.store import hash_path
from forge.testing import PhaseRun, run_phase
from tests.test_phases.planned_world import World, rehearsed
from tests.test_phases.tiny_llama import MARKERS, TEMPLATE, config, random_model

pytestmark = pytest.mark.local
ASK = (Message(role="system", content="Answer."), Message(role="user", content="When?"))
CARD = "---\nlicense: apache-2.0\n---\n# a base\n"


def base_folder(folder: Path, kind: str, *, template: str = TEMPLATE, eos: str = MARKERS[2], **changes: Any) -> Path:
    """A small random model as somebody saved it; without a template, as pretrained models come."""
    random_model(folder, kind, max_position_embeddings=512, **changes)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**settings, "eos_token": eos})
    return folder


class Chain:
    """Shape, plan, training, evaluation and export of one base, on a small world."""

    def __init__(self, folder: Path, base: Path) -> None:
        world = World(folder / "world", makers=("Arvo", "Belmar", "Corwin", "Dantec"))
        self.paths, self.folder = world.write(), folder
        self.run("shape", shape, ShapeSettings(base=str(base)), "clean", "pairs")
        self.run("plan_fit", plan_fit, PlanFitSettings(train_minutes=0.05, name="llama-tuned"), rehearse=rehearsed(), corpus=world.folder)
        write_json(folder / "approval.json", {"plan_sha256": hash_path(self.paths["plan"]), "who": "test", "kind": "test"})
        write_json(folder / "machine.json", {"offer": {}, "lease": "test"})
        self.paths |= {"approval": folder / "approval.json", "machine": folder / "machine.json"}
        self.trained = self.run("train", train)
        self.run("eval", evaluate, EvalSettings(max_generated=4, max_abstain=2, max_base=1, max_new_tokens=8))
        self.shipped = self.run("quantize", quantize, QuantizeSettings(likelihood_rows=4, generated_rows=2))

    def run(self, name: str, phase: Any, settings: Any = None, *only: str, **more: Any) -> PhaseRun:
        given = {key: self.paths[key] for key in (only or phase.reads) if key in self.paths}
        done = run_phase(phase, self.folder / name, settings=settings, inputs=given, **more)
        self.paths |= {output.name: done.out / output.path for output in phase.writes if (done.out / output.path).exists()}
        return done

    def json(self, name: str) -> Any:
        return json.loads(self.paths[name].read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["llama with its own template", "qwen2 without a template"])
def chain(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("known")
    if request.param.startswith("llama"):
        yield Chain(folder, base_folder(folder / "my-llama", "llama"))
    else:
        yield Chain(folder, base_folder(folder / "my-qwen", "qwen2", pre="qwen2", template="", eos=MARKERS[0], tie_word_embeddings=False))


def test_the_plan_names_the_base_with_its_licence_and_real_size(chain: Chain) -> None:
    from transformers import AutoModelForCausalLM

    plan, contract = read_record(chain.paths["plan"], Plan), read_record(chain.paths["shape"], DataContract)
    model = AutoModelForCausalLM.from_pretrained(chain.paths["base_model"])
    assert (plan.base, plan.base_license, plan.scratch) == (contract.base, "apache-2.0", None)
    assert plan.parameters == sum(weight.numel() for weight in model.parameters())
    assert plan.data["base_source"] == hash_path(chain.paths["base_source"])
    assert str(chain.folder) not in chain.paths["plan"].read_text() + chain.paths["shape"].read_text()


def test_the_weights_stay_the_bases_and_only_the_adapter_is_new(chain: Chain) -> None:
    source, base = chain.paths["base_source"], chain.paths["base_model"]
    assert (source / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    report = chain.json("train_report")
    assert report["guards"]["eos_in_labels"] is report["guards"]["prompt_masked"] is report["guards"]["adapter_not_zero"] is True
    assert report["lora"]["precision"] == "fp32"
    assert "pretrain" not in report


def test_a_turn_ends_with_the_end_of_turn_token_in_training_chat_and_files(chain: Chain) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chain.paths["model"])
    assert tokenizer.eos_token == "<|im_end|>"
    ids = tokenizer.apply_chat_template([turn.model_dump() for turn in ASK], add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\n")
    assert json.loads((chain.paths["model"] / "generation_config.json").read_text())["eos_token_id"]


def test_the_exported_files_are_the_tuned_model(chain: Chain) -> None:
    verdicts = {verdict["name"]: verdict["outcome"] for verdict in chain.json("ship_eval")["verdicts"]}
    for name in ("merge_logit_diff", "token_ids", "logit_diff_f16", "argmax_f16", "greedy_f16", "markers"):
        assert verdicts[name] == "pass", name


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_from_the_configuration_alone(kind: str, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    wanted = config(kind, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(wanted)
    described = {**wanted.to_dict(), "architectures": [type(model).__name__]}
    assert count_parameters(described) == sum(weight.numel() for weight in model.parameters())


def test_a_base_without_chat_markers_gets_roles_in_words_and_its_own_end(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "plain", "llama", template="", eos=MARKERS[0])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for token in tokenizer["added_tokens"]:
        token["content"] = {"<|im_start|>": "<|a|>", "<|im_end|>": "<|b|>"}.get(token["content"], token["content"])
    write_json(folder / "tokenizer.json", tokenizer)
    own = OwnTokenizer(folder, "plain")
    assert own.template == "plain"
    assert own.chat.render((*ASK, Message(role="assistant", content="Now."))).endswith("<|assistant|>\nNow.<|endoftext|>\n")
    assert own.chat.holds_special("a text with <|user|> in it")


def test_dates_and_thinking_are_pinned_in_the_template_that_ships(tmp_path: Path) -> None:
    template = "{% if enable_thinking %}THINK{% endif %}{{ date_string }}" + TEMPLATE
    own = OwnTokenizer(base_folder(tmp_path / "dated", "llama", template=template), "dated")
    assert own.chat.render(ASK).startswith("26 Jul 2024<|im_start|>")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no system role') }}", "refuses a system prompt"),
        (TEMPLATE.replace("<|im_end|>", ""), "ends no turn"),
        ("{% if add_generation_prompt %}Think:{% endif %}" + TEMPLATE, "another prompt in training than in a chat"),
    ],
    ids=["no system role", "endless", "no prefix"],
)
def test_a_template_that_cannot_be_trained_with_is_refused_before_anything_is_spent(tmp_path: Path, template: str, why: str) -> None:
    with pytest.raises(ForgeError, match="cannot be tuned on chats") as error:
        OwnTokenizer(base_folder(tmp_path / "bad", "llama", template=template), "bad")
    assert why in error.value.why


class Quiet:
    """As much of a Context as finding a base needs."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def notice(self, text: str) -> None:
        self.told.append(text)

    def names(self, kind: str) -> tuple[str, ...]:
        return ()


def find(base: str, **more: Any) -> tuple[KnownBase, Path | None]:
    quiet: Any = Quiet()
    return find_base(ShapeSettings(base=base, **more), quiet)


def test_without_a_gpu_auto_is_scratch() -> None:
    assert find("auto") == (KnownBase(kind="scratch", name="scratch", license="apache-2.0"), None)


def test_each_unusable_base_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match='the base "Qwen3" is no folder and no id'):
        find("Qwen3")
    folder = base_folder(tmp_path / "base", "llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ForgeError, match=r"has no tokenizer\.json"):
        find(str(folder))
    folder = base_folder(tmp_path / "pickled", "llama")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ForgeError, match=r"has no \*\.safetensors"):
        find(str(folder))
    folder = base_folder(tmp_path / "other", "llama")
    write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text()), "architectures": ["FalconForCausalLM"]})
    with pytest.raises(ForgeError, match="is a FalconForCausalLM"):
        find(str(folder))


def test_the_licence_is_the_cards_unless_the_user_states_another(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base", "llama")
    assert find(str(folder))[0].license == "apache-2.0"
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n", encoding="utf-8")
    assert find(str(folder))[0].license == "qwen-research"
    assert find(str(folder), base_license="mit")[0].license == "mit"
    (folder / "README.md").unlink()
    assert find(str(folder))[0].license == ""


def test_a_hub_model_in_the_cache_is_found_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    cached = tmp_path / "hub" / "models--acme--small"
    base_folder(cached / "snapshots" / commit, "qwen2", pre="qwen2")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    facts, folder = find("acme/small")
    assert (facts.kind, facts.name, facts.revision, facts.license) == ("hub", "acme/small", commit, "apache-2.0")
    assert folder is not None
    with pytest.raises(ForgeError, match="not in the local cache and the hub cannot be reached") as error:
        find("acme/missing")
    assert "hf download acme/missing" in error.value.next


def test_a_gated_base_says_where_to_accept_its_licence() -> None:
    from unittest.mock import Mock

    from huggingface_hub.errors import GatedRepoError

    error = explain("meta/llama", GatedRepoError("403", response=Mock()))
    assert isinstance(error, MissingAccess)
    assert "https://huggingface.co/meta/llama" in error.next
