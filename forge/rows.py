"""Rows of any task as the conversation that the model is trained on and asked."""

from __future__ import annotations

from forge.protocols import Task
from forge.records import Chat, Example, Message


def as_chat(example: Example, task: Task) -> Example:
    """The same row with its turns as body: what is rendered, counted and trained on. A chat row is returned as it is."""
    if isinstance(example.body, Chat):
        return example
    answer = Message(role="assistant", content=task.target(example))
    return example.model_copy(update={"body": Chat(prompt=task.prompt(example), completion=(answer,))})
