"""Publishing from the command line: what the hub refuses is said before anything is read, asked or paid."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.model_hub import READER, ModelHub
from tests.test_cli.conftest import Command

pytestmark = pytest.mark.local   # a whole run's phases are checked for their libraries before the hub is asked


def test_a_read_only_token_is_refused_in_words_before_anything_is_spent(
    forge: Command, corpus: Path, far_hub: ModelHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    ran = forge("run", corpus, "--budget", "5", "--set", "plan_fit.hub=huggingface", "--set", "plan_fit.visibility=private")
    assert ran.code == 4
    assert "the hub's token may only read" in ran.err
    assert "HF_TOKEN" in ran.err
    assert " prep " not in ran.out + ran.err, "no phase began"


def test_a_hub_for_a_model_that_stays_here_is_a_contradiction_that_is_said_at_once(forge: Command, corpus: Path, far_hub: ModelHub) -> None:
    ran = forge("run", corpus, "--budget", "5", "--set", "plan_fit.hub=huggingface")
    assert ran.code == 2
    assert "nothing leaves this machine" in ran.err


def test_where_the_model_will_go_is_told_first(forge: Command, corpus: Path, far_hub: ModelHub) -> None:
    words = ("--set", "plan_fit.hub=huggingface", "--set", "plan_fit.visibility=private", "--until", "prep", "--set", "publish.repo=ann/boats")
    ran = forge("run", corpus, "--budget", "5", *words)
    assert "ann/boats" not in ran.out + ran.err, "a run that stops before it needs no hub"
    ran = forge("run", corpus, "--budget", "5", *[word for word in words if word not in ("--until", "prep")])
    assert "will be published to huggingface: ann/boats, private" in ran.out + ran.err
