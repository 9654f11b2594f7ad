"""Where something is in a run: from an example, a question, a passage or a file to everything that became of it, and why.

Follows the artifacts by their ids: pair -> passage -> file, and pair -> split -> prediction -> card. Also for what is not
in the model: refused and rejected pairs, dropped passages, files that gave no text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar

from forge import gate
from forge.errors import UsageError
from forge.protocols import Prediction
from forge.questions import normalize, similarity, words
from forge.records import Document, Drop, Example, Pair, Passage, Record, Rejected, Source, read_jsonl
from forge.registry import Registry
from forge.review.book import POISONED, asked_and_answered, marks, splits_of
from forge.review.decisions import current, history
from forge.run import Run

LEAST = 0.35
"""How much of what was asked for a thing must share to be offered, 0..1."""
OTHERS = 5
PREFIX = 6
IN_TEXT, IN_PATH = 0.75, 0.9
"""What words found in a passage or in a file's name count, compared with the same words in a question."""
TESTS = ("test_recall", "test_unseen", "test_abstain")

R = TypeVar("R", bound=Record)


class Found(Record):
    """A thing that fits. kind: pair, row (of ready-made data), refused, passage, dropped or file. score: 1 for an exact id."""

    kind: str
    id: str
    text: str
    score: float


class Step(Record):
    """One station of the way: its name, and the facts known there, in the order to read them."""

    name: str
    facts: dict[str, Any]


