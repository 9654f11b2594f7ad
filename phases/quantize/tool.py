"""`forge chat`: a conversation with a GGUF file, rendered with the chat template that is stored in it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forge.errors import ForgeError
from forge.phase import Requirement
from forge.phases.quantize.llama import Llama
from forge.registry import require

ANSWER_TOKENS = 256
CONTEXT_TOKENS = 4096
NEEDS = (Requirement(module="llama_cpp", extra="gguf"), Requirement(module="gguf", extra="gguf"))


class Conversation:
    """Greedy answers of one file; earlier turns stay in the prompt as long as they fit its context."""

    def __init__(self, file: Path, system_prompt: str) -> None:
        require(NEEDS, "chat")
        self._folder = tempfile.TemporaryDirectory(prefix="forge-chat-")
        self._llama = Llama(Path(self._folder.name))
        self._vocabulary = self._llama.open(file, context_tokens=CONTEXT_TOKENS)
        self._template = _chat_template(file)
        self._system = {"role": "system", "content": system_prompt}
        self._turns: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._llama.__exit__(kind, error, trace)
        self._folder.cleanup()

    def reply(self, question: str) -> str:
        """The model's answer to one more turn. Old turns are forgotten when the context is full."""
        self._turns.append({"role": "user", "content": question})
        prompt = self._prompt()
        while len(prompt) + ANSWER_TOKENS > self._vocabulary.context and len(self._turns) > 1:
            del self._turns[:2]
            prompt = self._prompt()
        limit = min(ANSWER_TOKENS, self._vocabulary.context - len(prompt))
        if limit < 1:
            self._turns.clear()
            raise ForgeError(
                "the question is too long for this model", why=f"{len(prompt)} tokens; its context holds {self._vocabulary.context}",
                next="ask a shorter question",
            )
        answer = self._llama.generate(prompt, limit=limit).text.strip()
        self._turns.append({"role": "assistant", "content": answer})
        return answer

    def _prompt(self) -> list[int]:
        text = self._template.render(messages=[self._system, *self._turns], add_generation_prompt=True)
        return self._llama.tokenize([text])[0]


def chat(file: Path, system_prompt: str) -> Conversation:
    """Open a conversation with a GGUF file. Raises MissingAccess without the [gguf] extra."""
    return Conversation(file, system_prompt)


def _chat_template(file: Path) -> Any:
    import gguf
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    field = gguf.GGUFReader(file).get_field("tokenizer.chat_template")
    if field is None:
        raise ForgeError(f"{file.name} has no chat template", next="forge resume RUN --from quantize")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(str(field.contents()))
