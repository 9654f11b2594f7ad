"""Every test has its own home for runs, leases and settings, and no keys."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.programs import program
from tests.servers.model_hub import WRITER, ModelHub, model_hub


@pytest.fixture(autouse=True)
def clean_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, leases and configuration live in a temporary place; nothing of the user's leaks in."""
    place = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("FORGE_", "AWS_")) or name in ("ANTHROPIC_API_KEY", "HF_TOKEN"):
            monkeypatch.delenv(name)
    # No test may find an account of AWS that is not its own, on a machine of EC2 neither.
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FORGE_HOME", str(place / "forge"))
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("NO_COLOR", "1")
    for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a hundredth of its pauses between attempts."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 100)))


@pytest.fixture
def far_hub(monkeypatch: pytest.MonkeyPatch, quick_retries: None) -> Iterator[ModelHub]:
    """A Hugging Face hub on loopback, and the real client set up for it with a token that may write."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)   # Xet has a server of its own, which nothing here stands in for
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)   # the suite is offline; loopback is not
    monkeypatch.setattr("forge.plugins.hubs.huggingface.FIRST_PAUSE", 0.0)
    monkeypatch.setenv("HF_TOKEN", WRITER)
    with model_hub() as state:
        monkeypatch.setenv("HF_ENDPOINT", state.url)
        yield state


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tesseract() -> str:
    """The OCR program."""
    return program("tesseract", install="apt-get install tesseract-ocr")


@pytest.fixture
def unpacker() -> str:
    """A program that unpacks compressed RAR."""
    return program("unar", install="apt-get install unar")
