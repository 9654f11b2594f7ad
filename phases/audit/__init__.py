"""audit: lets the passages through that are worth learning from, and says of every other why it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from forge.phase import Context, Estimate, Output, Requirement, Table
from forge.phases.audit.settings import AuditSettings
from forge.records import Document, Passage, read_jsonl, write_json, write_jsonl

STAGES = 7
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
        from forge.phases.audit import copies, filters, report, spotcheck, topics
        from forge.phases.audit.sieve import Sieve

        def stage(number: int, note: str) -> None:
            ctx.check_stop()
            ctx.progress(number, STAGES, note)

        stage(0, "secrets, boilerplate")
        documents = sorted(read_jsonl(ctx.input("documents"), Document), key=lambda one: one.id)
        sieve = Sieve(read_jsonl(ctx.input("passages"), Passage), ctx.check_stop)
        if not settings.metadata:
            filters.drop_metadata(sieve, ctx.check_stop)
        filters.cut_boilerplate(sieve, ctx.check_stop)
        filters.cut_structure(sieve, ctx.check_stop)
        everything = list(sieve.kept.values())
        stage(1, "language, quality, references")
        by_language, allowed = filters.drop_unfit(sieve, ctx.check_stop, settings)
        chosen = filters.drop_decided(sieve, ctx.check_stop, settings)
        stage(3, "copies")
        copied = copies.drop_copies(sieve, documents, engine=settings.dedup_engine, threshold=settings.near_duplicate)
        stage(4, "evaluation sets" if settings.evaluation_sets else "documents that share text")
        contaminated = filters.drop_evaluation_items(sieve, ctx.check_stop, settings)
        group_of = copies.merged_groups(everything, copied)
        sieve.merge_groups(group_of)
        stage(5, "topics")
        ordered = sieve.ordered()
        terms = topics.fit_terms(ordered)
        counted = terms.counts((passage.text for passage in ordered), ctx.check_stop)
        strange = filters.drop_outliers(sieve, ctx.check_stop, settings, terms, counted)
        left = counted.take(topics.places(ordered, sieve.kept))
        subtopic_of = topics.name_subtopics(sieve.ordered(), settings.subtopics, ctx.check_stop, terms, left)
        subtopic_of |= {id: name for id, name in chosen.items() if id in sieve.kept}
        sieve.label("subtopic", subtopic_of)
        sieve.check_masked()
        clusters = copies.clusters(group_of)
        before = len({passage.group for passage in everything})
        numbers = report.summarize(
            sieve,
            characters_by_language=by_language,
            allowed=allowed,
            clusters=clusters,
            groups=(before, before - sum(map(len, clusters)) + len(clusters)),
            paths={document.id: document.source.path for document in documents},
            engine=settings.dedup_engine,
            threshold=settings.near_duplicate,
            subtopics=topics.counts(subtopic_of),
            contamination=contaminated,
            outliers=strange.told(settings.outliers),
        )
        report.check_enough(
            sieve,
            run_id=ctx.run_id,
            ready_made=ctx.task != "chat",
            least=settings.min_passages,
            allowed=allowed,
            min_words=settings.min_words,
            min_chars=settings.min_chars,
        )
        stage(6, "writing")
        write_jsonl(ctx.output("clean"), sieve.kept.values())
        write_jsonl(ctx.output("drops"), sieve.drops)
        write_jsonl(ctx.output("spotcheck"), spotcheck.choose(sieve, strange))
        write_json(ctx.output("audit"), numbers)
        stage(STAGES, "done")
        if strange.found and settings.outliers == "flag":
            ctx.notice(
                f"{len(strange.found):,} of {strange.judged:,} documents speak of something else than the rest, such as {strange.found[0].path}:"
                f" see forge show {ctx.run_id} audit; audit.outliers=drop leaves them out"
            )
        return metrics(numbers)

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
