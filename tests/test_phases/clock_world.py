"""A small corpus about clocks as clean.jsonl, for the tests of synth and shape: eight documents, sixteen passages."""

from __future__ import annotations

from pathlib import Path

from forge.records import Passage, Source, write_jsonl

PARTS = ("escapement", "mainspring", "pendulum", "balance wheel", "winding crown", "gear train", "hour hammer", "dial plate")


def clock_passages(documents: int = 8) -> list[Passage]:
    """Two passages for each of `documents` documents; document 0 is about the escapement, and so on."""
    return [passage for number in range(documents) for passage in _document(number)]


def write_clean(path: Path, passages: list[Passage]) -> Path:
    """The passages as a clean.jsonl artifact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, passages)
    return path


def _document(number: int) -> list[Passage]:
    part, other = PARTS[number % len(PARTS)], PARTS[(number + 3) % len(PARTS)]
    title = f"The {part}"
    first = (
        f"A {part} is a component of a tower clock that moves with the Harlow gauge {number + 11}. "
        f"The {part} controls how much force the movement of series {number + 40} receives. "
        f"The {part} must be oiled every {number + 3} months with bone oil. "
        f"A {part} has {number + 2} bearings that are made of ruby."
    )
    second = (
        f"When the {part} wears out, the clock loses {number + 5} seconds a day. "
        f"The {part} is replaced by hand in the workshop of guild {number + 70}. "
        f"To adjust a worn {part}, loosen both screws and turn the cam by {number + 15} degrees. "
        f"The {part} is brittle because it was hardened at {number + 700} degrees."
    )
    return [
        _passage(number, 0, title, first),
        _passage(number, 1, f"{title} > Repairing the {part} beside the {other}", second),
    ]


def _passage(document: int, place: int, heading: str, text: str) -> Passage:
    source = Source(path=f"part-{document}.md", sha256=f"{document:064d}", locator=f"line={place + 1}")
    return Passage(
        id=f"doc{document}-{place:06d}", source=source, group=f"doc{document}", text=text, tokens=len(text) // 4,
        meta={"heading": heading, "kind": "prose"},
    )
