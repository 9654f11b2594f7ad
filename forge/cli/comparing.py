"""`forge compare`: tables of differences, and a page with the answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from forge import ui
from forge.compare import Comparison, Difference, Side, compare_sides, read_side
from forge.errors import ForgeError

SHOWN_ANSWERS = 200
STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #b42318; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
p.lead { font-size: 1.15rem; } .aside { opacity: .7; }
"""


def show_comparison(words: Sequence[str], html: Path | None, *, as_json: bool) -> None:
    """Compare every run with the first, and print it or write the page."""
    sides = [read_side(word) for word in words]
    found = [compare_sides(sides[0], side) for side in sides[1:]]
    if html is not None:
        _write(html, page(sides, found))
    if as_json:
        ui.out_json([{**one.model_dump(mode="json"), "better": one.better, "sentence": one.sentence} for one in found])
        return
    for one in found:
        ui.out(one.sentence)
        ui.table([_narrow(row, one) for row in one.differences], ("measure", one.first, one.second, "difference, 95 %", "better"))
        ui.out()
    if html is not None:
        ui.out(f"wrote {html}")
    last = found[-1]
    better = last.second if last.better == "second" else last.first
    ui.next_step(f"forge champion {better.partition(':')[0]}")


def page(sides: Sequence[Side], found: Sequence[Comparison]) -> str:
    """One self-contained page: the tables, then every question that the models answered differently."""
    parts = [f"<h1>{escape(' · '.join(side.name for side in sides))}</h1>"]
    for one in found:
        parts.append(f'<p class="lead">{escape(one.sentence)}</p>')
        rows = "".join(_row(row) for row in one.differences)
        heads = "".join(f"<th>{escape(name)}</th>" for name in ("measure", one.first, one.second, "difference", "95 % interval", "p", "rows", "better"))
        parts.append(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
    parts.append(_answers(sides))
    title = escape(" / ".join(side.name for side in sides))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _cells(row: Difference) -> tuple[str, ...]:
    if row.ci is None or row.difference is None:
        return (row.name, "-", "-", "-", "-", str(row.rows), row.better)
    return (
        row.name, f"{row.first:.3f}", f"{row.second:.3f}", f"{row.difference:+.3f}", f"{row.ci[0]:+.3f} to {row.ci[1]:+.3f}",
        str(row.rows), row.better,
    )


def _narrow(row: Difference, found: Comparison) -> tuple[str, ...]:
    """The same for 80 columns."""
    better = {"first": found.first, "second": found.second}.get(row.better, row.better)
    if row.ci is None:
        return (row.name, "-", "-", "-", better)
    return (row.name, f"{row.first:.3f}", f"{row.second:.3f}", f"{row.difference:+.2f} [{row.ci[0]:+.2f}, {row.ci[1]:+.2f}]", better)


def _row(row: Difference) -> str:
    cells = list(_cells(row))
    cells.insert(5, "-" if row.p is None else f"{row.p:.3g}")
    kind = {"second": "better", "first": "worse"}.get(row.better, "aside")
    numbers = "".join(f'<td class="number">{escape(cell)}</td>' for cell in cells[1:-1])
    return f'<tr><td>{escape(cells[0])}<br><span class="aside">{escape(row.about)}</span></td>{numbers}<td class="{kind}">{escape(cells[-1])}</td></tr>'


def _answers(sides: Sequence[Side]) -> str:
    """Questions that all of them answered, and not all alike; the first SHOWN_ANSWERS by id."""
    shared = sorted(set.intersection(*(set(side.rows) for side in sides)))
    asked = [[side.rows[name] for side in sides] for name in shared]
    differ = [rows for rows in asked if all(row.generated for row in rows) and len({row.tuned for row in rows}) > 1]
    if not differ:
        return "<p>No question was answered differently.</p>"
    heads = "".join(f"<th>{escape(name)}</th>" for name in ("question", "expected", *(side.name for side in sides)))
    body = "".join(
        f"<tr><td>{escape(rows[0].prompt[-1].content)}</td><td>{escape(rows[0].gold)}</td>"
        + "".join(f"<td>{escape(row.tuned)}</td>" for row in rows) + "</tr>"
        for rows in differ[:SHOWN_ANSWERS]
    )
    told = f"{len(differ)} questions answered differently" + (f", the first {SHOWN_ANSWERS} shown" if len(differ) > SHOWN_ANSWERS else "")
    return f"<h2>{told}</h2><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ForgeError(f"cannot write {path}", why=error.strerror or str(error), next="forge compare RUN RUN --html FILE") from error
