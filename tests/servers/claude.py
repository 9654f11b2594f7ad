"""A Messages and Message Batches server on loopback: real HTTP, real limits, a bill of its own, and storms on demand.

It answers with pairs made from the passages between the markers, answers questions on them and judges pairs (as its manner
is: "honest", "yes" to everything, "no" to everything, "forgetful" without answers, "blind" to numbers), counts tokens with the schema as the vendor's newest tokenizer would (claude_facts.py) and bills what it answers,
in exact decimals rounded up to a micro-dollar a request. It bills nothing for refusals to serve (429, 529) and for
connections that it drops before it has answered; what it resets in the middle of the answer's body is billed.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.claude_facts import check_answer, count_tokens, facts_answer

PRICE = {"input": Decimal("0.10"), "output": Decimal("0.50")}
"""USD per million tokens of claude-haiku-5-5, prompts up to 100,000 tokens; batches cost half."""
BATCH_SHARE = Decimal("0.5")
ITEMS = re.compile(r"\[(\w+) items begin\]\n(.*)\n\[\1 items end\]", re.DOTALL)
WORD = re.compile(r"\w+")
PASSAGE = re.compile(r"\[(\w+) passage 1 begins\]\nsection: .*\n\n(.*?)\n\[\1 passage 1 ends\]", re.DOTALL)


@dataclass
class Storm:
    """Shares of the requests (0..1) that meet each trouble; seconds that an answer takes; limits a minute, 0 = none.

    reset: billed, and half of the answer's body sent. proxy: answered, billed, and a 502 of something in between sent instead.
    output_per_minute is charged at a request's max_tokens and corrected when it is answered, as Anthropic does.
    """

    too_many: float = 0.0
    retry_after: str = ""
    overloaded: float = 0.0
    dropped: float = 0.0
    reset: float = 0.0
    proxy: float = 0.0
    truncated: float = 0.0
    refused: float = 0.0
    garbled: float = 0.0
    expired: float = 0.0
    errored: float = 0.0
    seconds: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.5
    batch_seconds: float = 0.0
    create_dropped: int = 0
    requests_per_minute: int = 0
    input_per_minute: int = 0
    output_per_minute: int = 0


@dataclass
class Books:
    """What the server knows: its bill in micro-dollars, how often each passage was billed, what it was asked."""

    micro_usd: int = 0
    billed: Counter[str] = field(default_factory=Counter)
    bills: dict[str, list[int]] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    batches_created: int = 0
    output_tokens: int = 0


class ClaudeServer(ThreadingHTTPServer):
    """Starts on a free port; use as a context manager. `url` is the base URL for the client. closed: a status to refuse everything with."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, storm: Storm | None = None, *, seed: int = 3, models: dict[str, str] | None = None, manner: str = "honest") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.storm, self.books, self.lock = storm or Storm(), Books(), threading.Lock()
        self.manner, self.closed = manner, 0
        self.models = models or {"claude-haiku-5-5": "active", "claude-haiku-4-5": "deprecated"}
        self.batches: dict[str, dict[str, Any]] = {}
        self.numbers, self.random = itertools.count(1), random.Random(seed)
        storm = self.storm
        self.limits = {"requests": storm.requests_per_minute, "input-tokens": storm.input_per_minute, "output-tokens": storm.output_per_minute}
        self.levels, self.at = {kind: float(limit) for kind, limit in self.limits.items()}, time.monotonic()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> ClaudeServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet about clients that hang up or are killed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def happens(self, share: float) -> bool:
        """One draw."""
        with self.lock:
            return self.random.random() < share

    def admitted(self, body: dict[str, Any]) -> str:
        """Take a request's costs out of the buckets; the limit that refuses it, or ""."""
        costs = {"requests": 1, "input-tokens": _input_tokens(body), "output-tokens": body.get("max_tokens", 0)}
        with self.lock:
            now = time.monotonic()
            for kind, limit in self.limits.items():
                self.levels[kind] = min(limit, self.levels[kind] + (now - self.at) * limit / 60)
            self.at = now
            for kind, limit in self.limits.items():
                if limit and self.levels[kind] < costs[kind]:
                    return kind
            for kind, limit in self.limits.items():
                self.levels[kind] -= costs[kind] if limit else 0
        return ""

    def message(self, body: dict[str, Any], *, batch: bool) -> dict[str, Any]:
        """The answer to one request, billed."""
        storm, text, stop = self.storm, json.dumps(_content(body, self.manner), ensure_ascii=False), "end_turn"
        if self.happens(storm.refused):
            text, stop = "I can't help with that.", "refusal"
        elif self.happens(storm.truncated):
            text, stop = text[: len(text) // 2], "max_tokens"
        elif self.happens(storm.garbled):
            text = text.replace('"pairs"', '"pears"').replace('"facts"', '"fakts"')
        tokens = max(1, count_tokens(text))
        if tokens > body["max_tokens"]:
            text, stop, tokens = text[: len(text) * body["max_tokens"] // tokens], "max_tokens", body["max_tokens"]
        used = {"input_tokens": _input_tokens(body), "output_tokens": tokens}
        self._bill(body, used, batch)
        with self.lock:
            number = next(self.numbers)
            if not batch and self.limits["output-tokens"]:
                self.levels["output-tokens"] += body["max_tokens"] - used["output_tokens"]
        return {
            "id": f"msg_{number}", "type": "message", "role": "assistant", "model": body["model"], "stop_reason": stop, "stop_sequence": None,
            "content": [{"type": "text", "text": text, "citations": None}], "usage": used,
        }

    def _bill(self, body: dict[str, Any], used: dict[str, int], batch: bool) -> None:
        exact = PRICE["input"] * used["input_tokens"] + PRICE["output"] * used["output_tokens"]
        micro = (exact * (BATCH_SHARE if batch else 1)).to_integral_value(ROUND_CEILING)
        with self.lock:
            self.books.micro_usd += int(micro)
            self.books.output_tokens += used["output_tokens"]
            self.books.billed[body["messages"][0]["content"]] += 1
            self.books.bills.setdefault(body["messages"][0]["content"], []).append(int(micro))

    def open_batch(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """A new batch that ends after storm.batch_seconds."""
        with self.lock:
            self.books.batches_created += 1
            name = f"msgbatch_{next(self.numbers)}"
        now = datetime.now(UTC)
        self.batches[name] = {"id": name, "requests": requests, "at": now, "ends": now + timedelta(seconds=self.storm.batch_seconds), "results": None}
        return self.show(name)

    def show(self, name: str) -> dict[str, Any]:
        """The batch as the API shows it; results are made, and billed, when it has ended."""
        batch = self.batches[name]
        ended = datetime.now(UTC) >= batch["ends"]
        with self.lock:
            make, batch["made"] = ended and not batch.get("made"), ended
        if make:
            batch["results"] = [self._result(request) for request in batch["requests"]]
            self.random.shuffle(batch["results"])
        counts = Counter(line["result"]["type"] for line in batch["results"] or ())
        total = len(batch["requests"])
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if batch["results"] is not None else "in_progress",
            "request_counts": {
                "processing": 0 if batch["results"] is not None else total,
                **{kind: counts[kind] for kind in ("succeeded", "errored", "canceled", "expired")},
            },
            "created_at": batch["at"].isoformat(), "expires_at": (batch["at"] + timedelta(hours=24)).isoformat(), "ended_at": None,
            "archived_at": None, "cancel_initiated_at": None, "results_url": f"{self.url}/v1/messages/batches/{name}/results",
        }

    def _result(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.happens(self.storm.expired):
            result: dict[str, Any] = {"type": "expired"}
        elif self.happens(self.storm.errored):
            fault = {"type": "error", "error": {"type": "api_error", "message": "internal"}, "request_id": None}
            result = {"type": "errored", "error": fault}
        else:
            result = {"type": "succeeded", "message": self.message(request["params"], batch=True)}
        return {"custom_id": request["custom_id"], "result": result}


class _Handler(BaseHTTPRequestHandler):
    server: ClaudeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["bill"]:
            self._raw(200, str(self.server.books.micro_usd).encode(), {})
        elif parts[1] == "models":
            self._model(parts[2])
        elif len(parts) == 3:
            self._send(200, {"data": [self.server.show(name) for name in reversed(self.server.batches)], "has_more": False, "first_id": None, "last_id": None})
        elif parts[3] not in self.server.batches:
            self._fault(404, "not_found_error")
        elif len(parts) == 4:
            self._send(200, self.server.show(parts[3]))
        else:
            lines = self.server.batches[parts[3]]["results"]
            self._raw(200, "".join(json.dumps(line) + "\n" for line in lines).encode(), {"content-type": "application/x-jsonl"})

    def do_POST(self) -> None:
        data = self.rfile.read(length := int(self.headers["content-length"]))
        if len(data) < length:   # the client was killed while it wrote
            self.close_connection = True
            return
        body = json.loads(data)
        storm = self.server.storm
        if self._refused(storm, body):
            return
        if self.path.endswith("/batches"):
            made = self.server.open_batch(body["requests"])
            if storm.create_dropped:
                storm.create_dropped -= 1
                self._hang_up()
                return
            self._send(200, made)
            return
        time.sleep(storm.slow_seconds if self.server.happens(storm.slow) else storm.seconds)
        if self.server.happens(storm.dropped):
            self._hang_up()
            return
        with self.server.lock:
            self.server.books.bodies.append(body)
            self.server.books.headers.append({name.lower(): value for name, value in self.headers.items()})
        answer = self.server.message(body, batch=False)
        if self.server.happens(storm.reset):
            self._reset(json.dumps(answer).encode())
        elif self.server.happens(storm.proxy):
            self._raw(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"})
        else:
            self._send(200, answer)

    def _reset(self, data: bytes) -> None:
        """Half of the body, then a TCP reset."""
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _refused(self, storm: Storm, body: dict[str, Any]) -> bool:
        if self.server.closed:
            self._fault(self.server.closed, "permission_error")
        elif self.server.admitted(body):
            self._fault(429, "rate_limit_error", {"retry-after": "1"})
        elif self.server.happens(storm.too_many):
            self._fault(429, "rate_limit_error", {"retry-after": storm.retry_after} if storm.retry_after else {})
        elif self.server.happens(storm.overloaded):
            self._fault(529, "overloaded_error")
        else:
            return False
        return True

    def _model(self, name: str) -> None:
        if self.headers.get("authorization") == "Bearer wrong" or self.headers.get("x-api-key") == "wrong":
            self._fault(401, "authentication_error")
        elif name not in self.server.models:
            self._fault(404, "not_found_error")
        else:
            state = self.server.models[name]
            retires = "2026-11-30T00:00:00Z" if state != "active" else None
            self._send(200, {"id": name, "type": "model", "display_name": name, "created_at": "2026-10-07T00:00:00Z", "lifecycle": state, "retires_at": retires})

    def _fault(self, status: int, kind: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, {"type": "error", "error": {"type": kind, "message": kind}, "request_id": None}, headers)

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})})

    def _raw(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        with self.server.lock:
            self.server.books.statuses[status] += self.path != "/bill"
            levels = dict(self.server.levels)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        for kind, limit in self.server.limits.items():
            if limit:
                self.send_header(f"anthropic-ratelimit-{kind}-limit", str(limit))
                self.send_header(f"anthropic-ratelimit-{kind}-remaining", str(max(0, int(levels[kind]))))
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _input_tokens(body: dict[str, Any]) -> int:
    """System text, task and schema; nothing for a batch as a whole."""
    return count_tokens(f"{body['system']}\n{body['messages'][0]['content']}\n{json.dumps(body.get('output_config', ''))}") if "messages" in body else 0


def _content(body: dict[str, Any], manner: str) -> dict[str, Any]:
    """What the schema of the request asks for."""
    kind = body["output_config"]["format"]["schema"]["required"][0] if "output_config" in body else "pairs"
    if kind == "pairs":
        return {"pairs": _pairs(body)}
    text = body["messages"][0]["content"]
    if kind in {"facts", "r"}:
        return facts_answer(text) if kind == "facts" else check_answer(text, manner)
    passage, items = PASSAGE.search(text), ITEMS.search(text)
    if not (passage and items):
        return {kind: []}
    answer = _reply if kind == "answers" else _judgement
    return {kind: [{"number": item["number"], **answer(item, passage[2], manner)} for item in json.loads(items[2])]}


def _reply(item: dict[str, Any], passage: str, manner: str) -> dict[str, Any]:
    """The sentence that shares the most words with the question."""
    asked = set(WORD.findall(item["question"].casefold()))
    sentences = passage.split(". ")
    return {"answer": "" if manner == "forgetful" else max(sentences, key=lambda one: len(asked & set(WORD.findall(one.casefold()))))}


def _judgement(item: dict[str, Any], passage: str, manner: str) -> dict[str, Any]:
    """Supported when every word of the answer stands in the passage."""
    words = set(WORD.findall(item["answer"].casefold()))
    if manner == "blind":
        words = {word for word in words if not word.isdigit()}
    supported = words <= set(WORD.findall(passage.casefold())) if manner in {"honest", "blind", "forgetful"} else manner == "yes"
    return {"supported": supported, "contradicts": manner == "no", "complete": True, "self_contained": True}


def _pairs(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Three forms of one question on the first sentence of the passage; none where there is no passage."""
    found = PASSAGE.search(body["messages"][0]["content"])
    sentence = found[2].split(". ")[0].strip() if found else ""
    if not sentence:
        return []
    subject = " ".join(sentence.split()[:6])
    asked = (f"What is said about {subject}?", f"What do the documents state on {subject}?", f"Which statement is made about {subject}?")
    return [
        {"bucket": "statement", "question": question, "answer": sentence, "evidence": sentence, "fact": "first", "form": form}
        for form, question in enumerate(asked)
    ]
