"""Which examples each step reads, and how they share its forward passes: no padding, no truncation, always as many examples.

A step is a fixed number of examples, drawn as in order.py. They are laid end to end in as few rows as the memory allows, each row
one forward pass, all steps with the same number of rows and the rows of a step about equally long (longest first into the
shortest row, Graham 1969). trl's own packing fills rows of a fixed length instead, so that the examples of a step vary and their
number depends on the row length. Everything is a function of lengths, seed and the planned numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from forge.phases.train.order import rows_of_step

IGNORED = -100


class Encoded(NamedTuple):
    """One example in tokens: the prompt with the opened answer, and the whole of it."""

    ids: tuple[int, ...]
    prompt_length: int


class Packed(NamedTuple):
    """Rows of all steps in order, each a tuple of example numbers; `rows_per_step` of them are one optimizer step."""

    rows: tuple[tuple[int, ...], ...]
    rows_per_step: int
    tokens: tuple[int, ...]
    """Real tokens of each step."""

    @property
    def longest_row(self) -> int:
        """Which row holds the most examples' tokens (its number)."""
        return max(range(len(self.rows)), key=lambda number: len(self.rows[number]))


def pack_steps(lengths: Sequence[int], steps: int, examples_per_step: int, seed: int, row_tokens: int, *, multiple: int = 1, versions: int = 1) -> Packed:
    """The plan of every forward pass. row_tokens: the most tokens of a row, unless one example alone has more.

    multiple: rows of a step are a multiple of it (the number of processes that share them). versions: of every example, as in order.py.
    """
    drawn = [rows_of_step(step, examples_per_step, len(lengths) // versions, seed, versions=versions) for step in range(1, steps + 1)]
    limit = max(row_tokens, max(lengths))
    count = max(multiple, -(-max(sum(lengths[row] for row in step) for step in drawn) // limit))
    count = -(-count // multiple) * multiple
    while count < examples_per_step and any(_heaviest(step, lengths, count) > limit for step in drawn):
        count += multiple
    rows = [row for step in drawn for row in spread(step, lengths, count)]
    return Packed(tuple(rows), count, tuple(sum(lengths[row] for row in step) for step in drawn))


def spread(examples: Sequence[int], lengths: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """The examples in `count` rows of about equal length; rows and their examples in a fixed order."""
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for example in sorted(examples, key=lambda example: (-lengths[example], example)):
        target = min(range(count), key=lambda row: (filled[row], row))
        rows[target].append(example)
        filled[target] += lengths[example]
    return [tuple(row) for row in rows]


def pack_rows(lengths: Sequence[int], row_tokens: int) -> list[tuple[int, ...]]:
    """All examples once, in rows of at most `row_tokens` tokens: best fit, longest first. For validation."""
    rows: list[tuple[int, list[int]]] = []
    for example in sorted(range(len(lengths)), key=lambda example: (-lengths[example], example)):
        fits = [number for number, (filled, _) in enumerate(rows) if filled + lengths[example] <= row_tokens]
        if not fits:
            rows.append((lengths[example], [example]))
            continue
        best = max(fits, key=lambda number: (rows[number][0], -number))
        filled, members = rows[best]
        members.append(example)
        rows[best] = (filled + lengths[example], members)
    return [tuple(members) for _, members in rows]


def flat_rows(examples: Sequence[Encoded], rows: Sequence[tuple[int, ...]]) -> dict[str, list[Any]]:
    """Columns as trl's padding-free collator reads them: input_ids, labels (prompt masked), seq_lengths."""
    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for row in rows:
        members = [examples[number] for number in row]
        columns["input_ids"].append([token for one in members for token in one.ids])
        columns["labels"].append([label for one in members for label in labels_of(one)])
        columns["seq_lengths"].append([len(one.ids) for one in members])
    return columns


def labels_of(example: Encoded) -> list[int]:
    """The answer's tokens; the prompt's are ignored."""
    return [IGNORED] * example.prompt_length + list(example.ids[example.prompt_length :])


def _heaviest(examples: Sequence[int], lengths: Sequence[int], count: int) -> int:
    return max(sum(lengths[example] for example in row) for row in spread(examples, lengths, count))
