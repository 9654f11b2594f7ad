"""prep: a folder of documents becomes documents.jsonl and passages.jsonl, with every character accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from forge.errors import ForgeError
from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.phases.prep.extract import Reader, Result, ended
from forge.phases.prep.read import DUPLICATE, as_copy, read_files, split_duplicates
from forge.phases.prep.sample import NOT_SAMPLED, sample, text_bytes
from forge.records import CorpusEntry, read_jsonl, write_jsonl

SECONDS_PER_TEXT_MB = 0.6
"""Two slow cores, wall clock: the Rust book in Markdown and .docx, 2.0 MB of text, takes 1.2 s."""

DRY_RUN_TEXT_MB = 0.4
SHOWN_FAILURES = 20


class PrepSettings(Settings):
    """How documents are read and cut."""

    passage_words: int = Field(180, ge=20, description="length that passages aim at, in words")
    passage_words_max: int = Field(320, ge=30, description="longest passage, in words")
    pdf_engine: Literal["pypdfium2", "mupdf", "auto"] = Field(
        "pypdfium2", description="library that reads PDF; mupdf needs the [mupdf] extra (AGPL), auto takes it if installed"
    )
    seconds_per_file: float = Field(120.0, gt=0, description="a file that takes longer is given up, in seconds")
    memory_mib: int = Field(4096, ge=128, description="memory that reading one file may take, in MiB")
    workers: int = Field(0, ge=0, description="files read at once; 0 = one per core, at most 4; the result does not depend on it")
    allowed_failed_share: float = Field(
        0.2, ge=0, le=1, description="share of readable files that may fail before the phase fails; skipped and refused do not count"
    )

    @model_validator(mode="after")
    def _ordered(self) -> PrepSettings:
        if self.passage_words_max < self.passage_words:
            raise ValueError("passage_words_max is below passage_words")
        return self


class Prep:
    """Routes, extracts, cuts and counts; one Document for every name in the corpus."""

    name: ClassVar[str] = "prep"
    VERSION: ClassVar[int] = 1
    summary: ClassVar[str] = "Read the corpus: text of every document, cut into passages by its structure."
    reads: ClassVar[tuple[str, ...]] = ("corpus",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="documents", path="documents.jsonl"),
        Output(name="passages", path="passages.jsonl"),
    )
    settings: ClassVar[type[PrepSettings]] = PrepSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ("pypdfium2", "pymupdf", "lxml", "charset-normalizer")
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = False

    def estimate(self, settings: PrepSettings, ctx: Context) -> Estimate:
        """Seconds from the corpus' size; reading costs nothing."""
        entries = _files(_listing(ctx))
        megabytes = sum(text_bytes(entry) for entry in entries) / 1e6
        if ctx.dry_run:
            megabytes = min(megabytes, DRY_RUN_TEXT_MB)
        seconds = 0.3 + SECONDS_PER_TEXT_MB * megabytes
        return Estimate(seconds_p50=seconds, seconds_p90=3 * seconds, basis=f"{megabytes:.1f} MB of text, measured on two cores")

    def run(self, settings: PrepSettings, ctx: Context) -> Mapping[str, float | str]:
        """Read everything; fails when nothing gave text or too many files failed."""
        listing = _listing(ctx)
        extractors = {name: ctx.use("extractor", name, ready=False) for name in ctx.names("extractor")}
        extensions = {extension: kind for plugin in extractors.values() for extension, kind in plugin.extensions.items()}
        leaders, copies = split_duplicates(_files(listing), extensions)
        chosen = sample(leaders, extensions) if ctx.dry_run else leaders
        read = read_files(
            chosen, ctx.corpus_root, make_reader(extractors, settings), journal=ctx.journal(), workers=settings.workers,
            seconds=settings.seconds_per_file, memory_mib=settings.memory_mib, tick=ctx.check_stop,
            on_file=lambda done, total, name: ctx.progress(done, total, name),
        )
        results = [result for entry in listing for result in _result(entry, read, copies)]
        _check_ids(results)
        write_jsonl(ctx.output("documents"), (result.document for result in results))
        write_jsonl(ctx.output("passages"), (passage for result in results for passage in result.passages))
        _tell_failures(results, ctx)
        _check_losses(results, settings)
        return _metrics(results, ctx.dry_run, len(chosen), len(leaders))

    def undo(self, settings: PrepSettings, ctx: Context) -> None:
        """Nothing outside the run folder."""


phase = Prep()


def make_reader(extractors: Mapping[str, Any], settings: PrepSettings) -> Reader:
    """The reader that the settings describe; `extractors`: name -> plugin, also those whose extra is missing."""
    options = {"pdf_engine": settings.pdf_engine}
    return Reader(extractors, words=settings.passage_words, words_max=settings.passage_words_max, options=options)


def not_opened(entry: CorpusEntry) -> Result:
    """How a name that is no regular file ends: a link or a FIFO is skipped, an unreadable file or folder failed."""
    return ended(entry, "failed" if entry.kind == "unreadable" else "skipped", entry.note)


def _listing(ctx: Context) -> list[CorpusEntry]:
    return list(read_jsonl(ctx.input("corpus"), CorpusEntry))


