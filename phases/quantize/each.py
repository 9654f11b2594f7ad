"""Which files are too damaged by their rounding to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forge.file_answers import FileAnswers, measure_of
from forge.phases.quantize.gguf_facts import GgufFile
from forge.phases.quantize.judge import worst
from forge.records import Verdict


def collect(files: Sequence[GgufFile], main: GgufFile, given: Mapping[str, tuple[int, Sequence[Verdict]]]) -> list[FileAnswers]:
    """One record for each file. given: quantization -> rows that were answered, and what was concluded from them.

    A file is left out when it surely fails where the main file does not. F16 computes what was trained, and stays.
    """
    excused = _failed(main, given[main.quantization][1])
    found = []
    for file in files:
        rows, verdicts = given[file.quantization]
        faults = [] if file.quantization == "F16" else sorted(_failed(file, verdicts).keys() - excused.keys())
        found.append(FileAnswers(
            name=file.name, quantization=file.quantization, rows=rows, outcome=worst([one for one in verdicts if one.kind == "quality"]),
            left_out="; ".join(_say(_failed(file, verdicts)[fault]) for fault in faults), verdicts=tuple(verdicts),
        ))
    return found


def _failed(file: GgufFile, verdicts: Sequence[Verdict]) -> dict[str, Verdict]:
    return {measure_of(one, file.quantization): one for one in verdicts if one.kind == "quality" and one.outcome == "fail"}


def _say(verdict: Verdict) -> str:
    interval = f" ({verdict.ci[0]:.3g} to {verdict.ci[1]:.3g})" if verdict.ci else ""
    limit = f", the limit is {verdict.threshold:g}" if verdict.threshold is not None else ""
    return f"{verdict.name} is {verdict.estimate:.3g}{interval}{limit}"