class Tracer:
    """Looks things up in one run. Reads each artifact once, when it is needed."""

    def __init__(self, run: Run, registry: Registry) -> None:
        self.run, self.registry = run, registry

    def find(self, asked: str) -> list[Found]:
        """What fits best first. Raises UsageError when nothing does."""
        candidates = [*self._by_id(asked), *(found for found in self._by_words(asked) if found.score >= LEAST)]
        best: dict[tuple[str, str], Found] = {}
        for found in candidates:
            if found.score > best.get((found.kind, found.id), found.model_copy(update={"score": 0.0})).score:
                best[found.kind, found.id] = found
        ranked = sorted(best.values(), key=lambda found: (-found.score, found.kind != "pair", found.id))
        if not ranked:
            raise UsageError(
                f'nothing in run {self.run.id} resembles "{asked}"', why="searched: questions, passages, dropped passages, files",
                next=f"forge review {self.run.id} searches every pair and passage",
            )
        return ranked[: OTHERS + 1]

    def follow(self, found: Found) -> list[Step]:
        """The way of one thing, from where it came to where it went."""
        ways = {"pair": self._pair, "row": self._row, "refused": self._refused, "passage": self._passage, "dropped": self._dropped, "file": self._file}
        return list(ways[found.kind](found.id))

    # --- the ways -----------------------------------------------------------------------------------------------

    def _pair(self, key: str) -> Iterator[Step]:
        pair = self.pairs[key]
        decided = current(self.run).get(key)
        now = decided.pair if decided and decided.pair else pair
        yield _question(now)
        yield from self._origin(now)
        names, checks = self.registry.tool("recheck").filters(answerable=bool(pair.passage)), self._json("synth_checks")
        yield Step(name="filters", facts={"passed": list(names), **{name: checks.get(name, {}).get("state", "") for name in ("round_trip", "judge") if name in checks}})
        if told := [one for one in history(self.run) if one.id == key]:
            last = told[-1]
            yield Step(name="review", facts={"decision": {"reject": "rejected", "edit": "edited", "keep": "taken back"}[last.action], "by": last.who, "why": last.why})
        yield from self._use(key, rejected=bool(decided and decided.action == "reject"))

    def _row(self, key: str) -> Iterator[Step]:
        row = self.rows[key]
        asked, answered = asked_and_answered(row)
        yield Step(name="row", facts={"id": key, "task": row.body.task, "text": asked, "answer": answered, "came": "ready-made, written by no teacher"})
        for origin in row.origin:
            if passage := self.passages.get(origin):
                yield Step(name="passage", facts={**_passage_facts(passage), "audit": "kept"})
                yield from self._file_step(passage.source)
        yield from self._use(key, rejected=False)

    def _refused(self, key: str) -> Iterator[Step]:
        entry = self.rejected[key]
        if entry.reason == POISONED:
            yield Step(name="refused", facts={"reason": entry.reason, "found": entry.pair.answer, "meaning": "the passage gives orders to a model that reads it; no teacher saw it"})
            yield from self._origin(entry.pair)
            return
        yield _question(entry.pair)
        names = list(self.registry.tool("recheck").filters(answerable=bool(entry.pair.passage)))
        passed = names[: names.index(entry.reason)] if entry.reason in names else []
        yield Step(name="refused", facts={"reason": entry.reason, "passed": passed, "meaning": "a filter of synth refused it, so it is not in the data set"})
        yield from self._origin(entry.pair)

    def _passage(self, key: str) -> Iterator[Step]:
        passage = self.passages[key]
        yield Step(name="passage", facts={**_passage_facts(passage), "audit": "kept", "text": passage.text})
        yield from self._file_step(passage.source)
        made = [pair.id for pair in self.pairs.values() if pair.passage == key]
        refused = Counter(entry.reason for entry in self.rejected.values() if entry.pair.passage == key)
        splits = Counter(self.splits.get(one, "no split") for one in made)
        yield Step(name="pairs", facts={"made": len(made), "splits": dict(sorted(splits.items())), "refused": dict(sorted(refused.items())), "ids": made[:10]})
        yield Step(name="base training", facts={"pretraining text": self._pretrained(key)})

    def _dropped(self, key: str) -> Iterator[Step]:
        drop = self.drops[key]
        facts: dict[str, Any] = {"id": drop.id, "reason": drop.reason, "detail": drop.detail, "characters": drop.chars, "sample": drop.sample}
        if drop.dup_of:
            kept = self.passages.get(drop.dup_of)
            facts |= {"copy of": drop.dup_of, "similarity": drop.similarity, "which is in": _place(kept.source) if kept else "nothing that was kept"}
        yield Step(name="dropped", facts={**facts, "meaning": "audit let it go, so nothing was asked about it"})
        yield from self._file_step(drop.source)

    def _file(self, key: str) -> Iterator[Step]:
        document = next(one for one in self.documents.values() if one.source.path == key)
        yield from self._file_step(document.source)
        kept = {one.id for one in self.passages.values() if one.source.path == key}
        gone = Counter(drop.reason for drop in self.drops.values() if drop.source.path == key)
        yield Step(name="passages", facts={"kept": len(kept), "dropped": dict(sorted(gone.items()))})
        made = [pair.id for pair in self.pairs.values() if pair.passage in kept]
        refused = Counter(entry.reason for entry in self.rejected.values() if entry.pair.passage in kept)
        splits = Counter(self.splits.get(one, "no split") for one in made)
        yield Step(name="pairs", facts={"made": len(made), "splits": dict(sorted(splits.items())), "refused": dict(sorted(refused.items()))})

    # --- stations -----------------------------------------------------------------------------------------------

    def _origin(self, pair: Pair) -> Iterator[Step]:
        passage = self.passages.get(pair.passage)
        if passage is not None:
            at = marks(passage.text, [pair.evidence])
            yield Step(name="passage", facts={**_passage_facts(passage), "audit": "kept", "evidence": pair.evidence, "characters": list(at[0]) if at else []})
        elif not pair.passage:
            yield Step(name="passage", facts={"none": "a question to abstain from: no passage answers it"})
        source = passage.source if passage else pair.source
        if source is not None:
            yield from self._file_step(source)

    def _file_step(self, source: Source) -> Iterator[Step]:
        document = self.documents.get(source.path)
        facts: dict[str, Any] = {"path": source.path, "place": source.locator, "sha256": source.sha256}
        if document:
            facts |= {"type": document.media_type, "extractor": document.extractor, "status": document.status, "reason": document.reason, "licence": document.license or ""}
        yield Step(name="file", facts={name: value for name, value in facts.items() if value})

    def _use(self, key: str, *, rejected: bool) -> Iterator[Step]:
        """Split, prediction and card of a pair's row."""
        split = self.splits.get(key, "")
        row = self.rows.get(key)
        if row is None:
            yield Step(name="split", facts={"split": "none", "meaning": self._why_in_no_split(rejected)})
            return
        facts: dict[str, Any] = {"split": split, "group": row.group, "meaning": MEANING.get(split, "")}
        if rejected:
            facts["meaning"] = "rejected in the review after this split was made: the plan has to be made again"
        yield Step(name="split", facts=facts)
        if prediction := self.predictions.get(key):
            yield Step(name="prediction", facts=_prediction(prediction))
        elif split in TESTS:
            yield Step(name="prediction", facts={"none": "eval has not run, or took a sample without this row"})
        yield self._card(split)

    def _why_in_no_split(self, rejected: bool) -> str:
        if rejected:
            return "rejected in the review, so it is not in the data set"
        if not self.splits:
            return "shape has not run yet"
        return "shape left it out: too long, a question that training asks already, or a recall form without its fact in training"

    def _card(self, split: str) -> Step:
        publication, shape = self._json("publication"), self._json("shape")
        counts = shape.get("counts", {})
        facts: dict[str, Any] = {"model": publication.get("name") or "not published yet", "training data": f"one of {counts.get(split, 0):,} {split} rows"}
        plan, artifact = self.run.store.get(gate.PLAN), self.run.store.get(split)
        if plan and artifact:
            facts |= {"plan": gate.short(plan.sha256), f"{split} sha256": artifact.sha256}
        return Step(name="card", facts=facts)

    def _pretrained(self, passage: str) -> str:
        found = {name: any(one.id == passage for one in self._read(name, Passage)) for name in ("pretrain", "pretrain_val")}
        return "for training" if found["pretrain"] else "for validation" if found["pretrain_val"] else "no: its document is held out, or there is none"

    # --- looking up ---------------------------------------------------------------------------------------------

    def _by_id(self, asked: str) -> Iterator[Found]:
        for kind, table in (("pair", self.pairs), ("row", self.ready_made), ("refused", self.rejected), ("passage", self.passages), ("dropped", self.drops)):
            for key in table:
                if key == asked or (len(asked) >= PREFIX and key.startswith(asked)):
                    yield Found(kind=kind, id=key, text=_text(table[key]), score=1.0 if key == asked else 0.99)
        for document in self.documents.values():
            if document.source.path == asked:
                yield Found(kind="file", id=asked, text=document.status, score=1.0)

    def _by_words(self, asked: str) -> Iterator[Found]:
        wanted, form = frozenset(words(asked)), normalize(asked)
        for pair in self.pairs.values():
            yield Found(kind="pair", id=pair.id, text=pair.question, score=_likeness(asked, form, wanted, pair.question))
        for row in self.ready_made.values():
            yield Found(kind="row", id=row.id, text=_text(row), score=_likeness(asked, form, wanted, asked_and_answered(row)[0]))
        for entry in self.rejected.values():
            yield Found(kind="refused", id=entry.id, text=_text(entry), score=_likeness(asked, form, wanted, entry.pair.question))
        for passage in self.passages.values():
            yield Found(kind="passage", id=passage.id, text=_text(passage), score=IN_TEXT * _share(wanted, passage.text))
        for drop in self.drops.values():
            yield Found(kind="dropped", id=drop.id, text=_text(drop), score=IN_TEXT * _share(wanted, drop.sample))
        for document in self.documents.values():
            path = document.source.path
            yield Found(kind="file", id=path, text=document.status, score=IN_PATH * (asked.casefold() in path.casefold()))

    @cached_property
    def pairs(self) -> dict[str, Pair]:
        """The pairs as synth wrote them, by id."""
        return {pair.id: pair for pair in self._read("pairs", Pair)}

    @cached_property
    def rejected(self) -> dict[str, Rejected]:
        """What synth refused, by id."""
        return {entry.id: entry for entry in self._read("rejected", Rejected)}

    @cached_property
    def passages(self) -> dict[str, Passage]:
        """The kept passages, by id."""
        return {passage.id: passage for passage in self._read("clean", Passage)}

    @cached_property
    def drops(self) -> dict[str, Drop]:
        """What audit let go, by id."""
        return {drop.id: drop for drop in self._read("drops", Drop)}

    @cached_property
    def documents(self) -> dict[str, Document]:
        """The files, by path."""
        return {document.source.path: document for document in self._read("documents", Document)}

    @cached_property
    def splits(self) -> dict[str, str]:
        """Split by pair."""
        return splits_of(self.run)

    @cached_property
    def rows(self) -> dict[str, Example]:
        """Rows of every split, by id."""
        return {row.id: row for name in ("train", "val", *TESTS) for row in self._read(name, Example)}

    @property
    def ready_made(self) -> dict[str, Example]:
        """The rows that were not made of pairs, by id."""
        return {key: row for key, row in self.rows.items() if key not in self.pairs}

    @cached_property
    def predictions(self) -> dict[str, Prediction]:
        """What the models said, by row."""
        return {one.id: one for one in self._read("predictions", Prediction)}

    def _read(self, name: str, kind: type[R]) -> Iterator[R]:
        artifact = self.run.store.get(name)
        if artifact is not None and self.run.store.link(artifact).exists():
            yield from read_jsonl(self.run.store.link(artifact), kind)

    def _json(self, name: str) -> dict[str, Any]:
        artifact = self.run.store.get(name)
        if artifact is None or not self.run.store.link(artifact).exists():
            return {}
        found = json.loads(self.run.store.link(artifact).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}


