"""Beside llama.cpp's own converter, on real vocabularies: the same tensors from ours, and the same gate for what only it exports."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forge.errors import ForgeError, MissingAccess
from forge.phases.quantize import QuantizeSettings, phase
from forge.phases.quantize.converter import KEPT, find_converter, needs_converter, unpack
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.parity import NASTY_TEXTS, judge_tokens
from forge.phases.quantize.reference import ChatTokenizer
from forge.testing import run_phase
from tests.llama_source import SOURCE, converter_for_any_vocabulary, llama_source, write_real_tokenizer
from tests.test_phases import tiny_llama

pytestmark = [pytest.mark.local, pytest.mark.slow]

LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 128}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": True}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_our_tensors_are_the_converters(tmp_path: Path, kind: str) -> None:
    import gguf

    model = tiny_llama.random_model(tmp_path / kind, kind, **KINDS[kind])
    export_f16(model, tmp_path / "ours.gguf", name="tiny", license="")
    script = [sys.executable, str(converter_for_any_vocabulary(tmp_path / "c") / "convert_hf_to_gguf.py"), str(model)]
    ran = subprocess.run([*script, "--outfile", str(tmp_path / "theirs.gguf"), "--outtype", "f16"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-500:]
    ours, theirs = (gguf.GGUFReader(tmp_path / f"{who}.gguf") for who in ("ours", "theirs"))
    mine, other = ({tensor.name: tensor for tensor in reader.tensors} for reader in (ours, theirs))
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        assert tensor.tensor_type == other[name].tensor_type, name
        if name == "rope_freqs.weight":
            assert np.allclose(tensor.data, other[name].data, rtol=1e-6), "the last bit of a float32 formula"
        else:
            assert np.array_equal(tensor.data, other[name].data), name
    for key in ("tokens", "merges", "token_type", "eos_token_id"):
        name = f"tokenizer.ggml.{key}"
        assert ours.get_field(name).contents() == theirs.get_field(name).contents(), name


@pytest.mark.parametrize(("kind", "pre", "apart"), [("llama", "llama-bpe", ""), ("qwen2", "qwen2", "</s>")])
def test_a_real_vocabulary_gives_the_same_ids_on_a_megabyte(tmp_path: Path, kind: str, pre: str, apart: str) -> None:
    """Llama 3's 128,256 tokens and Qwen 2's 151,936, of which llama.cpp takes an ordinary one for an end of text."""
    model = tmp_path / kind
    vocab = write_real_tokenizer(tmp_path / "real", pre)
    tiny_llama.random_model(model, kind, hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, vocab_size=vocab)
    for file in (tmp_path / "real").iterdir():
        shutil.copyfile(file, model / file.name)
    export_f16(model, tmp_path / "x.gguf", name="tiny", license="")
    tokenizer = ChatTokenizer(model)
    texts = [tokenizer.normalize(text) for text in mixed_texts(tokenizer.tokenizer.backend_tokenizer)]
    assert sum(len(text.encode()) for text in texts) > 1_000_000
    with Llama(tmp_path / "log") as llama:
        verdict = judge_tokens(texts, tokenizer, llama, llama.open(tmp_path / "x.gguf", context_tokens=64))
    assert verdict.outcome == "pass", verdict.evidence
    assert (apart in verdict.evidence) if apart else "left out" not in verdict.evidence


def mixed_texts(tokenizer: Any) -> list[str]:
    """Prose and code of this repository, awkward texts, and random tokens of the vocabulary, about a megabyte."""
    root = Path(__file__).resolve().parents[2]
    files = sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("forge/*.py"), *root.glob("examples/handbook/guide/*")])
    texts = [*NASTY_TEXTS, *(file.read_text(encoding="utf-8") for file in files if file.suffix in (".md", ".py"))]
    generator, size = random.Random(3), sum(len(text.encode()) for text in texts)
    markers = set(tokenizer.get_added_tokens_decoder())
    usable = [number for number in range(tokenizer.get_vocab_size()) if number not in markers]
    while size < 1_050_000:
        texts.append(tokenizer.decode(generator.choices(usable, k=256)))
        size += len(texts[-1].encode())
    return texts


@pytest.fixture(scope="module")
def olmo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base of an architecture that our export does not know, with an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Olmo2Config

    folder = tmp_path_factory.mktemp("olmo")
    tiny_llama.write_tokenizer(folder / "base")
    torch.manual_seed(2)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4}
    ends = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(Olmo2Config(vocab_size=500, max_position_embeddings=512, **shape, **ends))
    model.save_pretrained(folder / "base")
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, values in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.05)
    tuned.save_pretrained(folder / "adapter")
    return {"base_model": folder / "base", "adapter": folder / "adapter", **tiny_llama.write_rows(folder, base="olmo/tiny", base_license="apache-2.0")}


def test_what_we_do_not_export_goes_through_the_converter_and_the_same_gate(olmo: dict[str, Path], tmp_path: Path) -> None:
    assert "Olmo2ForCausalLM" in needs_converter(olmo["base_model"])
    given = {name: olmo[name] for name in phase.reads if name in olmo}
    run = run_phase(phase, tmp_path / "q", settings=QuantizeSettings(llama_cpp_dir=str(converter_for_any_vocabulary(tmp_path / "c"))), inputs=given)
    report = tiny_llama.read_json(run.out / "ship-eval.json")
    assert report["parity"] == "pass"
    assert {file["quantization"] for file in report["files"]} == {"F16", "Q8_0", "Q4_K_M"}
    assert any("llama.cpp's own converter" in data["text"] for kind, data in run.events if kind == "notice")


def test_a_model_that_the_converter_refuses_is_said_in_its_words(olmo: dict[str, Path], tmp_path: Path) -> None:
    from forge.phases.quantize.converter import convert_f16

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"architectures": ["NobodyForCausalLM"]}', encoding="utf-8")
    with pytest.raises(ForgeError, match="refuses this model") as caught:
        convert_f16(broken, tmp_path / "x.gguf", llama_source(), name="x")
    assert "NobodyForCausalLM" in caught.value.why
    assert not list(tmp_path.glob("x.gguf*"))


def test_the_pinned_archive_is_unpacked_to_what_is_needed_and_another_one_is_refused(tmp_path: Path) -> None:
    archives = sorted((SOURCE.parent).glob("llama_cpp_python-*.tar.gz"))
    if not archives and not os.environ.get("FORGE_ALL_PROGRAMS"):
        pytest.skip("needs llama.cpp's source: make setup")
    unpack(archives[0], tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == set(KEPT)
    assert sum(path.stat().st_size for path in (tmp_path / "kept").rglob("*") if path.is_file()) < 12e6
    (tmp_path / "other.tar.gz").write_bytes(b"not it")
    with pytest.raises(ForgeError, match="not the archive that is pinned"):
        unpack(tmp_path / "other.tar.gz", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_folder_without_the_script_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingAccess, match=r"no convert_hf_to_gguf\.py"):
        find_converter(str(tmp_path), None)  # type: ignore[arg-type]
