"""The small SVG figures: ticks are round, lines stay inside, nothing unsafe or infinite is drawn."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge.phases.teardown.plots import Bar, Series, funnel, interval_plot, line_chart, nice_ticks, short
from forge.phases.teardown.story import duration, usd
from forge.records import Verdict

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def test_ticks_are_round_and_span_the_data() -> None:
    assert nice_ticks(0.0, 1.0, 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert nice_ticks(3, 198, 6) == [0, 50, 100, 150, 200]
    assert nice_ticks(2, 2, 5) == [2]


@given(FINITE, FINITE)
def test_ticks_rise_cover_and_are_few(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, 5)
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 12
    if high - low > 1e-6 * max(1, abs(high), abs(low)):
        slack = 1e-6 * (high - low)
        assert ticks[0] <= low + slack
        assert ticks[-1] >= high - slack


@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=50))
def test_a_line_stays_inside_its_figure(points: list[tuple[float, float]]) -> None:
    chart = line_chart("t", [Series(label="a", points=tuple(sorted(points)), style="one")], x_label="x", y_label="y")
    match = re.search(r'points="([^"]*)"', chart)
    assert match
    for spot in match.group(1).split():
        x, y = map(float, spot.split(","))
        assert -0.1 <= x <= 460.1
        assert -0.1 <= y <= 240.1


def test_a_chart_without_points_is_not_drawn() -> None:
    assert line_chart("t", [Series(label="a", points=((1, 2),), style="one")], x_label="x", y_label="y") == ""


def test_a_loss_that_became_nan_does_not_break_the_chart() -> None:
    points = ((1, 3.0), (2, 2.5), (3, math.nan), (4, math.inf))
    chart = line_chart("t", [Series(label="a", points=points, style="one")], x_label="x", y_label="y")
    assert "nan" not in chart
    assert "inf" not in chart


def test_a_long_line_is_thinned_and_keeps_its_end() -> None:
    points = tuple((float(i), float(i)) for i in range(10_000))
    chart = line_chart("t", [Series(label="a", points=points, style="one")], x_label="x", y_label="y")
    assert chart.count(",") < 1000
    assert "442.0,28.0" in chart


@given(FINITE, FINITE, FINITE, st.one_of(st.none(), FINITE))
def test_an_interval_is_drawn_inside_its_box(estimate: float, a: float, b: float, threshold: float | None) -> None:
    verdict = Verdict(name="v", estimate=estimate, ci=(min(a, b), max(a, b)), threshold=threshold, outcome="fail")
    for position in re.findall(r'(?:x1|x2|cx)="([^"]*)"', interval_plot(verdict)):
        assert 0 <= float(position) <= 180


def test_what_was_not_measured_has_no_dot() -> None:
    assert interval_plot(Verdict(name="v", estimate=None, outcome="undecided")) == ""


def test_labels_are_escaped() -> None:
    assert "<b>" not in funnel("<b>", [Bar(label="<b>", value=1, note="<b>")])


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (1500, "1.5k"), (2e6, "2M"), (0, "0")])
def test_tick_labels_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(4, "4.0 s"), (59.9, "1 min 0 s"), (185, "3 min 5 s"), (7800, "2 h 10 min"), (None, "not known")])
def test_durations_are_said_as_people_say_them(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0, "$0.00"), (1234.5, "$1,234.50"), (0.000012, "$0.000012"), (None, "not known")])
def test_small_costs_are_not_rounded_away(value: float | None, text: str) -> None:
    assert usd(value) == text
