"""Ready-made data: a row with a question and its answer, a chat or a text, as the pieces of a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from forge.errors import ExtractError
from forge.plugins.extractors._rows import MAX_CHARACTERS, MAX_COUNTED, OVER_LIMIT, UNCOUNTED
from forge.records import Piece

QUESTIONS = ("question", "query", "prompt", "instruction", "problem", "input", "q")
ANSWERS = (
    "answer", "answers", "response", "completion", "output", "chosen", "solution", "final_answer", "long_answer", "target", "a",
)  # fmt: skip
"""Column names in the order in which they are believed; gathered from the data sets most used for tuning (GSM8K, SQuAD,
Alpaca, Dolly, OpenOrca, HH-RLHF, PubMedQA, MATH)."""

CONTEXTS = ("context", "contexts", "passage", "input", "background", "system", "system_prompt")
CHATS = ("messages", "conversations", "conversation", "dialogue", "chat", "turns")
TEXTS = ("text", "content", "body", "document")
REJECTED = {"rejected", "rejected_response", "rejected_answer"}
IDENTIFIERS = {"id", "_id", "uid", "uuid", "idx", "index", "qid", "question_id", "example_id", "__index_level_0__"}
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant"}

LONG_TEXT = 200
"""A text of so many characters stands by itself; a shorter one is read together with its label."""

MAX_DEPTH = 100
"""Levels of lists and objects that a value is followed into."""


def record_pieces(
    rows: Iterable[tuple[int, Mapping[str, Any]]], place: Callable[[int], str], *, heading: str = "", limit: int
) -> Iterator[Piece]:
    """The pieces of numbered rows. Kind "record" for questions and chats, "prose" for texts, "table" for other objects.

    Identifiers and rejected answers of records are dropped with their reason; rows beyond `limit` are counted as losses.
    """
    characters = 0
    for count, (number, row) in enumerate(rows):
        limit = limit if characters < MAX_CHARACTERS else min(limit, count)
        if count >= limit + MAX_COUNTED:
            yield UNCOUNTED
            return
        if count >= limit:
            yield OVER_LIMIT
            continue
        for piece in _row(row, place(number), heading):
            characters += len(piece.text)
            yield piece


def record_text(row: Mapping[str, Any]) -> str:
    """"Question: …\\nAnswer: …" or "user: …\\nassistant: …" with what else the row holds below; "" when it is neither."""
    names = {name.strip().casefold(): name for name in row}
    chat = next((names[name] for name in CHATS if name in names), None)
    if chat is not None and (turns := _turns(row[chat])):
        return _joined([turns, *_others(row, {chat})])
    question = next((names[name] for name in QUESTIONS if name in names and plain(row[names[name]])), None)
    answer = next((names[name] for name in ANSWERS if name in names and _answer(row[names[name]])), None)
    if answer is None or question is None:
        return ""
    used = {question, answer}
    above = [names[name] for name in CONTEXTS if name in names and names[name] not in used]
    return _joined([
        f"Question: {plain(row[question])}", *_named(row, above), f"Answer: {_answer(row[answer])}", *_others(row, {*used, *above}),
    ])  # fmt: skip


def is_record(names: Iterable[str]) -> bool:
    """True when columns of these names hold questions and answers, or chats."""
    told = {name.strip().casefold() for name in names}
    return bool(told & set(CHATS)) or bool(told & set(QUESTIONS) and told & set(ANSWERS))


def plain(value: Any, depth: int = 0) -> str:
    """A value as text: lists with commas or line ends, objects as "name: value", nothing for null and binary."""
    if isinstance(value, str):
        return value.strip()
    if value is None or isinstance(value, bytes | bytearray | memoryview):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if depth > MAX_DEPTH:
        raise ExtractError(f"a value of more than {MAX_DEPTH} levels", refused=True)
    if isinstance(value, Mapping):
        pairs = ((str(name), plain(inner, depth + 1)) for name, inner in value.items())
        return "; ".join(f"{name}: {text}" for name, text in pairs if text)
    if isinstance(value, list | tuple):
        texts = [text for text in (plain(inner, depth + 1) for inner in value) if text]
        return ("\n" if any(len(text) > 40 for text in texts) else ", ").join(texts)
    return str(value)


def _row(row: Mapping[str, Any], where: str, heading: str) -> Iterator[Piece]:
    if text := record_text(row):
        yield Piece(text=text, locator=where, heading=heading, kind="record")
        yield from _left_out(row, where)
    else:
        yield from _other(row, where, heading)


def _other(row: Mapping[str, Any], where: str, heading: str) -> Iterator[Piece]:
    main = next((name for name in row if name.casefold() in TEXTS and isinstance(row[name], str)), None)
    if main is not None and (len(row) == 1 or len(row[main]) >= LONG_TEXT):
        yield Piece(text=row[main], locator=where, heading=heading)
        if told := _joined(_named(row, [name for name in row if name != main])):
            yield Piece(text=told, locator=where, heading=heading, kind="metadata")
        return
    rejected = {name for name in row if name.casefold() in REJECTED}
    yield Piece(text=_joined(_named(row, [name for name in row if name not in rejected])), locator=where, heading=heading, kind="table")
    yield from (Piece(text=plain(row[name]), locator=where, dropped="rejected answer") for name in row if name in rejected)


def _left_out(row: Mapping[str, Any], where: str) -> Iterator[Piece]:
    for name, value in row.items():
        if name.casefold() in REJECTED:
            yield Piece(text=plain(value), locator=where, dropped="rejected answer")
        elif name.casefold() in IDENTIFIERS:
            yield Piece(text=plain(value), locator=where, dropped="identifier")


def _answer(value: Any) -> str:
    """An answer as text; SQuAD's {"text": [...], "answer_start": [...]} gives its texts, each once."""
    if isinstance(value, Mapping) and "text" in value:
        return _answer(value["text"])
    if isinstance(value, list):
        return "\n".join(dict.fromkeys(text for text in map(_answer, value) if text))
    return plain(value)


def _turns(chat: Any) -> str:
    """The turns of a chat as OpenAI ("role", "content") or ShareGPT ("from", "value") write them."""
    if not isinstance(chat, list):
        return ""
    turns = []
    for turn in chat:
        if not isinstance(turn, Mapping):
            return ""
        role = str(turn.get("role") or turn.get("from") or turn.get("speaker") or "")
        said = turn.get("content", turn.get("value", turn.get("text")))
        turns.append((ROLES.get(role.casefold(), role), _joined([_content(said), plain(turn.get("tool_calls"))])))
    if not any(said for _, said in turns) or not all(role for role, _ in turns):
        return ""
    return _joined([f"{role}: {said}" for role, said in turns])


def _content(said: Any) -> str:
    """A turn's text; of several parts (text, picture) the texts."""
    if isinstance(said, list):
        return _joined([plain(part.get("text")) if isinstance(part, Mapping) else plain(part) for part in said])
    return plain(said)


def _others(row: Mapping[str, Any], used: set[str]) -> list[str]:
    return _named(row, [name for name in row if name not in used and name.casefold() not in REJECTED | IDENTIFIERS])


def _named(row: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    told = ((name, plain(row[name])) for name in names)
    return [f"{name}: {text}" for name, text in told if text]


def _joined(lines: Iterable[str]) -> str:
    return "\n".join(line for line in lines if line)
