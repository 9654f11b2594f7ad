"""The whole chain on a machine with a GPU: `make gpu`, minutes on one H200. Without one (FORGE_GPU=1 all the same) it runs on the CPU, to try the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.test_phases.tiny_llama import random_model

pytestmark = [
    pytest.mark.gpu, pytest.mark.local, pytest.mark.timeout(900),
    pytest.mark.skipif(os.environ.get("FORGE_GPU") != "1", reason="make gpu"),
]
QUICK = ("plan_fit.epochs=1", "plan_fit.train_minutes=1", "eval.max_generated=12", "eval.probes=false", "quantize.likelihood_rows=20", "quantize.imatrix_rows=4", "quantize.other_rows=0")
WAYS = {
    "bf16": ("train.precision=bf16",), "fp8": ("train.precision=fp8",), "nf4": ("train.precision=nf4",), "whole": ("plan_fit.tuning=full",),
    "sweep": ("plan_fit.sweep={rank: [4, 8]}",), "scratch": ("shape.base=scratch",),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen 2 of 30 M random weights, large enough that FP8 and K-quants fit its matrices; 2 M without a GPU."""
    large = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8}
    return random_model(tmp_path_factory.mktemp("base"), "qwen2", pre="qwen2", max_position_embeddings=2048, **(large if on_gpu() else {}))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for file in (files("forge") / "sample").iterdir():
        if file.name.endswith(".md"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def start(corpus: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "FORGE_HOME": str(corpus.parent / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "forge", *arguments]
    return subprocess.Popen(command, cwd=corpus.parent, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def settings(base: Path, *more: str) -> list[str]:
    return [word for one in (f"shape.base={base}", "shape.base_license=apache-2.0", *QUICK, *more) for word in ("--set", one)]


def report(corpus: Path, run: str) -> Any:
    return json.loads((corpus.parent / "home/runs" / run / "phases/train/train.json").read_text(encoding="utf-8"))


def on_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


@pytest.mark.parametrize("way", WAYS)
def test_a_model_goes_from_documents_to_measured_files(way: str, base: Path, corpus: Path) -> None:
    running = start(corpus, "run", str(corpus), "--budget", "0", "--id", way, "--until", "quantize", *settings(base, *WAYS[way]))
    told, _ = running.communicate()
    assert running.returncode == 0, told
    tuning = report(corpus, way)["lora"]
    losses = [loss for _, loss in tuning["loss"]]
    assert len(losses) > 3
    assert losses[-1] < losses[0]
    if on_gpu() and way in ("bf16", "fp8", "nf4"):
        assert tuning["precision"] == way


def test_a_training_that_is_killed_goes_on_and_ends_like_one_that_is_not(base: Path, corpus: Path) -> None:
    asked = settings(base, "plan_fit.rehearse=false", "train.checkpoint_steps=5")
    running = start(corpus, "run", str(corpus), "--budget", "0", "--id", "killed", "--until", "train", *asked)
    ends = time.monotonic() + 300
    while not list((corpus.parent / "home/runs").rglob("lora/checkpoint-*/complete.json")) and running.poll() is None and time.monotonic() < ends:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    resumed = start(corpus, "resume", "killed", "--until", "train")
    told, _ = resumed.communicate()
    assert resumed.returncode == 0, told
    assert "goes on after step" in told
    again = start(corpus, "run", str(corpus), "--budget", "0", "--new", "--id", "whole", "--until", "train", *asked)
    told, _ = again.communicate()
    assert again.returncode == 0, told
    killed, whole = (report(corpus, run)["lora"] for run in ("killed", "whole"))
    assert killed["steps"] == whole["steps"]
    assert killed["loss"][-1][1] == pytest.approx(whole["loss"][-1][1], rel=0.02)
