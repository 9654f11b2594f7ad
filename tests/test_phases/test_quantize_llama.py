"""llama.cpp in a child: what it says, and what we say when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forge.errors import ForgeError
from forge.phases.quantize.gguf_export import export_f16
from forge.phases.quantize.llama import Llama
from tests.test_phases.tiny_llama import random_model

pytestmark = pytest.mark.local


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    export_f16(random_model(folder), folder / "tiny-F16.gguf", name="tiny", license="")
    return folder / "tiny-F16.gguf"


@pytest.mark.parametrize(
    ("number", "word", "advice"),
    [
        (signal.SIGSEGV, "SIGSEGV", "GGML_NATIVE=OFF"), (signal.SIGILL, "built for another CPU", "GGML_NATIVE=OFF"),
        (signal.SIGKILL, "lack of memory", "forge resume"),
    ],
)
def test_a_crash_becomes_an_error_with_what_to_do(f16: Path, tmp_path: Path, number: int, word: str, advice: str) -> None:
    with Llama(tmp_path) as llama:
        llama.open(f16, context_tokens=64)
        os.kill(llama.process.pid, number)
        with pytest.raises(ForgeError, match=r"while running tiny-F16\.gguf") as caught:
            llama.logits([5, 6, 7], last=1)

    assert word in str(caught.value)
    assert advice in caught.value.next


def test_a_stop_that_reaches_the_whole_group_does_not_end_the_process(f16: Path, tmp_path: Path) -> None:
    with Llama(tmp_path) as llama:
        llama.open(f16, context_tokens=64)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(llama.process.pid, number)
        assert len(llama.logits([5, 6, 7], last=1)) == 1
    assert llama.process.returncode == 0


def test_a_file_that_is_no_model_is_an_error_with_llama_cpps_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 60)

    with pytest.raises(ForgeError, match=r"refuses to load broken\.gguf") as caught, Llama(tmp_path) as llama:
        llama.open(broken, context_tokens=64)
    assert caught.value.why


def test_a_failed_quantization_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"nothing")

    with pytest.raises(ForgeError, match=r"writing x-Q8_0\.gguf"), Llama(tmp_path) as llama:
        llama.quantize(tmp_path / "broken.gguf", tmp_path / "x-Q8_0.gguf", "Q8_0")
    assert not (tmp_path / "x-Q8_0.gguf").exists()


def test_quantized_files_survive_long_batches_and_answers_repeat(f16: Path, tmp_path: Path) -> None:
    """Repacked weights crash on AMX machines with two tokens in a batch; ours are not repacked."""
    prompt = [5 + i % 300 for i in range(200)]
    with Llama(tmp_path) as llama:
        for kind in ("Q8_0", "Q4_K_M"):
            llama.quantize(f16, tmp_path / f"{kind}.gguf", kind)
            llama.open(tmp_path / f"{kind}.gguf", context_tokens=256)
            first = llama.generate(prompt, limit=8)

            assert llama.generate(prompt, limit=8) == first
            assert llama.score(prompt[:20], [7, 8, 2]) == llama.score(prompt[:20], [7, 8, 2])


def test_scores_are_those_of_the_logits(f16: Path, tmp_path: Path) -> None:
    import numpy as np

    prompt, answer = [5, 6, 7, 8], [9, 10, 2]
    with Llama(tmp_path) as llama:
        vocabulary = llama.open(f16, context_tokens=64)
        score = llama.score(prompt, answer)
        rows = llama.logits([*prompt, *answer[:-1]], last=3).astype(np.float64)
    chances = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)

    assert score.nll == pytest.approx(-np.log(chances[range(3), answer]).sum(), rel=1e-6)
    assert score.p_end == pytest.approx(chances[-1][list(vocabulary.end)].sum(), rel=1e-6)
    assert score.top == tuple(rows.argmax(axis=1))
    assert vocabulary.eos == 2
    assert set(vocabulary.end) == {0, 2}
    assert set(vocabulary.control) == {0, 1, 2}
    assert not vocabulary.add_bos


def test_text_longer_than_the_context_is_an_error_and_not_a_crash(f16: Path, tmp_path: Path) -> None:
    with Llama(tmp_path) as llama:
        llama.open(f16, context_tokens=64)
        with pytest.raises(ForgeError, match="do not fit into the context of"):
            llama.logits([5] * 300, last=1)

        assert llama.tokenize(["still here"])[0]


def test_the_child_ends_with_its_parent(f16: Path, tmp_path: Path) -> None:
    llama = Llama(tmp_path)
    llama.open(f16, context_tokens=64)
    with llama:
        pass
    for _ in range(50):
        if llama.process.poll() is not None:
            break
        time.sleep(0.02)

    assert llama.process.returncode == 0


def test_the_child_dies_with_a_killed_parent(f16: Path, tmp_path: Path) -> None:
    """Or it would go on writing the file that the resumed phase writes again."""
    script = (
        "import sys, time; from pathlib import Path; from forge.phases.quantize.llama import Llama\n"
        "llama = Llama(Path(sys.argv[1])); llama.open(Path(sys.argv[2]), context_tokens=64)\n"
        "print(llama.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(f16)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the child outlived its parent")
