"""Everything that calls llama.cpp, in a process of its own: `python -m forge.phases.quantize.llama_child`.

A fault in native code ends this process and not the run. Requests and answers are JSON, one a line, on stdin and stdout;
llama.cpp's own log goes to stderr. Ends at the end of stdin.
"""

from __future__ import annotations

import codecs
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

BATCH_TOKENS = 512
PR_SET_PDEATHSIG = 1
FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18}  # llama_ftype in llama.h


class Model:
    """An open GGUF file with one context of `context` tokens, decoded by `threads` threads."""

    def __init__(self, path: str, context: int, threads: int, lora: str = "") -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        params = llama_cpp.llama_model_default_params()
        # Repacked weights crash on CPUs with AMX as soon as a batch has two tokens (ggml-org/llama.cpp#20824).
        params.use_extra_bufts = False
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ValueError(f"llama.cpp refuses to load {Path(path).name}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.end = [i for i in range(self.size) if llama_cpp.llama_vocab_is_eog(self.vocab, i)]
        self.control = [i for i in range(self.size) if llama_cpp.llama_vocab_is_control(self.vocab, i)]
        self.context = min(context, llama_cpp.llama_model_n_ctx_train(self.model))
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = self.context, BATCH_TOKENS, BATCH_TOKENS
        settings.n_threads = settings.n_threads_batch = threads
        self.session = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.session:
            raise ValueError(f"llama.cpp cannot make a context of {self.context} tokens for {Path(path).name}")
        if lora:
            self._put_on_top(lora)

    def close(self) -> None:
        """Free the weights."""
        self.api.llama_free(self.session)
        self.api.llama_model_free(self.model)

    def describe(self) -> dict[str, Any]:
        """Special ids as llama.cpp understood them."""
        api, vocab = self.api, self.vocab
        return {
            "tokens": self.size,
            "context": self.context,
            "bos": api.llama_vocab_bos(vocab),
            "eos": api.llama_vocab_eos(vocab),
            "add_bos": bool(api.llama_vocab_get_add_bos(vocab)),
            "control": self.control,
            "end": self.end,
        }

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, markers recognized, nothing added."""
        data = text.encode("utf-8", "surrogatepass")
        room = len(data) + 8
        ids = (self.api.llama_token * room)()
        count = self.api.llama_tokenize(self.vocab, data, len(data), ids, room, False, True)
        if count < 0:
            raise ValueError(f"a text of {len(data)} bytes gave {-count} tokens")
        return list(ids[:count])

    def text(self, ids: list[int]) -> str:
        """The text of ids, markers written out."""
        return b"".join(self._piece(token) for token in ids).decode("utf-8", "replace")

    def logits(self, ids: list[int], last: int) -> Array:
        """(last, vocabulary) float32: the scores after each of the last `last` tokens."""
        import numpy as np

        self._forget()
        return np.stack([row.copy() for _, row in self._decode(ids, 0, len(ids) - last)])

    def score(self, prompt: list[int], answer: list[int]) -> dict[str, Any]:
        """NLL of the answer (nats, its end-of-turn token included) and how probable stopping is right after it.

        top: greedy choice at each answer token, for agreement between files.
        """
        import numpy as np

        others = [token for token in self.control if token not in self.end]
        self._forget()
        nll, top, chances = 0.0, [], np.zeros(self.size)
        for position, row in self._decode(prompt + answer[:-1], 0, len(prompt) - 1):
            scores = row.astype(np.float64)
            chances = np.exp(scores - scores.max())
            chances /= chances.sum()
            nll -= float(np.log(max(chances[answer[position - len(prompt) + 1]], 1e-300)))
            top.append(int(row.argmax()))
        return {"nll": nll, "top": top, "p_end": float(chances[self.end].sum()), "p_control": float(chances[others].sum())}

    def generate(self, prompt: list[int], limit: int) -> dict[str, Any]:
        """Greedy answer of at most `limit` tokens. No stop strings: `ended` says that the model stopped by itself."""
        ids = list(self.tokens(prompt, limit))
        ended = bool(ids) and ids[-1] is None
        told = [token for token in ids if token is not None]
        return {"ids": told, "text": self.text(told), "ended": ended}

    def tokens(self, prompt: list[int], limit: int) -> Iterator[int | None]:
        """The tokens of the greedy answer, one by one; None, at the end, when the model stopped by itself."""
        self._forget()
        pending, start = prompt, 0
        for _ in range(min(limit, self.context - len(prompt))):
            (_, row), = self._decode(pending, start, start + len(pending) - 1)
            token = int(row.argmax())
            if self.api.llama_vocab_is_eog(self.vocab, token):
                yield None
                return
            yield token
            pending, start = [token], start + len(pending)

    def stream(self, prompt: list[int], limit: int) -> Iterator[dict[str, Any]]:
        """The same as pieces of text as they come, whole characters only; the answer as a whole last."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        ids: list[int] = []
        ended = False
        for token in self.tokens(prompt, limit):
            if token is None:
                ended = True
            else:
                ids.append(token)
                if piece := decoder.decode(self._piece(token)):
                    yield {"piece": piece}
        if rest := decoder.decode(b"", final=True):
            yield {"piece": rest}
        yield {"value": {"ids": ids, "text": self.text(ids), "ended": ended}}

    def _put_on_top(self, lora: str) -> None:
        adapter = self.api.llama_adapter_lora_init(self.model, lora.encode())
        if not adapter:
            raise ValueError(f"llama.cpp refuses the adapter {Path(lora).name} for this model")
        adapters = (self.api.llama_adapter_lora_p_ctypes * 1)(adapter)
        if self.api.llama_set_adapters_lora(self.session, adapters, 1, (ctypes.c_float * 1)(1.0)):
            raise ValueError(f"llama.cpp cannot apply the adapter {Path(lora).name}")

    def _decode(self, ids: list[int], start: int, wanted_from: int) -> Iterator[tuple[int, Array]]:
        """Feed `ids` at positions from `start`; yields (position, scores) from `wanted_from` on. Rows are reused."""
        import numpy as np

        if start + len(ids) > self.context:
            raise ValueError(f"{start + len(ids)} tokens do not fit into the context of {self.context}")
        batch = self.api.llama_batch_init(BATCH_TOKENS, 0, 1)
        try:
            for begin in range(0, len(ids), BATCH_TOKENS):
                chunk = ids[begin : begin + BATCH_TOKENS]
                batch.n_tokens = len(chunk)
                for i, token in enumerate(chunk):
                    batch.token[i], batch.pos[i] = token, start + begin + i
                    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
                    batch.logits[i] = start + begin + i >= wanted_from
                if status := self.api.llama_decode(self.session, batch):
                    raise ValueError(f"llama_decode returned {status}")
                for i in range(len(chunk)):
                    if batch.logits[i]:
                        row = self.api.llama_get_logits_ith(self.session, i)
                        yield start + begin + i, np.ctypeslib.as_array(row, shape=(self.size,))
        finally:
            self.api.llama_batch_free(batch)

    def _forget(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.session), True)

    def _piece(self, token: int) -> bytes:
        room = 256
        buffer = ctypes.create_string_buffer(room)
        count = self.api.llama_token_to_piece(self.vocab, token, buffer, room, 0, True)
        return buffer.raw[:count]


