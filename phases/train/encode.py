"""Examples as tokens: the prompt with the opened answer, then the answer to its end of turn. The same ids as trl makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.phases.train.packing import Encoded
from forge.protocols import Task
from forge.records import Example, read_jsonl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def chat_rows(path: Path, task: Task, stage: str = "", *, told: Callable[[Example], Example] = lambda example: example) -> list[dict[str, Any]]:
    """The examples (of one stage) as conversational prompt/completion rows, as trl and the Hub know them. told: another way to put each."""
    return [
        {
            "prompt": [turn.model_dump() for turn in task.prompt(example)],
            "completion": [{"role": "assistant", "content": task.target(example)}],
        }
        for example in map(told, read_jsonl(path, Example)) if not stage or example.stage == stage
    ]


def encode_rows(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Every row in tokens. prompt_length is what prompt and whole row have in common, as in trl's prompt/completion rows."""
    found = []
    for row in rows:
        asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        same = next((at for at, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), min(len(asked), len(whole)))
        found.append(Encoded(tuple(whole), same))
    return found
