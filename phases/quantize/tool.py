"""The published file as something to talk to: rendered with its own chat template, with the settings of its Modelfile."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.phases.quantize.jinja_template import compile_template, read_template
from forge.phases.quantize.llama import Llama
from forge.phases.quantize.modelfile_lint import parse_modelfile
from forge.records import Record
from forge.registry import require

ANSWER_TOKENS, CONTEXT_TOKENS = 256, 4096
"""What a Modelfile that names neither gets."""
NEEDS = (Requirement(module="llama_cpp", extra="gguf"), Requirement(module="gguf", extra="gguf"))


class Shipped(Record):
    """What a published folder ships: the file that its Modelfile names, the system prompt, and the lengths. Answers are greedy."""

    file: Path
    system: str
    context_tokens: int
    answer_tokens: int


def read_shipped(folder: Path) -> Shipped:
    """The settings of a published folder's Modelfile. Raises ForgeError when it or its file is missing."""
    modelfile = folder / "Modelfile"
    if not modelfile.is_file():
        raise ForgeError(f"{folder} has no Modelfile", why="it is no published model, or is damaged", next="forge resume RUN --from publish")
    commands = parse_modelfile(modelfile.read_text(encoding="utf-8"))
    value = {command.name: command.value for command in commands if not command.key}
    numbers = {command.key.lower(): command.value for command in commands if command.name == "parameter"}
    file = folder / value["from"]
    if not file.is_file():
        raise ForgeError(f"{file} is missing", why="the Modelfile names it", next="forge resume RUN --from publish")
    return Shipped(
        file=file, system=value.get("system", ""), context_tokens=int(numbers.get("num_ctx", CONTEXT_TOKENS)),
        answer_tokens=int(numbers.get("num_predict", ANSWER_TOKENS)),
    )


class Conversation:
    """Greedy answers of one file; earlier turns stay in the prompt as long as they fit its context."""

    def __init__(self, shipped: Shipped) -> None:
        require(NEEDS, "chat")
        self.shipped = shipped
        self._folder = tempfile.TemporaryDirectory(prefix="forge-chat-")
        self._llama = Llama(Path(self._folder.name))
        self._vocabulary = self._llama.open(shipped.file, context_tokens=shipped.context_tokens)
        self._template = compile_template(read_template(shipped.file))
        # Templates of Llama 3, Mistral and Gemma write them; without the first one such a model is another model.
        special = {"bos_token": self._vocabulary.bos, "eos_token": self._vocabulary.eos}
        self._special = {name: self._llama.text([number]) for name, number in special.items() if number >= 0}
        self._turns: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._llama.__exit__(kind, error, trace)
        self._folder.cleanup()

    def reply(self, question: str) -> Iterator[str]:
        """The model's answer to one more turn, as it is made. Old turns are forgotten when the context is full."""
        self._turns.append({"role": "user", "content": question})
        while len(self._turns) > 1 and len(self.prompt(self._turns)) + self.shipped.answer_tokens > self._vocabulary.context:
            del self._turns[:2]
        parts = []
        try:
            for piece in self.answer(self._turns):
                parts.append(piece)
                yield piece
        except ForgeError:
            self._turns.clear()
            raise
        self._turns.append({"role": "assistant", "content": "".join(parts).strip()})

    def answer(self, turns: Sequence[dict[str, str]], limit: int = 0) -> Generator[str, None, bool]:
        """The answer to a whole conversation, as it is made; nothing is remembered. limit: tokens at most, 0: as shipped.

        Returns whether the model ended it; False where it was cut at the limit.
        """
        prompt = self.prompt(turns)
        room = min(limit or self.shipped.answer_tokens, self._vocabulary.context - len(prompt))
        if room < 1:
            raise ForgeError(
                "the question is too long for this model", why=f"{len(prompt)} tokens; its context holds {self._vocabulary.context}",
                next="ask a shorter question",
            )
        return (yield from self._llama.stream(prompt, limit=room))

    def prompt(self, turns: Sequence[dict[str, str]]) -> list[int]:
        """Tokens of a conversation up to where the answer begins; the shipped system prompt stands first unless the turns have their own."""
        own = any(turn["role"] == "system" for turn in turns)
        system = [] if own or not self.shipped.system else [{"role": "system", "content": self.shipped.system}]
        text = self._template.render(messages=[*system, *turns], add_generation_prompt=True, **self._special)
        return self._llama.tokenize([text])[0]


def chat(folder: Path) -> Conversation:
    """Open a conversation with the published model in a folder. Raises MissingAccess without the [gguf] extra."""
    return Conversation(read_shipped(folder))
