"""audit: lets the passages through that are worth learning from, and says of every other why it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from forge.phase import Context, Estimate, Output, Requirement, Table
from forge.phases.audit.settings import AuditSettings

SECONDS_PER_MB, SECONDS_TO_START = 1.2, 1.0
"""Measured on the Rust book and the OWASP cheat sheets, two slow cores; the start is mostly py3langid's model."""


class Audit:
    """Masks what prep's rules did not know yet, filters, removes copies, and merges documents that share text into one group."""

    name: ClassVar[str] = "audit"
    VERSION: ClassVar[int] = 4
    summary: ClassVar[str] = (
        "Mask secrets, drop poor, foreign and repeated passages, group documents that share text."
    )
    reads: ClassVar[tuple[str, ...]] = ("documents", "passages")
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="clean", path="clean.jsonl"),
        Output(name="drops", path="drops.jsonl"),
        Output(name="audit", path="audit.json"),
        Output(name="spotcheck", path="spotcheck.jsonl"),
    )
    settings: ClassVar[type[AuditSettings]] = AuditSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ("py3langid", "numpy")
    requires: ClassVar[tuple[Requirement, ...]] = ()
    may_require: ClassVar[tuple[Requirement, ...]] = (Requirement(module="datasketch", extra="datasketch"),)
    always: ClassVar[bool] = False

    def estimate(self, settings: AuditSettings, ctx: Context) -> Estimate:
        """Seconds from the size of the passages; audit costs nothing."""
        megabytes = ctx.input("passages").stat().st_size / 1e6
        seconds = SECONDS_TO_START + SECONDS_PER_MB * megabytes
        return Estimate(
            seconds_p50=seconds,
            seconds_p90=2 * seconds,
            basis=f"{megabytes:.1f} MB of passages, measured on two cores",
        )

    def run(self, settings: AuditSettings, ctx: Context) -> Mapping[str, float | str]:
        """Sieve the passages. Raises ForgeError when fewer than min_passages are left."""
        from forge.phases.audit.steps import Steps

        steps = Steps(settings, ctx)
        stages = (
            ("secrets, boilerplate", steps.clean), ("language, quality, references", steps.filter), ("copies", steps.drop_copies),
            ("evaluation sets" if settings.evaluation_sets else "documents that share text", steps.merge),
            ("topics", steps.sort_by_topic), ("writing", steps.write),
        )  # fmt: skip
        for number, (note, step) in enumerate(stages):
            ctx.check_stop()
            ctx.progress(number, len(stages), note)
            steps.tell = partial(_tell, ctx, number, len(stages), note)
            step()
        ctx.progress(len(stages), len(stages), "done")
        return metrics(steps.numbers)

    def named_files(self, settings: AuditSettings) -> str:
        """The contents of the evaluation sets and of the decisions."""
        from forge.phases.audit.evaluation_sets import fingerprint
        from forge.records import digest

        named = [fingerprint(settings.evaluation_sets), fingerprint((settings.decisions,) if settings.decisions else ())]
        return digest(*named) if any(named) else ""

    def undo(self, settings: AuditSettings, ctx: Context) -> None:
        """Nothing outside the run folder."""

    def tables(self, find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
        """What `forge show` prints: passages by reason, or with `dropped` each one that went."""
        from forge.phases.audit import report

        return report.tables(find, dropped=dropped)


def _tell(ctx: Context, number: int, stages: int, note: str, share: float) -> None:
    ctx.progress(number + share, stages, note)


def metrics(numbers: Mapping[str, Any]) -> dict[str, float | str]:
    """The numbers of audit.json that the report shows."""
    found: dict[str, float | str] = {"read": numbers["read"], "kept": numbers["kept"]}
    found |= {f"dropped_{reason}": count for reason, count in numbers["dropped_by_reason"].items()}
    reasons = " · ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in numbers["dropped_by_reason"].items())
    masked = sum(numbers["secrets_masked"].values())
    found["summary"] = f"{numbers['kept']:,} of {numbers['read']:,} kept · dropped: {reasons or 'none'} · {masked:,} private items masked"
    found["documents_merged"] = sum(map(len, numbers["merged_documents"]))
    found["secrets_masked"] = masked
    if numbers["contamination"]:
        found["evaluation_items_found"] = numbers["contamination"]["items_found"]
    found["topic_outliers"] = len(numbers["outliers"]["found"])
    found["subtopics"] = len(numbers["subtopics"])
    found["languages_kept"] = ", ".join(numbers["languages_kept"])
    return found


phase = Audit()
