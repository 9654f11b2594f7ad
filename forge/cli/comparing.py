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
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #1d2126; --soft: #5d6570; --line: #e4e1db; --good: #1a7a46; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --card: #1b1f25; --ink: #e8e9eb; --soft: #a2aab5; --line: #2e343c; --good: #6fd39b; --bad: #ff8f85; }
}
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; background: var(--paper); color: var(--ink); max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .4rem 1rem; margin: 1rem 0 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-size: .8rem; } tr:last-child td { border-bottom: 0; }
td { overflow-wrap: break-word; max-width: 24rem; } td.answer { white-space: pre-wrap; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
p.lead { font-size: 1.15rem; } .aside { color: var(--soft); font-size: .85rem; }
@media (max-width: 44rem) {
  thead { display: none; } table, tbody { display: block; } tr { display: block; padding: .6rem 0; border-bottom: 1px solid var(--line); } tr:last-child { border-bottom: 0; }
  td { display: block; border: 0; padding: .1rem 0; max-width: none; overflow-wrap: anywhere; } td:first-child { font-weight: 600; } td.number { display: inline-block; margin-right: .9rem; }
  td[data-label]::before { content: attr(data-label) " "; color: var(--soft); font-size: .78rem; font-weight: 400; } .aside { font-weight: 400; }
}
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
        names = ("measure", one.first, one.second, "difference", "95 % interval", "p", "rows", "better")
        parts.append(_table(names, [_row(row, names, one) for row in one.differences]))
    parts.append(_answers(sides))
    title = escape(" / ".join(side.name for side in sides))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
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


def _table(names: Sequence[str], rows: Sequence[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _row(row: Difference, names: Sequence[str], found: Comparison) -> str:
    cells = list(_cells(row))
    cells.insert(5, "-" if row.p is None else f"{row.p:.3g}")
    kind = {"second": "better", "first": "worse"}.get(row.better, "aside")
    numbers = "".join(f'<td class="number" data-label="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(names[1:-1], cells[1:-1], strict=True))
    better = {"first": found.first, "second": found.second}.get(row.better, row.better)
    first = f'<td>{escape(cells[0])}<br><span class="aside">{escape(row.about)}</span></td>'
    return f'<tr>{first}{numbers}<td class="{kind}" data-label="better">{escape(better)}</td></tr>'


def _answers(sides: Sequence[Side]) -> str:
    """Questions that all of them answered, and not all alike; the first SHOWN_ANSWERS by id."""
    shared = sorted(set.intersection(*(set(side.rows) for side in sides)))
    asked = [[side.rows[name] for side in sides] for name in shared]
    differ = [rows for rows in asked if all(row.generated for row in rows) and len({row.tuned for row in rows}) > 1]
    if not differ:
        return "<p>No question was answered differently.</p>"
    names = ("question", "expected", *(side.name for side in sides))
    body = [
        f"<tr><td>{escape(rows[0].prompt[-1].content)}</td>"
        + "".join(f'<td class="answer" data-label="{escape(name)}">{escape(text)}</td>' for name, text in zip(names[1:], (rows[0].gold, *(row.tuned for row in rows)), strict=True))
        + "</tr>" for rows in differ[:SHOWN_ANSWERS]
    ]
    told = f"{len(differ)} questions answered differently" + (f", the first {SHOWN_ANSWERS} shown" if len(differ) > SHOWN_ANSWERS else "")
    return f"<h2>{told}</h2>{_table(names, body)}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ForgeError(f"cannot write {path}", why=error.strerror or str(error), next="forge compare RUN RUN --html FILE") from error
