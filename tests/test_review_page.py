"""The review page in a real browser over a real rehearsal: open, filter, search, reject two pairs, edit one, approve."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge import gate
from forge.cli.session import Session
from forge.review.desk import Desk
from forge.review.server import ReviewServer
from forge.run import Run
from tests.browser import UNNAMED, browser, keep, listen
from tests.test_cli.conftest import finish, program
from tests.test_cli.toy_review import points_with_pairs
from tests.test_engine.review_world import HOSTILE

HANDBOOK = Path(__file__).resolve().parents[1] / "examples" / "handbook"
PATIENCE = 90_000
"""Milliseconds: shape and plan_fit run again on a machine that others use too."""
FITS = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.mark.local
@pytest.mark.slow
def test_show_7_a_person_reviews_a_real_run_in_a_browser(work: Path) -> None:
    """Issue 4, show 7."""
    made = subprocess.run(
        [sys.executable, "-m", "forge", "run", str(HANDBOOK), "--dry-run", "--id", "first", "--until", "plan_fit"], capture_output=True, text=True,
        check=False, timeout=200,
    )
    assert made.returncode == 0, made.stderr
    run = Run.open("first")
    before = gate.current(run)[1]
    process = program("review", "first", "--no-browser", "--json", module="forge")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        faults = listen(page)
        page.goto(url)
        page.wait_for_selector("#h-checks")
        assert "token" not in page.url, "the token has left the address bar"
        assert page.locator("svg.interval").count() >= 6
        keep(page, "review-plan")
        ids = reject_two(page)
        assert page.locator("#approve").is_disabled(), "the plan must be made again first"
        page.click("#remake")
        page.wait_for_function(f"() => document.querySelector('#plan-hash') && document.querySelector('#plan-hash').textContent !== '{before[:12]}'", timeout=PATIENCE)
        page.wait_for_selector("#approve:enabled", timeout=PATIENCE)
        after = gate.current(run)[1]
        assert page.inner_text("#plan-hash") == after[:12] != before[:12]
        second = opened.new_context().new_page()
        assert second.goto(url).status == 403, "a second use of the token is refused"
        assert "used already" in second.inner_text("body")
        page.keyboard.press("a")
        page.click("#dialog-yes")
        page.wait_for_selector("#over[data-outcome=approved]")
        assert faults == []
    told = finish(process)
    assert told.code == 0, told.err
    assert json.loads(told.out.splitlines()[-1]) == {"event": "result", "run": "first", "outcome": "approved", "plan": after, "next": "forge resume first"}
    assert gate.is_approved(run, after)
    assert not gate.is_approved(run, before)
    rows = [json.loads(line)["id"] for split in ("train", "val", "test_recall", "test_unseen", "test_abstain") for line in shaped(run, split)]
    assert set(ids).isdisjoint(rows)
    assert len(rows) > 50


def reject_two(page: Any) -> list[str]:
    """Filter the pairs to a bucket, then reject the first two by key."""
    page.click("#tab-pairs")
    page.wait_for_selector("article")
    page.select_option("#sample", "0")
    bucket = page.locator("#filter-bucket option").nth(1).get_attribute("value")
    page.select_option("#filter-bucket", bucket)
    page.wait_for_function("name => [...document.querySelectorAll('article')].every((one) => one.textContent.includes(name.replaceAll('_', ' ')))", arg=bucket)
    assert page.locator("article mark").count() or bucket.startswith("abstain")
    ids = []
    for number in (0, 1):
        page.keyboard.press("j")
        ids.append(page.get_attribute(f"#item-{number}", "data-id"))
        page.keyboard.press("x")
        page.wait_for_selector(f"#item-{number}.rejected")
    page.wait_for_selector("text=2 rejected: the plan must be made again")
    keep(page, "review-pairs")
    return ids


def shaped(run: Run, split: str) -> list[str]:
    artifact = run.store.get(split)
    assert artifact is not None
    return run.store.link(artifact).read_text(encoding="utf-8").splitlines()


@pytest.fixture
def toy_server(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReviewServer]:
    """The page over the toy pairs, one of which holds markup."""
    from forge import registry
    from forge.cli.app import run_command

    monkeypatch.setattr(registry, "_points", points_with_pairs(registry._points))
    corpus = work / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("one", encoding="utf-8")
    assert run_command(["run", "corpus", "--budget", "5", "--id", "one", "--quiet"]) == 3
    session = Session(as_json=False, quiet=True, yes=False)
    session.open("one")
    server = ReviewServer(Desk(session.run, session.registry, session.config))
    thread = threading.Thread(target=server.wait, args=(120,))
    thread.start()
    yield server
    server.end(server.outcome)
    thread.join(10)


def test_by_keyboard_alone_on_a_desktop_and_by_touch_on_a_phone(toy_server: ReviewServer) -> None:
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1280, "height": 900})
        faults = listen(page)
        page.goto(toy_server.url)
        page.wait_for_selector("#h-checks")
        page.keyboard.press("2")
        page.wait_for_selector("article")
        search(page, "Belmar pump")
        page.keyboard.press("j")
        page.keyboard.press("e")
        page.fill("#edit-answer", "The Belmar pump holds 99 bar all year.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("#edit-fault:has-text('number or name not in passage')")
        page.fill("#edit-answer", "It holds 17 bar; the Belmar pump goes to the day crew.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("article.edited")
        search(page, "hurt")
        assert HOSTILE in page.inner_text("article .q"), "markup from the corpus is shown, not run"
        assert page.title() != "1"
        for key in "3456712":
            page.keyboard.press(key)
            page.wait_for_selector("section, article")
            assert page.evaluate(UNNAMED) == []
        see_on_a_phone(page)
        assert faults == [] or all("400" in fault for fault in faults), faults


def see_on_a_phone(page: Any) -> None:
    """Nothing is wider than the screen, in both colour schemes."""
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        for tab in ("plan", "pairs", "refused", "dropped", "poisoned", "money", "decisions"):
            page.click(f"#tab-{tab}")
            page.wait_for_selector("section, article")
            assert page.evaluate(FITS), f"{tab} is wider than a phone"
        keep(page, f"review-phone-{scheme}")


def search(page: Any, words: str) -> None:
    page.keyboard.press("/")
    page.fill("#search", words)
    page.wait_for_function("words => { const found = [...document.querySelectorAll('article')]; return found.length && found.length < 25 && found.every((one) => words.split(' ').every((w) => one.textContent.includes(w))); }", arg=words)
    page.keyboard.press("Escape")


def test_without_the_server_the_page_says_so(toy_server: ReviewServer) -> None:
    with browser() as opened:
        page = opened.new_page()
        page.goto(toy_server.url)
        page.wait_for_selector("#h-checks")
        toy_server.end("later")
        page.wait_for_timeout(600)
        page.click("#tab-pairs")
        page.wait_for_selector("text=forge review has ended")
