"""A teacher that replays answers: for tests, for rehearsals of paid settings, and to forge the same data set again for nothing.

`synth.endpoint` names a JSONL file as `record` writes it: first whose answers they are, then one TeacherResponse a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from forge.errors import UsageError
from forge.phase import Requirement
from forge.protocols import TeacherBrief, TeacherCapabilities, TeacherRequest, TeacherResponse


class RecordedTeacher:
    """Answers by request key; a request that was never recorded fails by name."""

    name: ClassVar[str] = "recorded"
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def __init__(self, brief: TeacherBrief = TeacherBrief()) -> None:  # noqa: B008  # frozen
        self.brief = brief

    def briefed(self, brief: TeacherBrief) -> RecordedTeacher:
        """The teacher for one run."""
        return RecordedTeacher(brief)

    def capabilities(self) -> TeacherCapabilities:
        """Free and deterministic, whatever was paid for the answers once; asked in the same way as whoever gave them."""
        facts = Path(self.brief.endpoint).is_file() and self.identity != "offline"
        return TeacherCapabilities(paid=False, deterministic=True, checks=True, facts=facts)

    def preflight(self) -> None:
        """Raises UsageError when the file is not there or unreadable."""
        _ = self._recording

    def price(self, request: TeacherRequest) -> int:
        """Nothing, in micro-dollars."""
        return 0

    @property
    def identity(self) -> str:
        """Whose answers these are; part of the request keys."""
        return self._recording[0]

    def generate(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """The recorded answers, in the order of the requests."""
        for request in requests:
            answer = self._recording[1].get(request.key)
            yield answer.model_copy(update={"micro_usd": 0}) if answer else TeacherResponse(key=request.key, error="no answer was recorded for this request")

    @cached_property
    def _recording(self) -> tuple[str, dict[str, TeacherResponse]]:
        path = Path(self.brief.endpoint)
        if not self.brief.endpoint or not path.is_file():
            raise UsageError("the teacher recorded has no recording", why=f"there is no file at {self.brief.endpoint!r}", next="--set synth.endpoint=FILE.jsonl")
        try:
            first, *rest = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            identity = str(json.loads(first)["identity"])
            answers = [TeacherResponse.model_validate_json(line) for line in rest]
        except (ValueError, KeyError, TypeError) as error:
            why = str(error).splitlines()[0]
            raise UsageError(f"{path} is no recording", why=why, next="each line after the first is a teacher's response as JSON") from error
        return identity, {answer.key: answer for answer in answers}


teacher = RecordedTeacher()


def record(identity: str, answers: Iterable[TeacherResponse], path: Path) -> None:
    """Write the answers of a teacher ("anthropic/claude-haiku-5-5") where the recorded one finds them, sorted by key."""
    lines = [answer.model_dump_json() for answer in sorted(answers, key=lambda answer: answer.key)]
    path.write_text("".join(line + "\n" for line in [json.dumps({"identity": identity}), *lines]), encoding="utf-8")
