"""llama.cpp from the outside: one child process that may crash, and typed results. Every file is opened with one context."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from forge.errors import ForgeError
from forge.records import Record

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

PORTABLE_BUILD = (
    'CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python'
)
DEATHS = {
    signal.SIGILL: ("llama-cpp-python was built for another CPU", PORTABLE_BUILD),
    signal.SIGSEGV: ("a native kernel read outside its memory; natively built wheels do so on some CPUs", PORTABLE_BUILD),
    signal.SIGKILL: ("something ended it from outside, most often for lack of memory", "free memory, then forge resume"),
}
LOG_LINES = 3


class Vocabulary(Record):
    """Special ids as llama.cpp understood the file. `end`: the tokens that stop an answer."""

    tokens: int
    context: int
    bos: int
    eos: int
    add_bos: bool
    control: tuple[int, ...]
    end: tuple[int, ...]


class Score(Record):
    """One gold answer under one file. nll in nats over the answer with its end-of-turn token."""

    nll: float
    top: tuple[int, ...]
    p_end: float
    p_control: float


class Generation(Record):
    """One greedy answer, markers written out. `ended`: the model stopped by itself, no stop string involved."""

    ids: tuple[int, ...]
    text: str
    ended: bool


class Llama:
    """A llama.cpp process. Its death becomes a ForgeError that says how it died and what to do.

    log: where llama.cpp's own messages go; the last lines are quoted in errors.
    """

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log, self.scratch, self.threads = folder / "llama.log", folder / "logits.npy", threads
        self.doing = "starting"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "forge.phases.quantize.llama_child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None and self.process.stdin and self.process.poll() is None:
            self.process.stdin.close()
        else:
            self.process.kill()
        self.process.wait()

    def quantize(self, source: Path, target: Path, kind: str, *, importance: Path | None = None) -> None:
        """Write `target` ("Q8_0", "Q4_K_M", ...) from an F16 file; it appears under its name only when complete.

        importance: an .npz of imatrix.collect_importance.

        The bytes do not depend on the number of threads (tested).
        """
        partial = target.with_name(target.name + ".partial")
        weighed = {"importance": str(importance)} if importance else {}
        self._ask("quantize", f"writing {target.name}", source=str(source), target=str(partial), kind=kind, threads=self.threads, **weighed)
        partial.replace(target)

    def open(self, file: Path, *, context_tokens: int, lora: Path | None = None) -> Vocabulary:
        """Load a file in place of the one before. Its context is `context_tokens` or what the model was trained for.

        lora: an adapter's file that is put on top.
        """
        self.file = file
        on_top = {"lora": str(lora)} if lora else {}
        answer = self._ask("open", f"loading {file.name}", path=str(file), context=context_tokens, threads=self.threads, **on_top)
        return Vocabulary.model_validate(answer)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, markers recognized, nothing added."""
        ids: list[list[int]] = self._ask("tokenize", f"tokenizing with {self.file.name}", texts=texts)
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of ids, markers written out."""
        return str(self._ask("text", f"reading {self.file.name}", ids=ids))

    def logits(self, ids: list[int], *, last: int) -> Array:
        """(last, vocabulary) float32: scores after each of the last tokens."""
        import numpy as np

        self._ask("logits", f"running {self.file.name}", ids=ids, last=last, file=str(self.scratch))
        scores: Array = np.load(self.scratch)
        return scores

    def score(self, prompt: list[int], answer: list[int]) -> Score:
        """How probable the gold answer is, token by token, and the stop after it."""
        return Score.model_validate(self._ask("score", f"scoring with {self.file.name}", prompt=prompt, answer=answer))

    def generate(self, prompt: list[int], *, limit: int) -> Generation:
        """A greedy answer of at most `limit` tokens."""
        answer = self._ask("generate", f"answering with {self.file.name}", prompt=prompt, limit=limit)
        return Generation.model_validate(answer)

    def stream(self, prompt: list[int], *, limit: int) -> Generator[str, None, bool]:
        """The same piece by piece, as it is made; returns whether the model stopped by itself. A reader that leaves early waits for the rest."""
        doing = f"answering with {self.file.name}"
        self._send("stream", doing, prompt=prompt, limit=limit)
        answer = self._receive(doing)
        try:
            while "piece" in answer:
                yield str(answer["piece"])
                answer = self._receive(doing)
            return bool(answer["value"]["ended"])
        finally:
            while "piece" in answer:
                answer = self._receive(doing)

    def _ask(self, op: str, doing: str, **fields: Any) -> Any:
        self._send(op, doing, **fields)
        return self._receive(doing)["value"]

    def _send(self, op: str, doing: str, **fields: Any) -> None:
        self.doing = doing
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error

    def _receive(self, doing: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ForgeError(f"llama.cpp failed while {doing}: {answer['error']}", why=self._last_words())
        return answer

    def _death(self) -> ForgeError:
        code = self.process.wait()
        if code >= 0:
            return ForgeError(
                f"the llama.cpp process ended with code {code} while {self.doing}",
                why=self._last_words(), next='pip install "slm-forge[gguf]"',
            )
        name = signal.Signals(-code).name
        why, command = DEATHS.get(signal.Signals(-code), (self._last_words(), PORTABLE_BUILD))
        return ForgeError(f"llama.cpp died with {name} while {self.doing}", why=why, next=command)

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(line.strip() for line in lines[-LOG_LINES:])
