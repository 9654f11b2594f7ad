"""prep: a folder of documents becomes documents.jsonl and passages.jsonl, with every character accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from forge import private
from forge.cache import Cache
from forge.isolate import gaps
from forge.phase import Context, Estimate, Output, Requirement, Settings, Table
from forge.phases.prep import persons, report
from forge.phases.prep.extract import Reader, Result, ended
from forge.phases.prep.listing import Listing
from forge.phases.prep.masking import Find
from forge.phases.prep.read import Limits, read_files
from forge.phases.prep.results import Results
from forge.phases.prep.sample import NOT_SAMPLED, sample, text_bytes
from forge.phases.prep.sidecars import endings
from forge.phases.prep.spread import spread
from forge.phases.prep.stamp import reading_stamp
from forge.protocols import Option
from forge.records import CorpusEntry, Document, read_jsonl, write_json
from forge.registry import require

SECONDS_PER_TEXT_MB = 0.6
"""Two slow cores, wall clock: the Rust book in Markdown and .docx, 2.0 MB of text, takes 1.2 s."""

DRY_RUN_TEXT_MB = 0.4
SHOWN_FAILURES = 20
READING_OPTIONS = {"pdf_engine", "ocr", "ocr_languages", "speech_model", "min_video_seconds", "max_rows", "max_ocr_pages", "pii", "pii_model"}


class PrepSettings(Settings):
    """How documents are read and cut."""

    passage_words: int = Field(180, ge=20, description="length that passages aim at, in words")
    passage_words_max: int = Field(320, ge=30, description="longest passage, in words")
    pdf_engine: Literal["pypdfium2", "mupdf", "auto"] = Field(
        "pypdfium2", description="library that reads PDF; mupdf needs the [mupdf] extra (AGPL), auto takes it if installed"
    )
    ocr: Literal["auto", "off", "tesseract", "rapidocr"] = Field(
        "auto", description="text of images and scanned pages: auto takes tesseract if it is on the PATH, else rapidocr if installed; off reads none"
    )
    ocr_languages: str = Field(
        "eng", pattern=r"^\w+(\+\w+)*$", description="languages of scanned text, as tesseract names them, joined by + (eng+deu)"
    )
    max_ocr_pages: int = Field(
        25, ge=1, description="scanned pages read of one file; the rest is reported. Each takes about 4 seconds of seconds_per_file"
    )
    speech_model: str = Field(
        "", description="folder of a faster-whisper model on this machine; without one, audio and video give no text"
    )
    min_video_seconds: float = Field(120.0, ge=0, description="shorter videos are skipped, in seconds; those without sound always are")
    pii: Literal["rules", "presidio"] = Field(
        "rules", description="what looks for personal data: the rules, or presidio as well (names of persons; the [pii] extra, 0.6 MB a second, slower with a model)"
    )
    pii_model: str = Field("", description="spaCy model by which presidio knows names: an installed package or a folder; nothing is downloaded")
    max_rows: int = Field(200_000, ge=1, description="rows read of one table; the rest is reported")
    seconds_per_file: float = Field(120.0, gt=0, description="a file that takes longer is given up, in seconds")
    memory_mib: int = Field(1024, ge=128, description="memory that reading one file may take, in MiB; a speech model needs 4096 or more")
    cache_mib: int = Field(
        2048, ge=0, description="room for what earlier runs read, shared by all runs, in MiB; the longest unused goes first"
    )
    workers: int = Field(0, ge=0, description="files read at once; 0 = one per core, at most 4; the result does not depend on it")
    allowed_failed_share: float = Field(
        0.2, ge=0, le=1, description="share of readable files that may fail before the phase fails; skipped and refused do not count"
    )

    @field_validator("ocr", mode="before")
    @classmethod
    def _yaml_word(cls, value: object) -> object:
        """YAML reads off as false: in forge.yaml and after --set that word must mean what it says."""
        return {False: "off", True: "auto"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _ordered(self) -> PrepSettings:
        if self.passage_words_max < self.passage_words:
            raise ValueError("passage_words_max is below passage_words")
        return self


class Prep:
    """Routes, extracts, cuts and counts; one Document for every name in the corpus."""

    name: ClassVar[str] = "prep"
    VERSION: ClassVar[int] = 3
    summary: ClassVar[str] = "Read the corpus: text of every document, cut into passages by its structure."
    reads: ClassVar[tuple[str, ...]] = ("corpus",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="documents", path="documents.jsonl"),
        Output(name="passages", path="passages.jsonl"),
        Output(name="prep", path="prep.json"),
        Output(name="prep_seconds", path="seconds.json", telemetry=True),
    )
    settings: ClassVar[type[PrepSettings]] = PrepSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = (
        "pypdfium2", "pymupdf", "lxml", "charset-normalizer", "python-oxmsg", "compressed-rtf", "python-calamine", "pyarrow", "pydicom",
        "h5py", "pyshp", "tifffile", "py7zr", "rarfile", "pillow", "pillow-heif", "av", "rapidocr", "faster-whisper", "presidio-analyzer", "spacy",
    )
    requires: ClassVar[tuple[Requirement, ...]] = ()
    may_require: ClassVar[tuple[Requirement, ...]] = persons.REQUIRES
    always: ClassVar[bool] = False

    def estimate(self, settings: PrepSettings, ctx: Context) -> Estimate:
        """Seconds from the corpus' size; reading costs nothing."""
        entries = read_jsonl(ctx.input("corpus"), CorpusEntry)
        megabytes = sum(text_bytes(entry) for entry in entries if entry.kind == "file") / 1e6
        if ctx.dry_run:
            megabytes = min(megabytes, DRY_RUN_TEXT_MB)
        seconds = 0.3 + SECONDS_PER_TEXT_MB * megabytes
        return Estimate(seconds_p50=seconds, seconds_p90=3 * seconds, basis=f"{megabytes:.1f} MB of text, measured on two cores")

    def run(self, settings: PrepSettings, ctx: Context) -> Mapping[str, float | str]:
        """Read everything; fails when nothing gave text or too many files failed."""
        extractors = load_extractors(ctx.names("extractor"), lambda name: ctx.use("extractor", name, ready=False), ctx.notice)
        if settings.pii == "presidio" and not settings.pii_model:
            ctx.notice("names of persons are not looked for: presidio needs a spaCy model for them (prep.pii_model)")
        for gap in gaps():
            ctx.notice(f"isolation is incomplete: {gap}")
        extensions = {extension: kind for plugin in extractors.values() for extension, kind in plugin.extensions.items()}
        sidecars = endings(extractors)
        listing = Listing(read_jsonl(ctx.input("corpus"), CorpusEntry), extensions, sidecars)
        cache = Cache(ctx.cache / "prep.db", max_bytes=settings.cache_mib << 20)
        with closing(listing), closing(cache), Results(ctx.work / "results.db", extensions, sidecars) as results:
            if ctx.dry_run:
                listing.choose(sample(listing.leaders(), extensions))
            read_files(
                listing, ctx.corpus_root, make_reader(extractors, settings), results, ctx.work, limits=make_limits(settings),
                cache=cache, stamp=_stamp(extractors, settings),
                on_file=lambda progress: ctx.progress(**progress.fields()), tick=ctx.check_stop, spread=spread(ctx, settings),
            )
            tell_unread(listing, results)
            _write(results, ctx)
            _tell_failures(results, ctx)
            report.check_losses(results, settings.allowed_failed_share)
            numbers = report.metrics(results)
            if ctx.dry_run:
                numbers["sample"] = f"{listing.count_chosen():,} of {listing.count_leaders():,} distinct files"
            return numbers

    def identity(self, settings: PrepSettings, ctx: Context) -> str:
        """The code, libraries and programs that reading depends on."""
        return _stamp(load_extractors(ctx.names("extractor"), lambda name: ctx.use("extractor", name, ready=False)), settings)

    def reusable(self, metrics: Mapping[str, float | str]) -> Mapping[str, float | str] | None:
        """What another run over the same corpus shows: it read nothing. None after failures: they are worth another try."""
        known = int(metrics["files_read"]) + int(metrics["from_cache"])
        return None if metrics["failed"] else {**metrics, "files_read": 0, "from_cache": known}

    def undo(self, settings: PrepSettings, ctx: Context) -> None:
        """Nothing outside the run folder but the cache, which all runs share."""

    def tables(self, find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
        """What `forge show` prints: families, or with `dropped` what gave no text and why."""
        return report.tables(find, dropped=dropped)


phase = Prep()


def load_extractors(names: Iterable[str], load: Callable[[str], Any], tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """All extractors by name, also those whose extra is missing. One that cannot be imported costs its files, not the run."""
    found = {}
    for name in names:
        found[name] = load(name)
        if reason := getattr(found[name], "broken", ""):
            tell(f"the extractor {name} cannot be imported, its files fail: {reason}")
    return found


def reading_options(settings: PrepSettings) -> dict[str, Option]:
    """What extractors are told (Reading.options): every setting that they may look at."""
    return settings.model_dump(include=READING_OPTIONS)


def make_reader(extractors: Mapping[str, Any], settings: PrepSettings, *, masked: bool = True) -> Reader:
    """The reader that the settings describe; `extractors`: name -> plugin, also those whose extra is missing.

    masked: without secrets and personal data, as in every run; `forge extract` shows a file as it is.
    """
    options = reading_options(settings) | {"seconds_per_file": settings.seconds_per_file}  # no part of the stamp: it ends what is slow
    return Reader(extractors, words=settings.passage_words, words_max=settings.passage_words_max, options=options, masked=masked, find=_finder(settings))


def _finder(settings: PrepSettings) -> Find:
    if settings.pii == "rules":
        return private.find
    require(persons.REQUIRES, "prep.pii=presidio")
    persons.check_model(settings.pii_model)
    return persons.finder(settings.pii_model)


def _stamp(extractors: Mapping[str, Any], settings: PrepSettings) -> str:
    return reading_stamp(extractors, Prep.libraries, settings.passage_words, settings.passage_words_max, reading_options(settings))


def make_limits(settings: PrepSettings) -> Limits:
    """What reading one file may take."""
    return Limits(settings.workers, settings.seconds_per_file, settings.memory_mib)


def tell_unread(listing: Listing, results: Results) -> None:
    """Add what is known of names that were not read: links, pipes, sidecars, duplicates, files outside the sample."""
    results.mark_copies()
    results.tell((not_opened(entry).document, "") for entry in listing.not_files())
    results.tell((ended(entry, "skipped", f"read with {owner}").document, "") for entry, owner in listing.sidecars())
    results.tell((ended(entry, "skipped", NOT_SAMPLED).document, "") for entry in listing.not_chosen())
    results.tell(_copy(entry, leader, results) for entry, leader in listing.copies())


def not_opened(entry: CorpusEntry) -> Result:
    """How a name that is no regular file ends: a link or a FIFO is skipped, an unreadable file or folder failed."""
    return ended(entry, "failed" if entry.kind == "unreadable" else "skipped", entry.note)


def _copy(entry: CorpusEntry, leader: str, results: Results) -> tuple[Document, str]:
    """How a duplicate ended: as its leader did, and whose text stays for it."""
    original = results.document(leader)
    assert original is not None, leader
    if original.status != "ok":
        return ended(entry, original.status, original.reason, original.media_type, original.extractor).document, ""
    copy = ended(entry, "ok", "", original.media_type, original.extractor, original.balance)
    return copy.document, results.stands_for(leader)


def _write(results: Results, ctx: Context) -> None:
    with ctx.output("documents").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(results.lines())
    with ctx.output("passages").open("wb") as raw:
        raw.writelines(results.passage_lines())
    write_json(ctx.output("prep"), report.summarize(results))
    write_json(ctx.output("prep_seconds"), report.seconds_by_family(results))


def _tell_failures(results: Results, ctx: Context) -> None:
    shown, count = report.failures(results, SHOWN_FAILURES)
    for failure in shown:
        ctx.notice(f"not read: {failure}")
    if count > len(shown):
        ctx.notice(f"not read: {count - len(shown):,} more files; forge show {ctx.run_id} prep --dropped lists all with their reasons")
