"""How numbers, times and long texts read."""

from __future__ import annotations

import pytest

from forge import ui
from forge.cli.words import duration, event_line, metrics_text, progress_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (0.44, "0.4s"), (9.94, "9.9s"), (9.96, "10s"), (41, "41s"), (59.6, "1m 00s"), (125, "2m 05s"), (3599.7, "1h 00m"),
        (3780, "1h 03m"), (172_800, "2d 0h"), (280_000, "3d 5h"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_names_share_rate_time_left_money_and_numbers() -> None:
    event = {"event": "progress", "phase": "train", "done": 412, "total": 900, "note": "saved at 400", "loss": 1.0834, "at": 1}
    assert progress_text(event, 103, "$3.91 of $200.00") == "412 of 900 · 4.0/s · 2m 02s left · $3.91 of $200.00 · loss 1.08 · saved at 400"
    staged = {"event": "progress", "done": 350, "total": 2036, "note": "pretrain 350/1167", "loss": 3.39, "eta_seconds": 62}
    assert progress_text(staged, 31.5) == "350 of 2,036 · 11.1/s · 1m 02s left of pretrain · loss 3.39 · pretrain 350/1167"
    assert progress_text({"event": "progress", "done": 1500, "total": None}, 0) == "1,500"


def test_a_summary_stands_for_the_numbers_and_long_ones_wrap_under_themselves() -> None:
    assert metrics_text({"summary": "843 kept", "kept": 843}) == "843 kept"
    line = event_line({"event": "phase_done", "phase": "audit", "seconds": 41.2, "spent_micro_usd": 6_490_000, "metrics": {"summary": "word " * 40}})
    rows = line.split("\n")
    assert len(rows) > 1
    assert max(map(len, rows)) <= ui.MAX_WIDTH
    assert rows[0].endswith("$6.49      41s")
    assert all(row.startswith(" " * 14 + "word") for row in rows[1:])


def test_a_table_wraps_its_last_column() -> None:
    rows = ui.table_lines([("a", "x " * 120), ("bbb", "short")], ("k", "text"))
    assert max(map(len, rows)) <= ui.MAX_WIDTH
    assert rows[-1] == "bbb  short"
    assert rows[2].startswith("     x")