class Server:
    """Answers requests; holds at most one open model."""

    def __init__(self) -> None:
        self.model: Model | None = None

    def open(self, path: str, context: int, threads: int, lora: str = "") -> dict[str, Any]:
        """Open a file, closing the one before."""
        self.close()
        self.model = Model(path, context, threads, lora)
        return self.model.describe()

    def quantize(self, source: str, target: str, kind: str, threads: int, importance: str = "") -> None:
        """Write `target` from an F16 file. importance: an .npz of tensor name -> mean square of each input."""
        import llama_cpp

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype, params.nthread = FILE_TYPES[kind], threads
        kept = _importance(importance) if importance else None   # must outlive the call
        if kept:
            params.imatrix = kept[0]
        status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
        if status:
            raise ValueError(f"llama_model_quantize returned {status}")

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text."""
        return [self._open_model().tokenize(text) for text in texts]

    def text(self, ids: list[int]) -> str:
        """See Model.text."""
        return self._open_model().text(ids)

    def logits(self, ids: list[int], last: int, file: str) -> None:
        """Scores into a .npy file."""
        import numpy as np

        with Path(file).open("wb") as stream:
            np.save(stream, self._open_model().logits(ids, last))

    def score(self, prompt: list[int], answer: list[int]) -> dict[str, Any]:
        """See Model.score."""
        return self._open_model().score(prompt, answer)

    def generate(self, prompt: list[int], limit: int) -> dict[str, Any]:
        """See Model.generate."""
        return self._open_model().generate(prompt, limit)

    def stream(self, prompt: list[int], limit: int) -> Iterator[dict[str, Any]]:
        """See Model.stream."""
        return self._open_model().stream(prompt, limit)

    def close(self) -> None:
        """Free the open model."""
        if self.model:
            self.model.close()
            self.model = None

    def _open_model(self) -> Model:
        if self.model is None:
            raise ValueError("no file is open")
        return self.model


def _importance(file: str) -> tuple[Any, ...]:
    """llama.cpp's array of (name, values, count), ended by an entry without a name; and what it points to."""
    import llama_cpp
    import numpy as np

    with np.load(file, allow_pickle=False) as stored:
        values = {name: np.ascontiguousarray(stored[name], dtype=np.float32) for name in stored.files}
    entries = (llama_cpp.llama_model_imatrix_data * (len(values) + 1))()
    for entry, (name, numbers) in zip(entries, values.items(), strict=False):
        entry.name, entry.size = name.encode(), numbers.size
        entry.data = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries, values


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end. What Python can catch comes back as an error; the rest kills the process."""
    server = Server()
    for line in requests:
        request = json.loads(line)
        action: Callable[..., Any] = getattr(server, request.pop("op"))
        try:
            found = action(**request)
            for answer in found if isinstance(found, Iterator) else [{"value": found}]:
                _tell(answers, answer)
        except (ValueError, OSError, KeyError) as error:
            _tell(answers, {"error": str(error)})
    server.close()


def _tell(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Keep the real stdout for answers: llama.cpp or ggml may print to descriptor 1."""
    _die_with_parent()
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)  # a stop that reaches the whole group is the phase's to heed, between two questions
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


def _die_with_parent() -> None:
    """A killed phase may not leave a process behind that writes the file which the resumed phase makes again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
