"""forge compare and forge champion as a person meets them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.test_cli.conftest import Command
from tests.test_engine.models_world import finished, predictions


@pytest.fixture
def two(forge: Command, corpus: Path) -> Command:
    """Two finished runs over the same tests; the second is better, and answers less out-of-scope questions by one."""
    finished(corpus, "one", predictions(lambda i: 10.0 + i % 5)).close()
    finished(corpus, "two", predictions(lambda i: 6.0 + i % 5, declines=0.97)).close()
    return forge


def test_compare_says_which_is_better_with_the_interval(two: Command) -> None:
    told = two("compare", "one", "two")
    assert told.code == 0, told.err
    assert max(map(len, told.out.splitlines()[1:])) <= 80, told.out
    assert told.out.startswith("two is better than one (recall_nats_per_character -0.400, 95 % interval")
    assert "no difference" in told.out     # over_refusal, abstention
    assert told.last == "next: forge champion two"
    data = two("compare", "one", "two", "--json").json[0]
    assert (data["better"], data["common"], data["only_first"]) == ("second", 120, 0)


def test_compare_writes_a_page_that_stands_alone(two: Command, work: Path) -> None:
    assert two("compare", "one", "two", "one:base", "--html", work / "page.html").code == 0
    html = (work / "page.html").read_text(encoding="utf-8")
    checker = HTMLParser()
    checker.feed(html)
    assert "1 questions answered differently" not in html   # one:base has no generated answers, so nothing is side by side
    assert "http:" not in html
    assert "https:" not in html
    assert "<script" not in html
    assert two("compare", "one", "two", "--html", work / "two.html").code == 0
    assert ">red paint</td>" in (work / "two.html").read_text(encoding="utf-8")


def test_compare_refuses_one_run_and_unknown_runs(two: Command) -> None:
    assert "at least two" in two("compare", "one").error(2)[0]
    assert "no run" in two("compare", "one", "three").error(2)[0]


def test_champion_lists_promotes_and_refuses(two: Command) -> None:
    listed = two("champion")
    assert listed.code == 0, listed.err
    assert "chat/corpus" in listed.out
    assert listed.last == "next: forge champion --promote two"
    assert "the first, and every gate passed" in two("champion", "--promote", "one").out
    assert "two is better than one" in two("champion", "--promote", "two").out
    rows = two("champion", "--promote", "one").error(6)
    assert "one does not become champion" in rows[0]
    assert rows[-1] == "  next: forge compare two one"
    assert two("champion", "--json").json["aliases"]["chat/corpus"]["champion"] == "two"
    assert {row["id"]: row["alias"] for row in two("runs", "--json").json} == {"one": "", "two": "champion"}


def test_champion_of_one_run_shows_lineage_and_objections(two: Command) -> None:
    two("champion", "--promote", "two")
    told = two("champion", "one")
    assert "made of: adapter" in told.out
    assert "against promotion: two is better than one" in told.out
    assert two("champion", "two").last == "next: forge chat two"
    assert two("champion", "one", "--json").json["against_promotion"]


def test_a_home_without_models_says_so(forge: Command) -> None:
    assert forge("champion").out.startswith("no models yet")
