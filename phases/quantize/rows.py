"""Test rows as every check here sees them: the turns before the answer, and the answer that was expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from forge.phase import Context
from forge.protocols import Prediction, Task
from forge.records import Chat, Example, Message, Record, read_jsonl

T = TypeVar("T")


class Row(Record):
    """One test item. `group` is its source document: items of one group are not independent. names: protected ones of the answer."""

    id: str
    group: str
    prompt: tuple[Message, ...]
    answer: str
    answerable: bool
    names: tuple[str, ...] = ()


class Encoded(Record):
    """A row in tokens. `answer` ends with the end-of-turn token."""

    row: Row
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Encoder(Protocol):
    """What turns text into ids: transformers' tokenizer of the merged model."""

    end_of_turn: int

    def render(self, turns: tuple[Message, ...], *, open_answer: bool) -> str:
        """The chat template's text; `open_answer` ends it where the model continues."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, markers recognized, nothing added."""
        ...


def read_rows(ctx: Context, task: str, name: str) -> list[Row]:
    """The rows of a test split, by id. Splits of other tasks than chat are turned into turns by their task plugin."""
    return [_row(example, ctx, task) for example in read_jsonl(ctx.input(name), Example)]


def encode_row(row: Row, encoder: Encoder) -> Encoded:
    """Prompt and answer as ids. The answer is tokenized by itself, as generation produces it after the open prompt."""
    opened = encoder.render(row.prompt, open_answer=True)
    closed = encoder.render((*row.prompt, Message(role="assistant", content=row.answer)), open_answer=False)
    rest = closed[len(opened) :] if closed.startswith(opened) else row.answer
    answer = encoder.encode(rest)
    stop = answer.index(encoder.end_of_turn) if encoder.end_of_turn in answer else len(answer)
    return Encoded(row=row, prompt=tuple(encoder.encode(opened)), answer=(*answer[:stop], encoder.end_of_turn))


def spread(rows: Sequence[T], limit: int) -> list[T]:
    """At most `limit` rows, taken evenly from the whole list: every document keeps its share."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[index * len(rows) // limit] for index in range(limit)]


def seen_texts(predictions: Sequence[Prediction], rows: list[Row]) -> list[str]:
    """Every distinct text of the test rows and of what the model said to them, sorted."""
    texts = {message.content for row in rows for message in row.prompt} | {row.answer for row in rows}
    for prediction in predictions:
        texts |= {prediction.gold, prediction.base, prediction.tuned} | {turn.content for turn in prediction.prompt}
    return sorted(texts - {""})


def _row(example: Example, ctx: Context, task: str) -> Row:
    body = example.body
    if isinstance(body, Chat):
        prompt, answer, answerable = body.prompt, body.completion[-1].content, body.answerable
    else:
        plugin: Task = ctx.use("task", task)
        prompt, answer, answerable = plugin.prompt(example), plugin.target(example), True
    return Row(id=example.id, group=example.group, prompt=prompt, answer=answer, answerable=answerable, names=example.names)
