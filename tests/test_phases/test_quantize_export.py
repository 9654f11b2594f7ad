"""The exporter against transformers, through a real llama.cpp; and every known way to export wrongly, caught by the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError
from forge.phases.quantize import gguf_export, gguf_tokenizer, tensors
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.gguf_facts import describe_fallback, read_facts
from forge.phases.quantize.gguf_shape import read_shape
from forge.phases.quantize.judge import worst
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.parity import judge_logits, judge_markers, judge_tokens, parity_texts
from forge.phases.quantize.reference import ChatTokenizer, Reference, load_model
from forge.phases.quantize.rows import Row, encode_row
from forge.records import Chat, Verdict
from tests.test_phases.tiny_llama import (
    THRESHOLDS,
    examples,
    random_model,
    trained_model,
    write_tokenizer,
)

pytestmark = pytest.mark.local

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    with Llama(tmp_path_factory.mktemp("llama")) as child:
        yield child


def parity(model: Path, llama: Llama) -> dict[str, Verdict]:
    """The gate's verdicts on a fresh export of `model`."""
    file = model / "test-F16.gguf"
    export_f16(model, file, name="test", license="")
    tokenizer, vocabulary = ChatTokenizer(model), llama.open(file, context_tokens=256)
    rows = [encode_row(_row(example), tokenizer) for example in examples()]
    chats = [tokenizer.render(row.row.prompt, open_answer=True) for row in rows]
    texts = parity_texts([], chats, tokenizer, seed=7, wanted_bytes=20_000)
    prompts = [(*row.prompt, *row.answer) for row in rows[:4]]
    prompts.append(tuple(token for row in prompts for token in row)[:250])
    verdicts = [
        judge_tokens(texts, tokenizer, llama, vocabulary), judge_markers(rows, tokenizer, vocabulary),
        *judge_logits(prompts, Reference(load_model(model), tokenizer), llama, THRESHOLDS["logit_diff_f16"], last=16),
    ]
    return {verdict.name: verdict for verdict in verdicts}


def _row(example: Any) -> Row:
    body = example.body
    assert isinstance(body, Chat)
    return Row(id=example.id, group=example.group, prompt=body.prompt, answer=body.completion[0].content, answerable=True)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen2", {"rope_parameters": {
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
    ids=["llama", "llama-biases", "llama3-rope", "linear-rope", "mistral", "qwen2", "yarn-rope", "qwen3"],
)
def test_an_export_computes_what_transformers_computes(tmp_path: Path, llama: Llama, kind: str, changes: dict[str, Any]) -> None:
    pre = "qwen2" if kind.startswith("qwen") else "gpt-2"
    verdicts = parity(random_model(tmp_path, kind, pre=pre, **changes), llama)

    assert worst(list(verdicts.values())) == "pass", verdicts
    assert (verdicts["logit_diff_f16"].estimate or 1) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "changes"), [("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}), ("mistral", {}), ("qwen2", {}), ("qwen3", {})],
    ids=["llama3-rope-tied", "mistral", "qwen2", "qwen3"],
)
def test_a_trained_model_answers_token_for_token_as_in_transformers(tmp_path: Path, llama: Llama, kind: str, changes: dict[str, Any]) -> None:
    """Issue 7, show 1: answers that were learnt, to all twelve questions."""
    model = trained_model(tmp_path, kind, **changes)
    export_f16(model, model / "test-F16.gguf", name="test", license="")
    tokenizer = ChatTokenizer(model)
    llama.open(model / "test-F16.gguf", context_tokens=256)
    reference = Reference(load_model(model), tokenizer)
    rows = [encode_row(_row(example), tokenizer) for example in examples()]
    expected = [reference.generate(row.prompt, limit=24) for row in rows]
    assert sum(one.text == row.row.answer for one, row in zip(expected, rows, strict=True)) >= 6, "it did learn them"
    assert [llama.generate(list(row.prompt), limit=24).ids for row in rows] == [one.ids for one in expected]


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_every_known_pre_tokenizer_gives_the_same_ids(tmp_path: Path, llama: Llama, pre: str) -> None:
    verdict = parity(random_model(tmp_path, pre=pre), llama)["token_ids"]

    assert (verdict.outcome, verdict.estimate) == ("pass", 1.0), verdict.evidence


class TestNegativeControls:
    """Each wrong export loads without a word of complaint. The gate must say no."""

    def test_unpermuted_rotations(self, tmp_path: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gguf_export, "permute_for_rope", lambda weight, heads: weight)
        verdicts = parity(random_model(tmp_path), llama)

        assert verdicts["logit_diff_f16"].outcome == "fail"
        assert verdicts["token_ids"].outcome == "pass"

    def test_rope_factors_of_llama3_lost(self, tmp_path: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
        import numpy as np

        monkeypatch.setattr(gguf_export, "llama3_frequency_factors", lambda shape: np.ones(shape.head_dim // 2, np.float32))

        assert parity(random_model(tmp_path, rope_parameters=LLAMA3), llama)["logit_diff_f16"].outcome == "fail"

    def test_biases_of_qwen2_zeroed(self, tmp_path: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
        real = tensors.load_tensor
        monkeypatch.setattr(gguf_export, "load_tensor", lambda t: real(t) * (0 if t.name.endswith(".bias") else 1))

        assert parity(random_model(tmp_path, "qwen2"), llama)["logit_diff_f16"].outcome == "fail"

    def test_markers_typed_as_ordinary_text(self, tmp_path: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gguf_tokenizer, "marker_type", lambda token: gguf_tokenizer.NORMAL)
        verdicts = parity(random_model(tmp_path), llama)

        assert verdicts["token_ids"].outcome == "fail"
        assert verdicts["logit_diff_f16"].outcome == "pass", "the logits do not see it"
        assert verdicts["markers"].outcome == "fail"

    @pytest.mark.parametrize(("true", "claimed"), [("llama-bpe", "gpt-2"), ("gpt-2", "llama-bpe"), ("gpt-2", "qwen2")])
    def test_wrong_pre_tokenizer_named(
        self, tmp_path: Path, llama: Llama, monkeypatch: pytest.MonkeyPatch, true: str, claimed: str
    ) -> None:
        monkeypatch.setattr(gguf_tokenizer, "pre_tokenizer", lambda tokenizer: claimed)

        assert parity(random_model(tmp_path, pre=true), llama)["token_ids"].outcome == "fail"

    def test_a_tokenizer_json_that_transformers_does_not_use(self, tmp_path: Path, llama: Llama) -> None:
        """transformers 5 rebuilds the tokenizer of a model type that has a class of its own, and splits as that class does."""
        assert parity(random_model(tmp_path, "qwen2", pre="gpt-2"), llama)["token_ids"].outcome == "fail"


def test_a_lost_tensor_is_refused(tmp_path: Path) -> None:
    random_model(tmp_path, "qwen2")
    rewrite_config(tmp_path, architectures=["LlamaForCausalLM"])

    with pytest.raises(ForgeError, match="6 unexpected"):
        export_f16(tmp_path, tmp_path / "x.gguf", name="x", license="")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "no GGUF export for GemmaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope type 'longrope' is not known"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 1}}, "has parameters"),
        ({"partial_rotary_factor": 0.5}, "only a part of each head is rotated"),
        ({"quantization_config": {"bits": 4}}, "already quantized"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, "slides over 64 tokens"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "do not use full attention"),
    ],
)
def test_what_llama_cpp_would_read_differently_is_refused(tmp_path: Path, changes: dict[str, Any], fact: str) -> None:
    random_model(tmp_path)
    rewrite_config(tmp_path, **changes)

    with pytest.raises(ForgeError, match=fact) as caught:
        read_shape(tmp_path)
    assert caught.value.why
    assert "convert" in caught.value.next


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokenizer is not known"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "pre-tokenizer is not known"),
        ({"normalizer": {"type": "Lowercase"}}, "normalizes with Lowercase"),
        ({"model": {"type": "Unigram"}}, "not byte-level BPE"),
    ],
)
def test_an_unknown_tokenizer_is_refused(tmp_path: Path, change: dict[str, Any], fact: str) -> None:
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")

    with pytest.raises(ForgeError, match=fact):
        gguf_tokenizer.read_tokenizer(tmp_path, 512)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)

    with pytest.raises(ForgeError, match="has no row in the embedding of 100"):
        gguf_tokenizer.read_tokenizer(tmp_path, 100)


