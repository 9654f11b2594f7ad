"""What each file of a model answers on the tests: written by quantize, told by the card and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from forge.records import Record, Verdict


class FileAnswers(Record):
    """The tests as one file answers them.

    `rows` were answered freely; `left_out` says why the file does not ship, empty when it does. Only the verdicts on the file
    that the Modelfile names count for the model; each other file has to stand for itself.
    """

    name: str
    quantization: str
    rows: int
    outcome: Literal["pass", "fail", "undecided"]
    left_out: str = ""
    verdicts: tuple[Verdict, ...]


def read_each(ship_eval: Mapping[str, Any]) -> list[FileAnswers]:
    """The files of a ship-eval.json; none in one that was written before each file was asked."""
    return [FileAnswers.model_validate(row) for row in ship_eval.get("each", [])]


def measure_of(verdict: Verdict, quantization: str) -> str:
    """What a verdict measures, without the file's suffix."""
    return verdict.name.removesuffix(f"_{quantization.lower()}")


def table(each: Sequence[FileAnswers]) -> list[tuple[str, float | None, list[Verdict | None]]]:
    """For each measure that has a limit: the limit, None where every file has its own, and what was found for each file, in the files'
    order; None where it was not measured.
    """
    columns = [{measure_of(one, file.quantization): one for one in file.verdicts} for file in each]
    limits: dict[str, set[float]] = {}
    for column in columns:
        for measure, one in column.items():
            if one.threshold is not None:
                limits.setdefault(measure, set()).add(one.threshold)
    return [
        (measure, next(iter(those)) if len(those) == 1 else None, [column.get(measure) for column in columns])
        for measure, those in limits.items()
    ]
