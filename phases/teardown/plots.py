"""Small SVG figures without a plotting library: colours come from the page's CSS, so they follow light and dark.

All text that is drawn goes through `html.escape`. Lengths are SVG user units; figures scale with their width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from forge.records import Record, Verdict

WIDTH, HEIGHT = 460.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 18.0, 28.0, 44.0
FUNNEL_WIDTH, FUNNEL_ROW = 440.0, 54.0
MOST_POINTS = 400
"""A line keeps at most this many points; more cannot be told apart at this width."""


class Series(Record):
    """One line: its label, its points (x, y) by rising x, and its CSS class."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: str


class Bar(Record):
    """One step of a funnel: what it counts, how many, and what went away on the way to it."""

    label: str
    value: int
    note: str = ""


def line_chart(title: str, series: Sequence[Series], *, x_label: str, y_label: str, from_zero: bool = False) -> str:
    """An SVG line chart with axes, ticks and a legend; empty without two points to draw. from_zero: y begins at 0."""
    thinned = [line.model_copy(update={"points": _thin(line.points)}) for line in series]
    drawn = [line for line in thinned if len(line.points) > 1]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points] + ([0.0] if from_zero else [])
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), 6), nice_ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / ((x_high - x_low) or 1) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [_y_axis(tick, at(x_low, tick)[1]) for tick in y_ticks if y_low <= tick <= y_high]
    parts += [_x_axis(tick, at(tick, y_low)[0]) for tick in x_ticks if x_low <= tick <= x_high]
    parts += [_line(line, at) for line in drawn]
    parts.append(_words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    parts.append(_words(0, TOP - 14, y_label, "start"))
    return _svg(title, WIDTH, HEIGHT, "".join(parts)) + _legend(drawn)


def interval_plot(verdict: Verdict) -> str:
    """A dot with its 95 % interval against the threshold (the long tick), on a scale of its own."""
    told = (verdict.estimate, verdict.threshold, *(verdict.ci or ()))
    values = [value for value in told if value is not None and math.isfinite(value)]
    if verdict.estimate is None or not values:
        return ""
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.5 or 1.0

    def at(value: float) -> float:
        share: float = (value - low + room) / (high - low + 2 * room)
        return 4 + share * 172

    parts = ['<line class="grid" x1="4" x2="176" y1="14" y2="14"/>']
    if verdict.threshold is not None:
        x = at(verdict.threshold)
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="26"/>')
    if verdict.ci:
        left, right = at(verdict.ci[0]), at(verdict.ci[1])
        parts.append(f'<line class="whisker {verdict.outcome}" x1="{left:.1f}" x2="{right:.1f}" y1="14" y2="14"/>')
        for x in (left, right):
            parts.append(f'<line class="whisker {verdict.outcome}" x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="18"/>')
    parts.append(f'<circle class="dot {verdict.outcome}" cx="{at(verdict.estimate):.1f}" cy="14" r="4"/>')
    return _svg(_interval_words(verdict), 180, 28, "".join(parts), style="interval")


def funnel(title: str, bars: Sequence[Bar]) -> str:
    """What became of the data, step by step; the bars share one scale, each says its own number."""
    if not bars:
        return ""
    most = max(bar.value for bar in bars) or 1
    parts = []
    for index, bar in enumerate(bars):
        y, width = index * FUNNEL_ROW, max(2.0, bar.value / most * 240)
        parts.append(_words(104, y + 20, bar.label, "end", "label"))
        parts.append(f'<rect class="bar" x="114" y="{y + 3:.0f}" width="{width:.1f}" height="26" rx="4"/>')
        parts.append(_words(114 + width + 8, y + 21, f"{bar.value:,}", "start", "label strong"))
        if bar.note:
            parts.append(_words(114, y + 43, bar.note, "start"))
    return _svg(title, FUNNEL_WIDTH, FUNNEL_ROW * len(bars), "".join(parts), style="chart funnel")


def nice_ticks(low: float, high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers (1, 2, 2.5 or 5 times a power of ten) that span low..high."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def short(value: float) -> str:
    """A tick label: 1.5k, 20M, 0.25."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.4g}"


def _thin(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most MOST_POINTS finite points; the last one stays."""
    finite = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    step = max(1, math.ceil(len(finite) / MOST_POINTS))
    kept = finite[::step]
    return tuple(kept if not finite or kept[-1] == finite[-1] else [*kept, finite[-1]])


def _words(x: float, y: float, text: str, anchor: str, style: str = "axis") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _y_axis(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="axis" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>'
    )


def _x_axis(value: float, x: float) -> str:
    y = HEIGHT - BOTTOM
    return (
        f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>'
        f'<text class="axis" x="{x:.1f}" y="{y + 19}" text-anchor="middle">{short(value)}</text>'
    )


def _line(line: Series, at: Callable[[float, float], tuple[float, float]]) -> str:
    spots = [at(x, y) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    marked = spots if len(spots) <= 30 else []
    dots = "".join(f'<circle class="mark {line.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in marked)
    return f'<polyline class="line {line.style}" points="{path}"/>{dots}'


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""   # the axis says it
    items = "".join(
        f'<span class="key"><i class="swatch {line.style}"></i>{escape(line.label)}</span>' for line in series
    )
    return f'<p class="legend" aria-hidden="true">{items}</p>'


def _interval_words(verdict: Verdict) -> str:
    words = f"{verdict.name}: {short(verdict.estimate or 0)}"
    if verdict.ci:
        words += f", interval {short(verdict.ci[0])} to {short(verdict.ci[1])}"
    return words + (f", threshold {short(verdict.threshold)}" if verdict.threshold is not None else "")


def _svg(title: str, width: float, height: float, body: str, *, style: str = "chart") -> str:
    label = escape(title, quote=True)
    return (
        f'<svg class="{style}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )
