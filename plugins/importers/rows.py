"""Ready-made data in rows: JSON Lines, JSON, CSV, TSV, Parquet, Arrow, and folders of shards as Hugging Face's datasets writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from forge.errors import UsageError
from forge.phase import Requirement
from forge.plugins.importers._read import ENDINGS, Row, part_in, read_rows
from forge.protocols import Importing, Ready
from forge.records import Extraction, Labelled, Relation, Span

DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "context", "abstract", "content", "passage", "document_text", "input"),
    "question": ("question", "query", "premise_question"),
    "label": ("label", "final_decision", "labels", "class", "category", "answer", "target"),
    "rationale": ("rationale", "explanation", "reason", "long_answer"),
    "group": ("group", "pmid", "pubmed_id", "doc_id", "document_id", "document", "doc", "source_id", "article_id", "url", "file", "path"),
    "source": ("source", "dataset", "corpus", "origin", "annotator"),
    "split": ("split", "part", "fold_name"),
    "entities": ("entities", "spans", "ner", "mentions"),
    "relations": ("relations", "relation"),
    "tokens": ("tokens", "words"),
    "tags": ("ner_tags", "tags"),
}
"""What each part of an example is usually called, in the order of belief; shape.data's `columns` overrules it."""
PUBMED = {"pmid", "pubmed_id"}


class RowsImporter:
    """A label column, or entities with their places; the source document from a column of its own."""

    name: ClassVar[str] = "rows"
    tasks: ClassVar[tuple[str, ...]] = ("label", "extract")
    priority: ClassVar[int] = 0
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, path: Path, name: str) -> bool:
        """True for tables by their ending; not for the descriptions beside the shards of a data set."""
        return PurePosixPath(name).suffix.lower() in ENDINGS and PurePosixPath(name).name not in DESCRIPTIONS

    def read(self, paths: Sequence[tuple[Path, str]], how: Importing) -> Iterator[Ready]:
        """One example a row. Raises ForgeError for a row without text or label, with its place."""
        for path, name in paths:
            columns, known = dict[str, str](), dict[str, Any]()
            for place, row in read_rows(path, name):
                if not columns or not row.keys() <= known.keys():   # JSON rows may lack what others have
                    known |= row
                    columns = find_columns(known, how.columns, name)
                where = f"{name}:{place}"
                body = _labelled(row, columns, where) if how.task == "label" else _extraction(row, columns, where)
                part = part_in(str(row.get(columns.get("split", ""), ""))) or ("" if "split" in columns else part_in(PurePosixPath(name).name))
                yield Ready(group=_group(row, columns), body=body, part=part, place=where)


importer = RowsImporter()


def find_columns(row: Row, asked: Mapping[str, str], name: str) -> dict[str, str]:
    """part -> column, as asked for or by the usual names. Raises UsageError for a column that is not there."""
    folded = {key.strip().casefold(): key for key in row}
    found = {part: folded[known[0]] for part, names in NAMES.items() if (known := [one for one in names if one in folded])}
    if found.get("text") == found.get("question"):
        found.pop("question", None)
    for part, column in asked.items():
        if part not in NAMES:
            raise UsageError(f'shape.data columns names "{part}"', why=f"an example has {', '.join(NAMES)}", next="forge config show shape")
        if column and column not in row:
            raise UsageError(f'{name} has no column "{column}"', why=f"it has {', '.join(row)}", next="name another in columns of shape.data")
        found[part] = column
    return {part: column for part, column in found.items() if column}


def _labelled(row: Row, columns: Mapping[str, str], where: str) -> Labelled:
    text, question = _text(row, columns, "text"), _text(row, columns, "question")
    label = _text(row, columns, "label")
    if not label or not (text or question):
        raise UsageError(
            f"{where} has no {'label' if not label else 'text'}", why=f"its columns are {', '.join(row)}",
            next="name them: --set 'shape.data=[{path: FILE, columns: {text: COLUMN, label: COLUMN}}]'",
        )
    rationale = _text(row, columns, "rationale")
    return Labelled(text=text, question=question, label=label, rationale=rationale or None, source=_text(row, columns, "source"))


