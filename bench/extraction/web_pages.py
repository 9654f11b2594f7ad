"""How much of real articles is kept, and how much around them is dropped: on trafilatura's evaluation set.

    git clone https://github.com/adbar/trafilatura
    python bench/extraction/web_pages.py trafilatura/tests [--every 3] [--with-trafilatura]

The set names, for 990 pages, phrases that belong to the text and phrases that do not. 2026-11-21, two shared cores, --every 3:
slm-forge keeps 964 of 984 and drops 691 of 980 in 3.8 s; trafilatura 2.3.1 keeps 934 and drops 886 in 14.8 s, in its fast
mode 920 and 889 in 11.3 s. All pages: slm-forge keeps 2,883 of 2,951 and drops 2,126 of 2,966.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from forge.errors import ExtractError
from forge.plugins.extractors._decode import decode
from forge.plugins.extractors._html import page


def main() -> None:
    """Print one line for each reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th page")
    parser.add_argument("--with-trafilatura", action="store_true", help="needs pip install trafilatura lxml_html_clean")
    options = parser.parse_args()
    pages = list(json.loads((options.folder / "evaldata.json").read_text(encoding="utf-8")).values())[:: options.every]
    score("slm-forge", read_with_forge, options.folder, pages)
    if options.with_trafilatura:
        score("trafilatura", read_with_trafilatura, options.folder, pages)


def score(name: str, read: Callable[[bytes], str], folder: Path, pages: list[dict[str, list[str]]]) -> None:
    """Count the phrases found, of those that belong to the text and of those that do not."""
    start, found, wanted, kept, unwanted = time.monotonic(), 0, 0, 0, 0
    for one in pages:
        file = next(path for part in ("cache", "eval") if (path := folder / part / str(one["file"])).is_file())
        text = _joined(read(file.read_bytes()))
        wanted += len(one["with"])
        unwanted += len(one["without"])
        found += sum(_joined(phrase) in text for phrase in one["with"])
        kept += sum(_joined(phrase) in text for phrase in one["without"])
    print(f"{name}: keeps {found}/{wanted} of the text, drops {unwanted - kept}/{unwanted} of the rest, {time.monotonic() - start:.1f} s")


def read_with_forge(data: bytes) -> str:
    """The pieces that are kept."""
    try:
        return "\n".join(piece.text for piece in page(decode(data, html=True)) if not piece.dropped)
    except ExtractError:
        return ""


def read_with_trafilatura(data: bytes) -> str:
    """Its text with the settings of its own evaluation."""
    import trafilatura

    return trafilatura.extract(data, include_comments=False, include_tables=True) or ""


def _joined(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
