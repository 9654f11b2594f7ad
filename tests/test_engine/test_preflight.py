"""Access that is missing is said before anything is spent: the toys' paid calls are counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge.errors import MissingAccess
from forge.records import Plan
from forge.run import Run
from forge.testing import tiny_corpus
from tests.test_engine.toys import Buy, Finish, Read, run_toys


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    Read.runs = Finish.runs = 0
    Buy.calls.clear()
    Buy.fail_after = -1
    made = Run.create(tiny_corpus(tmp_path / "corpus", {"a.txt": "one two three"}), dry_run=False, run_id="toy")
    yield made
    made.close()


def ask_first(monkeypatch: pytest.MonkeyPatch, *, refuse: bool, asked: list[str]) -> None:
    def access(section: Any, plugin: Any, plan: Plan | None) -> str:
        assert section("read") is not None
        asked.append(plan.name if plan else "")
        if refuse:
            raise MissingAccess("the hub's token may only read", next="export HF_TOKEN=…")
        return "may write"

    monkeypatch.setattr(Finish, "access", staticmethod(access), raising=False)


def test_a_token_that_may_not_write_stops_the_run_before_the_first_paid_call(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask_first(monkeypatch, refuse=True, asked=asked)
    with pytest.raises(MissingAccess, match="may only read"):
        run_toys(run)
    assert (Read.runs, len(Buy.calls), asked) == (0, 0, [""])


def test_access_is_looked_at_again_with_the_models_name_and_not_once_the_plan_is_approved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask_first(monkeypatch, refuse=False, asked=asked)
    run_toys(run)
    assert asked == ["", "toy"]
    ask_first(monkeypatch, refuse=True, asked=asked)
    run_toys(run)
    assert asked == ["", "toy"], "a hub that is away does not stop what was approved"


def test_a_run_that_stops_earlier_needs_no_access(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask_first(monkeypatch, refuse=True, asked=asked)
    run_toys(run, until="plan_it")
    assert asked == []
