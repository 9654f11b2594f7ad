"""`forge show RUN PHASE`: families, what was let go and why; for people and for programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.testing import tiny_corpus
from tests import corpus as make
from tests.test_cli.conftest import Command

SENTENCES = " ".join(f"The {thing} is checked on day {day} by the warden of the northern dam." for day, thing in enumerate(
    ("sluice", "valve", "gauge", "pump", "gate", "crane", "rail", "lamp", "siren", "ladder", "boat", "fence"), 1
))  # fmt: skip


@pytest.fixture
def audited(forge: Command, work: Path) -> Command:
    """A run called "one" up to audit, over a corpus with something to lose."""
    files: dict[str, str | bytes] = {f"{number}.md": f"# Chapter {number}\n\n{number} {SENTENCES} {number}\n" for number in range(12)}
    files |= {"bad\nname.pdf": b"%PDF-1.4 nothing", "locked.pdf": make.pdf([make.lines(["x"])], encrypted=True), "short.md": "Too short."}
    tiny_corpus(work / "docs", files)
    ran = forge("run", "docs", "--until", "audit", "--id", "one", "--set", "audit.min_passages=1", "--set", "audit.near_duplicate=1.0")
    assert ran.code == 0, ran.err
    return forge


def test_show_prints_the_families_and_the_most_frequent_reasons(audited: Command) -> None:
    shown = audited("show", "one", "prep")
    assert shown.code == 0, shown.err
    rows = [line.split() for line in shown.out.splitlines()]
    assert ["family", "files", "ok", "skipped", "refused", "failed", "passages", "characters", "tokens", "seconds"] in rows
    assert any(row[:6] == ["pdf", "2", "0", "0", "1", "1"] for row in rows)
    assert any(row[:4] == ["pdf", "refused", "1", "encrypted"] for row in rows)
    assert shown.last == "next: forge show one prep --dropped"


def test_dropped_lists_every_file_that_gave_no_text_with_its_reason(audited: Command) -> None:
    shown = audited("show", "one", "prep", "--dropped").out
    assert "locked.pdf" in shown
    assert "bad name.pdf" in shown, "a line break in a name does not break the table"
    told = audited("show", "prep", "--dropped", "--json").json
    assert [(row["file"], row["status"]) for row in told["tables"]["files"]] == [("locked.pdf", "refused"), ("bad\nname.pdf", "failed")]
    assert all(row["reason"] for row in told["tables"]["files"])


def test_dropped_shows_the_passages_that_audit_let_go(audited: Command) -> None:
    told = audited("show", "one", "audit", "--dropped", "--json").json
    gone = {row["file"]: row for row in told["tables"]["passages"]}
    assert gone["short.md"]["reason"] == "too_short"
    assert gone["short.md"]["sample"] == "Too short."
    assert {row["reason"] for row in told["tables"]["reasons"]} >= {"too_short"}
    assert "too_short" in audited("show", "one", "audit").out


def test_run_and_phase_may_come_in_either_order(audited: Command) -> None:
    assert audited("show", "prep", "one").out == audited("show", "one", "prep").out
    assert audited("show", "prep", "one", "more").error(2)[0] == "error: forge show takes a run and a phase, not 3 words"
    assert 'did you mean "prep"?' in audited("show", "one", "perp").error(2)[1]


def test_a_phase_that_drops_nothing_says_so(toys: Command, corpus: Path) -> None:
    toys("run", corpus, "--budget", "1", "--id", "one", "--until", "slow")
    assert toys("show", "one", "slow", "--dropped").error(2)[0] == "error: slow keeps no list of what it let go"