def test_bos_is_explicit_and_only_added_when_the_tokenizer_adds_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    write_tokenizer(tmp_path)
    plain = gguf_tokenizer.read_tokenizer(tmp_path, 512)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    adding = gguf_tokenizer.read_tokenizer(tmp_path, 512)

    assert (plain.add_bos, plain.special["bos"], plain.special["eos"]) == (False, 0, 2)
    assert adding.add_bos
    assert plain.tokens[511] == "[PAD511]"
    assert plain.types[511] == gguf_tokenizer.UNUSED


def test_a_weight_that_f16_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_model(tmp_path)
    real = tensors.load_f16
    monkeypatch.setattr(gguf_export, "load_f16", lambda tensor, rows: real(tensor, rows) * 1e7)

    with pytest.raises(ForgeError, match="does not fit into F16"):
        export_f16(tmp_path, tmp_path / "x.gguf", name="x", license="")


def test_the_same_model_gives_the_same_bytes_without_times_or_paths(tmp_path: Path, llama: Llama) -> None:
    model = random_model(tmp_path / "model")
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        export_f16(model, tmp_path / folder / "x-F16.gguf", name="x", license="apache-2.0")
        llama.threads = 1 if folder == "a" else 2   # the number of threads may not show either
        for kind in ("Q8_0", "Q4_K_M"):
            llama.quantize(tmp_path / folder / "x-F16.gguf", tmp_path / folder / f"x-{kind}.gguf", kind)
        files.append({file.name: file.read_bytes() for file in sorted((tmp_path / folder).iterdir())})
    llama.threads = 1

    assert files[0] == files[1]
    assert len(files[0]) == 3
    assert not any(str(tmp_path).encode() in data or b"/tmp" in data for data in files[0].values())


def test_rows_that_do_not_fit_k_quants_are_reported(tmp_path: Path, llama: Llama) -> None:
    narrow, wide = random_model(tmp_path / "narrow", hidden_size=320), random_model(tmp_path / "wide")
    told = []
    for model in (narrow, wide):
        export_f16(model, model / "x-F16.gguf", name="x", license="")
        llama.quantize(model / "x-F16.gguf", model / "x-Q4_K_M.gguf", "Q4_K_M")
        facts = read_facts(model / "x-Q4_K_M.gguf", quantization="Q4_K_M")
        told.append((facts.bits_per_weight, describe_fallback(facts)))

    assert told[0][0] > 5.5
    assert "not a multiple of 256" in told[0][1]
    assert told[1][0] < 5.2
    assert told[1][1] == ""


def test_parameters_are_counted_in_the_file(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    random_model(tmp_path, rope_parameters=LLAMA3)
    facts = export_f16(tmp_path, tmp_path / "x.gguf", name="x", license="")

    assert facts.parameters == AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters()
    assert facts.bytes == (tmp_path / "x.gguf").stat().st_size


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change keys of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
