"""What audit does, one step after the other, on one sieve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from forge.phase import Context
from forge.phases.audit import copies, filters, report, spotcheck, topics
from forge.phases.audit.settings import AuditSettings
from forge.phases.audit.sieve import Sieve
from forge.records import Document, Passage, read_jsonl, write_json, write_jsonl


class Steps:
    """The steps, in the order of their names in Audit.run; each one needs those before it. `numbers`: audit.json, after the last.

    tell: hears which share (0..1) of a step's shards is done.
    """

    def __init__(self, settings: AuditSettings, ctx: Context) -> None:
        self.settings, self.ctx, self.stop = settings, ctx, ctx.check_stop
        self.tell: Callable[[float], None] = lambda share: None
        self.numbers: dict[str, Any] = {}

    def clean(self) -> None:
        """Mask secrets, cut metadata, boilerplate and tables of contents."""
        self.documents = sorted(read_jsonl(self.ctx.input("documents"), Document), key=lambda one: one.id)
        self.sieve = Sieve(read_jsonl(self.ctx.input("passages"), Passage), self.stop, self._spread)
        if not self.settings.metadata:
            filters.drop_metadata(self.sieve, self.stop)
        filters.cut_boilerplate(self.sieve, self.stop)
        filters.cut_structure(self.sieve, self.stop)
        self.everything = list(self.sieve.kept.values())

    def filter(self) -> None:
        """Drop what is no prose of an allowed language, and what was decided before."""
        self.by_language, self.allowed = filters.drop_unfit(self.sieve, self.stop, self.settings, self._spread)
        self.chosen = filters.drop_decided(self.sieve, self.stop, self.settings)

    def drop_copies(self) -> None:
        """Drop exact and near copies."""
        self.copied = copies.drop_copies(
            self.sieve, self.documents, engine=self.settings.dedup_engine, threshold=self.settings.near_duplicate
        )

    def merge(self) -> None:
        """Drop items of evaluation sets; documents that share text become one group."""
        self.contaminated = filters.drop_evaluation_items(self.sieve, self.stop, self.settings)
        self.group_of = copies.merged_groups(self.everything, self.copied)
        self.sieve.merge_groups(self.group_of)

    def sort_by_topic(self) -> None:
        """Name subtopics, and judge documents that speak of something else."""
        ordered = self.sieve.ordered()
        terms = topics.fit_terms(ordered)
        counted = terms.counts((passage.text for passage in ordered), self.stop)
        self.strange = filters.drop_outliers(self.sieve, self.stop, self.settings, terms, counted)
        left = counted.take(topics.places(ordered, self.sieve.kept))
        subtopic_of = topics.name_subtopics(self.sieve.ordered(), self.settings.subtopics, self.stop, terms, left)
        self.subtopic_of = subtopic_of | {id: name for id, name in self.chosen.items() if id in self.sieve.kept}
        self.sieve.label("subtopic", self.subtopic_of)
        self.sieve.check_masked()

    def write(self) -> None:
        """Check that enough is left, then write the artifacts. Raises ForgeError."""
        self.numbers = self._summary()
        settings, ctx = self.settings, self.ctx
        report.check_enough(
            self.sieve, run_id=ctx.run_id, ready_made=ctx.task != "chat", least=settings.min_passages, allowed=self.allowed,
            min_words=settings.min_words, min_chars=settings.min_chars,
        )  # fmt: skip
        write_jsonl(ctx.output("clean"), self.sieve.kept.values())
        write_jsonl(ctx.output("drops"), self.sieve.drops)
        write_jsonl(ctx.output("spotcheck"), spotcheck.choose(self.sieve, self.strange))
        write_json(ctx.output("audit"), self.numbers)
        if self.strange.found and settings.outliers == "flag":
            ctx.notice(
                f"{len(self.strange.found):,} of {self.strange.judged:,} documents speak of something else than the rest, such as"
                f" {self.strange.found[0].path}: see forge show {ctx.run_id} audit; audit.outliers=drop leaves them out"
            )

    def _spread(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any] | None:
        return self.ctx.map_shards(function, items, lambda done, total: self.tell(done / total))

    def _summary(self) -> dict[str, Any]:
        clusters = copies.clusters(self.group_of)
        before = len({passage.group for passage in self.everything})
        return report.summarize(
            self.sieve, characters_by_language=self.by_language, allowed=self.allowed, clusters=clusters,
            groups=(before, before - sum(map(len, clusters)) + len(clusters)),
            paths={document.id: document.source.path for document in self.documents},
            engine=self.settings.dedup_engine, threshold=self.settings.near_duplicate, subtopics=topics.counts(self.subtopic_of),
            contamination=self.contaminated, outliers=self.strange.told(self.settings.outliers),
        )  # fmt: skip
