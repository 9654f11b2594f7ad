"""An OpenAI-compatible server on this machine for a published model: the shipped file, system prompt, template and sampling.

Why not llama-cpp-python's own: it offers no switch for the repacked weights that crash CPUs with AMX (llama_child.py), takes the
sampling from the request, and brings five web packages. What a client sends as temperature or top_p changes nothing here: the model
was measured greedy. Only this machine is answered: the server listens on 127.0.0.1, and a Host header with any other name, as a web
page that was rebound to it would send, is refused. llama.cpp's own server is the other engine, for a GPU and many clients (llama_server.py).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from forge.errors import ForgeError, UsageError
from forge.phases.quantize.llama_server import LlamaServer
from forge.phases.quantize.tool import Conversation, chat
from forge.records import digest

ADDRESS = "127.0.0.1"
BODY_MOST = 1 << 20
REQUEST_SECONDS = 60
ROLES = {"system", "user", "assistant"}


class Refused(Exception):
    """A request that cannot be answered: HTTP status and the reason in words."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class ModelServer(ThreadingHTTPServer):
    """One conversation partner for many clients, one answer at a time."""

    daemon_threads = True

    def __init__(self, conversation: Conversation, *, name: str, abstention: str, port: int) -> None:
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as error:
            raise UsageError(f"port {port} cannot be used", why=error.strerror or str(error), next="forge serve RUN --port 0 takes a free one") from error
        self.conversation, self.name, self.abstention = conversation, name, abstention
        self.turn = threading.Lock()
        self.started = int(time.time())

    @property
    def url(self) -> str:
        """Where clients find it; OpenAI's take it as base_url."""
        return f"http://{ADDRESS}:{self.server_address[1]}/v1"

    @property
    def file(self) -> Path:
        """The GGUF file that answers."""
        return self.conversation.shipped.file

    def end(self) -> None:
        """Stops listening and ends llama.cpp's process."""
        self.server_close()
        self.conversation.__exit__(None, None, None)


def serve(folder: Path, *, name: str, abstention: str, port: int, engine: str = "forge") -> ModelServer | LlamaServer:
    """A server for the published model in a folder, listening until end(). Raises UsageError for a taken port.

    engine: "forge", this server, which answers from serve_forever() on; "llama-server", llama.cpp's own program from PATH.
    """
    if engine == "llama-server":
        return LlamaServer(folder, name=name, port=port)
    return ModelServer(chat(folder), name=name, abstention=abstention, port=port)


class Pieces(Iterator[str]):
    """An answer in pieces. finish: "stop" when the model ended it, "length" when it was cut; known once all are read."""

    def __init__(self, generator: Generator[str, None, bool]) -> None:
        self.generator, self.finish = generator, "stop"

    def __next__(self) -> str:
        try:
            return next(self.generator)
        except StopIteration as end:
            if end.value is False:     # None when it is asked once more
                self.finish = "length"
            raise StopIteration from None


class Handler(BaseHTTPRequestHandler):
    """The part of the OpenAI interface that chat clients use."""

    server: ModelServer
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """/v1/models and /health."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """/v1/chat/completions, whole or as a stream of events."""
        self._answer(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: questions are nobody else's business."""

    def _answer(self, action: Any) -> None:
        self.close_connection = False
        try:
            if self.headers.get("Host", "").rpartition(":")[0] not in (ADDRESS, "localhost"):
                raise Refused(403, "only 127.0.0.1 and localhost are answered")
            action()
        except Refused as refused:
            self.close_connection = True     # its body may be unread
            kind = "invalid_request_error" if refused.status < 500 else "server_error"
            self._json({"error": {"message": refused.text, "type": kind}}, refused.status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _get(self) -> None:
        if self.path == "/health":
            self._json({"status": "ok"})
        elif self.path == "/v1/models":
            self._json({"object": "list", "data": [{"id": self.server.name, "object": "model", "created": self.server.started, "owned_by": "slm-forge"}]})
        else:
            raise Refused(404, f"there is no {self.path}; try /v1/chat/completions")

    def _post(self) -> None:
        if self.path != "/v1/chat/completions":
            raise Refused(404, f"there is no {self.path}; try /v1/chat/completions")
        asked = read_request(self._body())
        with self.server.turn, closing(self.server.conversation.answer(asked["turns"], asked["limit"])) as generator:
            pieces = Pieces(generator)
            try:
                first = next(pieces, "")     # a question that is too long is refused before anything is sent
            except ForgeError as error:
                raise Refused(400, f"{error.fact}: {error.why}") from error
            self._stream(asked, first, pieces) if asked["stream"] else self._whole(asked, first, pieces)

    def _whole(self, asked: dict[str, Any], first: str, pieces: Pieces) -> None:
        text = "".join([first, *pieces]).strip()
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": pieces.finish}
        self._json({**self._head(asked, "chat.completion"), "choices": [choice], "abstained": self._abstained(text)})

    def _stream(self, asked: dict[str, Any], first: str, pieces: Pieces) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        head, parts = self._head(asked, "chat.completion.chunk"), [first]
        self._event({**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": first}, "finish_reason": None}]})
        for piece in pieces:
            parts.append(piece)
            self._event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        self._event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": pieces.finish}], "abstained": self._abstained("".join(parts).strip())})
        self.wfile.write(b"data: [DONE]\n\n")

    def _head(self, asked: dict[str, Any], kind: str) -> dict[str, Any]:
        name = "chatcmpl-" + digest(json.dumps(asked["turns"], sort_keys=True), self.server.name)[:24]
        return {"id": name, "object": kind, "created": int(time.time()), "model": self.server.name}

    def _abstained(self, text: str) -> bool:
        """True for exactly the sentence with which the model declines: what a caller can act on."""
        return bool(self.server.abstention) and text == self.server.abstention

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refused(411, "a request needs a Content-Length")
        if int(length) > BODY_MOST:
            raise Refused(413, f"a request may have {BODY_MOST:,} bytes")
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "send application/json")     # what a form on a web page cannot send unasked
        return self.rfile.read(int(length))


def read_request(data: bytes) -> dict[str, Any]:
    """Turns, limit and stream of a chat completion request. Raises Refused for what is none."""
    try:
        told = json.loads(data)
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    messages = told.get("messages") if isinstance(told, dict) else None
    if not isinstance(messages, list) or not messages:
        raise Refused(400, "messages: a list of turns is needed")
    if told.get("n") not in (None, 1):
        raise Refused(400, "n: one answer at a time")
    limit = told.get("max_completion_tokens") or told.get("max_tokens") or 0
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise Refused(400, "max_tokens: a whole number is needed")
    return {"turns": [_turn(turn) for turn in messages], "limit": limit, "stream": bool(told.get("stream"))}


def _turn(turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        raise Refused(400, "messages: each turn has a role, system, user or assistant")
    content = turn.get("content")
    if isinstance(content, list):     # OpenAI's newer form: parts, of which this model reads text
        if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
            raise Refused(400, "messages: this model reads text only")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Refused(400, "messages: each turn has a content, a text")
    return {"role": str(turn["role"]), "content": content}
