"""The OpenAI-compatible teacher against a chat server on loopback, strict about schemas or ignorant of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from forge.errors import MissingAccess, UsageError
from forge.plugins.teachers.openai_compatible import OpenAICompatibleTeacher
from forge.protocols import TeacherBrief, TeacherRequest
from forge.records import Passage, Source, digest

PAIR = {"bucket": "rule", "question": "When does the valve open?", "answer": "At 3 bar.", "evidence": "opens at 3 bar", "fact": "opening", "form": 0}


class ChatServer(ThreadingHTTPServer):
    """Answers /models and /chat/completions; `trouble` is a list of statuses sent before the first answer."""

    daemon_threads = True

    def __init__(self, *, takes: tuple[str, ...] = ("json_schema", "json_object"), trouble: tuple[int, ...] = (), text: str = "", finish: str = "stop") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.takes, self.trouble, self.finish = takes, list(trouble), finish
        self.text = text or json.dumps({"pairs": [PAIR]})
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        wrong = self.headers.get("authorization") == "Bearer wrong"
        self._send(401 if wrong else 200, {"data": [{"id": "small"}, {"id": "large"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        if self.server.trouble:
            self._send(self.server.trouble.pop(0), {"error": "busy"}, {"retry-after": "0.01"})
        elif "response_format" in body and body["response_format"]["type"] not in self.server.takes:
            self._send(400, {"error": {"message": "unknown field response_format"}})
        else:
            choice = {"message": {"role": "assistant", "content": self.server.text}, "finish_reason": self.server.finish}
            self._send(200, {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20}})

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, one in (headers or {}).items():
            self.send_header(name, one)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(**options: Any) -> Iterator[ChatServer]:
    server = ChatServer(**options)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def request(number: int = 0) -> TeacherRequest:
    passage = Passage(id="p", source=Source(path="a.md", sha256="0"), group="g", text="The valve opens at 3 bar.")
    return TeacherRequest(key=digest(str(number)), kind="pairs", passage=passage, prompt="Find facts.", wanted=3, max_output_tokens=300)


def teacher(server: ChatServer, model: str = "small") -> OpenAICompatibleTeacher:
    return OpenAICompatibleTeacher(TeacherBrief(endpoint=server.url, model=model, in_flight=4))


def test_a_local_server_answers_for_nothing_with_a_schema() -> None:
    with serving() as server:
        one = teacher(server)
        one.preflight()
        answers = list(one.generate([request(number) for number in range(20)]))
    assert len({answer.key for answer in answers}) == 20
    assert {answer.proposals[0].answer for answer in answers} == {"At 3 bar."}
    assert not one.capabilities().paid
    assert sum(answer.micro_usd for answer in answers) == 0
    assert server.bodies[0]["response_format"]["json_schema"]["strict"] is True


def test_a_server_without_schemas_is_asked_without() -> None:
    with serving(takes=()) as server:
        answers = list(teacher(server).generate([request(number) for number in range(5)]))
    assert all(answer.proposals for answer in answers)
    assert "response_format" not in server.bodies[-1]


def test_a_server_that_takes_json_but_no_schema_is_asked_for_json() -> None:
    with serving(takes=("json_object",)) as server:
        answers = list(teacher(server).generate([request(number) for number in range(5)]))
    assert all(answer.proposals for answer in answers)
    assert server.bodies[-1]["response_format"] == {"type": "json_object"}


def test_a_busy_server_is_asked_again() -> None:
    with serving(trouble=(429, 503, 500)) as server:
        (answer,) = teacher(server).generate([request()])
    assert answer.proposals
    assert len(server.bodies) == 4


def test_json_in_a_code_fence_counts_and_other_text_fails_with_a_reason() -> None:
    with serving(text="Here you are:\n```json\n" + json.dumps({"pairs": [PAIR]}) + "\n```") as server:
        (answer,) = teacher(server).generate([request()])
        assert answer.proposals
    with serving(text="I would rather not.") as server:
        (answer,) = teacher(server).generate([request()])
        assert answer.error == "the answer holds no JSON object"
    with serving(text='{"pairs": [{"bucket":', finish="length") as server:
        (answer,) = teacher(server).generate([request()])
        assert answer.error == "stopped early: max_tokens"


def test_only_this_machine_and_its_network_are_free() -> None:
    def paid(endpoint: str) -> bool:
        return OpenAICompatibleTeacher(TeacherBrief(endpoint=endpoint, model="m")).capabilities().paid

    assert not any(map(paid, ("http://localhost:8000/v1", "http://10.0.0.7/v1", "http://[::1]/v1", "http://gpu.local/v1")))
    assert all(map(paid, ("https://api.example.com/v1", "http://8.8.8.8/v1")))


@pytest.mark.parametrize(
    ("endpoint", "model", "key", "kind", "fact"),
    [
        ("", "small", "", UsageError, "has no endpoint"),
        ("{url}", "", "", UsageError, "has no model"),
        ("{url}", "tiny", "", UsageError, 'the server has no model "tiny"'),
        ("{url}", "small", "wrong", MissingAccess, "refuses the key"),
        ("http://127.0.0.1:9", "small", "", MissingAccess, "no teacher answers at"),
        ("https://api.example.com/v1", "unpriced", "", UsageError, 'no price is known for the model "unpriced"'),
    ],
)
def test_preflight_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, model: str, key: str, kind: type[Exception], fact: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server, pytest.raises(kind, match=fact):
        OpenAICompatibleTeacher(TeacherBrief(endpoint=endpoint.format(url=server.url), model=model)).preflight()