def _files(listing: list[CorpusEntry]) -> list[CorpusEntry]:
    return [entry for entry in listing if entry.kind == "file"]


def _result(
    entry: CorpusEntry, read: Mapping[str, tuple[Result, ...]], copies: Mapping[str, CorpusEntry]
) -> tuple[Result, ...]:
    if entry.kind != "file":
        return (not_opened(entry),)
    if entry.path in read:
        return read[entry.path]
    leader = copies.get(entry.path)
    if leader and leader.path in read:
        return (as_copy(entry, read[leader.path][0]),)
    return (ended(entry, "skipped", NOT_SAMPLED),)


def _check_ids(results: list[Result]) -> None:
    owners: dict[str, str] = {}
    for document in (result.document for result in results):
        other = owners.setdefault(document.id, document.source.path)
        if other != document.source.path:
            raise ForgeError(
                f"two files share the id {document.id}", why=f"{other!r} and {document.source.path!r} hash alike",
                next="rename one of them",
            )


def _tell_failures(results: list[Result], ctx: Context) -> None:
    failed = [result.document for result in results if result.document.status == "failed"]
    for document in failed[:SHOWN_FAILURES]:
        ctx.notice(f"not read: {document.source.path!r}: {document.reason}")
    if len(failed) > SHOWN_FAILURES:
        ctx.notice(f"not read: {len(failed) - SHOWN_FAILURES:,} more files; documents.jsonl has the reasons")


def _check_losses(results: list[Result], settings: PrepSettings) -> None:
    """Raise ForgeError when the corpus was empty, gave no text, or lost more than the allowed share to failures."""
    counts = Counter(result.document.status for result in results)
    told = ", ".join(f"{counts[status]:,} {status}" for status in ("ok", "failed", "refused", "skipped") if counts[status])
    if not results:
        raise ForgeError("the corpus is empty", why="the folder holds no file", next="forge run FOLDER with documents in it")
    reasons = Counter(result.document.reason for result in results if result.document.status != "ok")
    why = "; ".join(f"{count:,} x {reason}" for reason, count in sorted(reasons.items(), key=lambda one: (-one[1], one[0]))[:3])
    look = "forge extract FILE --out text.jsonl shows one file's reason"
    if not any(result.passages for result in results):
        raise ForgeError(f"no file yielded text ({len(results):,} names: {told})", why=why, next=_install(reasons) or look)
    tried = counts["ok"] + counts["failed"]
    if counts["failed"] > settings.allowed_failed_share * tried:
        failures = [result.document for result in results if result.document.status == "failed"]
        first = "; ".join(f"{one.source.path!r}: {one.reason}" for one in failures[:3])
        raise ForgeError(
            f"{counts['failed']:,} of {tried:,} readable files failed ({told})",
            why=f"at most {settings.allowed_failed_share:.0%} may fail; {first}",
            next=_install(reasons) or f"{look}; accept the loss with "
            f"--set prep.allowed_failed_share={min(1.0, counts['failed'] / tried + 0.01):.2f}",
        )


def _install(reasons: Mapping[str, int]) -> str:
    """The install command when a missing extra is the reason."""
    commands = sorted({reason[reason.index("pip install ") :] for reason in reasons if "pip install " in reason})
    return " && ".join(commands)


def _metrics(results: list[Result], dry_run: bool, chosen: int, distinct: int) -> dict[str, float | str]:
    documents = [result.document for result in results]
    counts = Counter(document.status for document in documents)
    numbers: dict[str, float | str] = {"files": len(documents)}
    numbers.update({status: counts[status] for status in ("ok", "skipped", "refused", "failed")})
    numbers["duplicates"] = sum(document.reason.startswith(DUPLICATE) for document in documents)
    numbers["passages"] = sum(len(result.passages) for result in results)
    numbers["chars_extracted"] = sum(document.balance.extracted for document in documents)
    numbers["chars_kept"] = sum(document.balance.kept for document in documents)
    numbers["chars_dropped"] = sum(sum(document.balance.dropped.values()) for document in documents)
    numbers["chars_duplicate"] = sum(document.balance.duplicate for document in documents)
    losses = sum((Counter(result.losses) for result in results), Counter())
    numbers.update({what.replace(" ", "_"): count for what, count in sorted(losses.items())})
    extractors = Counter(document.extractor for document in documents if document.status == "ok")
    numbers.update({f"read_by_{name}": count for name, count in sorted(extractors.items())})
    if dry_run:
        numbers["sample"] = f"{chosen:,} of {distinct:,} distinct files"
    numbers["summary"] = _summary(counts, extractors, len(documents), int(numbers["passages"]))
    return numbers


def _summary(counts: Mapping[Any, int], extractors: Counter[str], files: int, passages: int) -> str:
    lost = [f"{counts[status]:,} {status}" for status in ("failed", "refused", "skipped") if counts[status]]
    kinds = [f"{name} {count:,}" for name, count in extractors.most_common()]
    return " · ".join([f"{passages:,} passages from {counts['ok']:,} of {files:,} files", *kinds, *lost])
