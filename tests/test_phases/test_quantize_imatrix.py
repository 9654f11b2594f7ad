"""Weights that matter more are rounded better: the importance matrix, from a model's own activations to a smaller error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forge.phases.quantize import QuantizeSettings, phase
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.gguf_facts import read_facts
from forge.phases.quantize.imatrix import collect_importance
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.reference import ChatTokenizer
from forge.phases.quantize.rows import Row, encode_row
from forge.testing import run_phase
from tests.test_phases import tiny_llama

pytestmark = [pytest.mark.local, pytest.mark.slow]


class Quiet:
    """The two calls of a Context that measuring makes."""

    def progress(self, *args: object, **numbers: float) -> None:
        """Nothing."""

    def check_stop(self) -> None:
        """Nothing."""


def rows() -> list[Row]:
    found = []
    for example in tiny_llama.examples():
        body = example.body
        assert body.task == "chat"
        found.append(Row(id=example.id, group=example.group, prompt=body.prompt, answer=body.completion[0].content, answerable=True))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(model folder, F16 file, importance matrix)."""
    folder = tmp_path_factory.mktemp("imatrix")
    base = tiny_llama.trained_run(folder)["base_model"]
    export_f16(base, folder / "tiny-F16.gguf", name="tiny", license="")
    collect_importance(base, rows(), folder / "imatrix.npz", Quiet())  # type: ignore[arg-type]
    return base, folder / "tiny-F16.gguf", folder / "imatrix.npz"


def error(file: Path, f16: Path, base: Path, folder: Path) -> float:
    """Mean squared difference of the logits from those of the F16 file, over all tokens of the rows."""
    tokenizer = ChatTokenizer(base)
    with Llama(folder) as llama:
        scores: list[list[Any]] = []
        for path in (f16, file):
            llama.open(path, context_tokens=128)
            encoded = [encode_row(row, tokenizer) for row in rows()]
            scores.append([llama.logits([*row.prompt, *row.answer], last=len(row.answer)) for row in encoded])
        found = [float(np.mean((a - b) ** 2)) for a, b in zip(*scores, strict=True)]
    return sum(found) / len(found)


def test_every_matrix_gets_the_mean_square_of_its_inputs(made: tuple[Path, Path, Path]) -> None:
    with np.load(made[2]) as stored:
        sizes = {name: stored[name].shape for name in stored.files}
        assert all((stored[name] >= 0).all() and stored[name].max() > 0 for name in stored.files)
    assert {name.split(".", 2)[2] for name in sizes if name.startswith("blk.0.")} == {
        "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"
    }
    assert sizes["blk.0.attn_q.weight"] == (256,)


def test_the_matrix_makes_the_error_smaller_and_the_file_no_larger(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, f16, importance = made
    with Llama(tmp_path / "log") as llama:
        llama.quantize(f16, tmp_path / "plain-Q4_K_M.gguf", "Q4_K_M")
        llama.quantize(f16, tmp_path / "weighed-Q4_K_M.gguf", "Q4_K_M", importance=importance)
        llama.quantize(f16, tmp_path / "again-Q4_K_M.gguf", "Q4_K_M", importance=importance)
    plain, weighed = (error(tmp_path / f"{name}-Q4_K_M.gguf", f16, base, tmp_path / "l") for name in ("plain", "weighed"))
    assert weighed < 0.9 * plain
    assert (tmp_path / "weighed-Q4_K_M.gguf").read_bytes() == (tmp_path / "again-Q4_K_M.gguf").read_bytes()
    sizes = [read_facts(tmp_path / f"{name}-Q4_K_M.gguf", quantization="Q4_K_M").bits_per_weight for name in ("plain", "weighed")]
    assert sizes[0] == sizes[1]


def test_more_bits_are_a_smaller_error(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, f16, _ = made
    kinds = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
    with Llama(tmp_path / "log") as llama:
        for kind in kinds:
            llama.quantize(f16, tmp_path / f"x-{kind}.gguf", kind)
    four, five, six, eight = (error(tmp_path / f"x-{kind}.gguf", f16, base, tmp_path / "l") for kind in kinds)
    assert four > 2 * max(five, six)
    assert min(five, six) > 2 * eight
    bits = [read_facts(tmp_path / f"x-{kind}.gguf", quantization=kind).bits_per_weight for kind in kinds]
    assert bits == sorted(bits)


def test_the_phase_measures_it_when_asked(tmp_path: Path) -> None:
    made = tiny_llama.trained_run(tmp_path / "run")
    given = {name: made[name] for name in phase.reads if name in made}
    run = run_phase(phase, tmp_path / "q", settings=QuantizeSettings(imatrix_rows=6), inputs=given)
    notes = [data["note"] for kind, data in run.events if kind == "progress"]
    assert any("which weights matter" in note for note in notes)
    assert (run.out / "gguf").exists()