MEANING = {
    "train": "the model was taught this answer", "val": "used to choose the checkpoint, not taught",
    "test_recall": "the fact was taught in other words; this form is the test", "test_unseen": "a test from a document that training never saw",
    "test_abstain": "a test that the model declines",
}


def _question(pair: Pair) -> Step:
    facts = {"id": pair.id, "question": pair.question, "answer": pair.answer, "bucket": pair.bucket, "subtopic": pair.subtopic, "teacher": pair.teacher}
    return Step(name="pair", facts={name: value for name, value in facts.items() if value})


def _prediction(found: Prediction) -> dict[str, Any]:
    per_token = {name: round(value / found.answer_tokens, 3) for name, value in (("base", found.nll_base), ("tuned", found.nll_tuned)) if found.answer_tokens}
    facts: dict[str, Any] = {"wanted": found.gold, "tuned model": found.tuned, "base model": found.base, "nats a token": per_token}
    return {name: value for name, value in facts.items() if value}


def _passage_facts(passage: Passage) -> dict[str, Any]:
    facts = {"id": passage.id, "heading": passage.meta.get("heading", ""), "subtopic": passage.meta.get("subtopic", ""), "tokens": passage.tokens}
    return {name: value for name, value in facts.items() if value}


def _place(source: Source) -> str:
    return f"{source.path} {source.locator}".strip()


def _text(record: Record) -> str:
    if isinstance(record, Rejected):
        return record.pair.question or f"{record.reason}: {record.pair.answer}"
    if isinstance(record, Pair):
        return record.question
    if isinstance(record, Drop):
        return f"{record.reason}: {record.sample}"
    return asked_and_answered(record)[0] if isinstance(record, Example) else getattr(record, "text", "")


def _likeness(asked: str, form: str, wanted: frozenset[str], question: str) -> float:
    """How much a question is the one that was asked for, 0..1; the exact measure only where words are shared at all."""
    if not question or not wanted:
        return 0.0
    shared = _share(wanted, question)
    if normalize(question) == form:
        return 1.0
    return min(0.98, max(0.8 * shared, similarity(asked, question))) if shared else 0.0


def _share(wanted: Iterable[str], text: str) -> float:
    wanted, have = frozenset(wanted), frozenset(words(text))
    return len(wanted & have) / len(wanted) if wanted else 0.0