def _extraction(row: Row, columns: Mapping[str, str], where: str) -> Extraction:
    if "tokens" in columns and "tags" in columns:
        text, spans = from_tags([str(token) for token in row[columns["tokens"]]], [str(tag) for tag in row[columns["tags"]]])
        return Extraction(text=text, entities=spans, source=_text(row, columns, "source"))
    text = _text(row, columns, "text")
    if not text or "entities" not in columns:
        raise UsageError(
            f"{where} has no {'text' if not text else 'entities'}", why=f"its columns are {', '.join(row)}",
            next="name them: --set 'shape.data=[{path: FILE, columns: {text: COLUMN, entities: COLUMN}}]'",
        )
    spans = tuple(_span(one, text, where) for one in row[columns["entities"]] or [])
    relations = tuple(_relation(one, spans, where) for one in row.get(columns.get("relations", ""), None) or [])
    return Extraction(text=text, entities=spans, relations=relations, source=_text(row, columns, "source"))


def from_tags(tokens: Sequence[str], tags: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """Text and entities of tokens with BIO tags ("B-Drug", "I-Drug", "O"); tokens are joined by spaces."""
    text, spans, open_type, start, end = "", list[Span](), "", 0, 0
    for token, tag in zip([*tokens, ""], [*tags, "O"], strict=True):
        kind, _, type_ = tag.partition("-")
        if open_type and (kind != "I" or type_ != open_type):
            spans.append(Span(type=open_type, text=text[start:end], start=start, end=end))
            open_type = ""
        at = len(text) + (1 if text else 0)
        text = f"{text} {token}" if text and token else text or token
        if kind in ("B", "I") and type_:
            start, open_type = (start, open_type) if open_type else (at, type_)
            end = len(text)
    return text, tuple(spans)


def _span(one: Any, text: str, where: str) -> Span:
    """{"type"/"label", "start", "end"[, "text"]}, {"type", "text"} without a place, or [start, end, type]."""
    if isinstance(one, list | tuple) and len(one) >= 3:
        one = {"start": one[0], "end": one[1], "type": one[2]}
    type_ = str(one.get("type") or one.get("label") or "") if isinstance(one, Mapping) else ""
    if not type_:
        raise UsageError(f"{where} has an entity without a type: {one!r}"[:200])
    start, end = one.get("start"), one.get("end")
    if start is None or end is None:
        mention = str(one.get("text", ""))
        match = re.search(re.escape(mention), text) if mention else None
        if match is None:
            raise UsageError(f'{where}: the entity "{mention}" is not in its text'[:200])
        start, end = match.span()
    start, end = int(start), int(end)
    if not 0 <= start < end <= len(text) or (one.get("text") not in (None, text[start:end])):
        raise UsageError(f"{where}: the entity at {start}-{end} is not {one.get('text')!r}"[:200], why="places are characters, the end exclusive")
    return Span(type=type_, text=text[start:end], start=start, end=end)


def _relation(one: Any, spans: Sequence[Span], where: str) -> Relation:
    """{"head", "type", "tail"} with positions in the list of entities, or with their texts."""
    if isinstance(one, list | tuple) and len(one) == 3:
        one = {"head": one[0], "type": one[1], "tail": one[2]}
    head, tail = (_index(one.get(end), spans, where) for end in ("head", "tail"))
    return Relation(head=head, type=str(one.get("type") or one.get("label") or "related"), tail=tail)


def _index(value: Any, spans: Sequence[Span], where: str) -> int:
    found = next((i for i, span in enumerate(spans) if i == value or span.text == value), None)
    if found is None:
        raise UsageError(f"{where}: a relation names {value!r}, which is none of its entities"[:200])
    return found


def _group(row: Row, columns: Mapping[str, str]) -> str:
    column = columns.get("group", "")
    value = _text(row, columns, "group")
    return f"pmid:{value}" if value and column.casefold() in PUBMED else value


def _text(row: Row, columns: Mapping[str, str], part: str) -> str:
    value = row.get(columns.get(part, ""))
    if isinstance(value, Mapping):
        value = value.get("contexts") or value.get("text") or ""
    if isinstance(value, list):
        value = "\n".join(str(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value).strip()
