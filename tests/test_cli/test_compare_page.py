"""The page of `forge compare --html`: one file, drawn by a browser, nothing loaded, nothing of the corpus live."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge.cli.comparing import page
from forge.compare import Side, compare_sides
from forge.protocols import Prediction
from forge.records import Message
from tests.browser import UNNAMED, browser, keep, listen

HOSTILE = '<script>document.title = "owned"</script><img src="http://example.org/x.png">'


def side(name: str, loss: float, answer: str) -> Side:
    rows = [
        Prediction(
            id=f"r{i:02}", split="test_recall", group=f"g{i}", prompt=(Message(role="user", content=f"{HOSTILE} Where is crane {i}?"),), gold="At the pier.",
            answerable=True, answer_tokens=4, nll_base=9.0, nll_tuned=loss, tuned=answer, generated=True,
        ) for i in range(40)
    ]
    return Side(name=name, task="chat", abstention="No.", rows={row.id: row for row in rows})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width"), [("desktop", 1280), ("phone", 390)])
def test_a_browser_draws_the_comparison(tmp_path: Path, name: str, width: int, scheme: str) -> None:
    first, second = side("a1b2", 4.0, "Averylongwordwithoutanyblank" * 6), side("c3d4", 2.0, "At the pier.")
    file = tmp_path / "compare.html"
    file.write_text(page([first, second], [compare_sides(first, second)]), encoding="utf-8")
    with browser() as opened:
        shown = opened.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        faults = listen(shown)
        shown.goto(file.as_uri())
        assert shown.title() == "a1b2 / c3d4", "nothing of the corpus ran"
        assert "c3d4 is better than a1b2" in shown.inner_text("p.lead")
        assert "40 questions answered differently" in shown.inner_text("h2")
        assert shown.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"), "wider than the screen"
        assert shown.evaluate(UNNAMED) == []
        keep(shown, f"compare-{name}-{scheme}")
    assert faults == []
