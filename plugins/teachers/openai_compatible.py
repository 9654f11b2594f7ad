"""Any server that speaks the OpenAI chat interface as the teacher: vLLM, Ollama, LM Studio, llama.cpp's server, or a vendor.

Plain HTTP from the standard library: one POST needs no SDK. A JSON schema is sent as response_format, for servers that
refuse it only that JSON is wanted, then nothing: the prompt asks for the same JSON and every answer is checked either way.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar
from urllib.parse import SplitResult, urlsplit

from forge.errors import MissingAccess, UsageError
from forge.ledger import Meter, Wait
from forge.phase import Requirement
from forge.plugins.teachers._attempts import Desk, UnderWay, answers, attempt, is_own_error
from forge.plugins.teachers._limiter import Busy, Limiter
from forge.plugins.teachers._prices import price_of
from forge.plugins.teachers._wire import (
    SYSTEM,
    answer_schema,
    cost_micro_usd,
    read_answer,
    tokens_at_most,
    user_text,
)
from forge.protocols import TeacherBrief, TeacherCapabilities, TeacherRequest, TeacherResponse, Usage

KEY = "OPENAI_API_KEY"
TIMEOUT_SECONDS = 600.0
"""A large local model on a CPU takes minutes for one answer."""
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
FORMATS = ("json_schema", "json_object", "")
"""What is asked of a server, from the strictest on; each refusal leads to the next."""
FORMAT_WORDS = (b"response_format", b"json_schema", b"json_object", b"grammar")
STOPS = {"length": "max_tokens", "content_filter": "refusal"}


class OpenAICompatibleTeacher:
    """The model `synth.model` at `synth.endpoint` ("http://127.0.0.1:11434/v1"). Free on this machine and its network."""

    name: ClassVar[str] = "openai_compatible"
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def __init__(self, brief: TeacherBrief = TeacherBrief(), desk: Desk = Desk()) -> None:  # noqa: B008  # frozen
        self.brief, self.desk, self.model = brief, desk, brief.model
        self._format = 0
        self._lines = threading.local()

    @property
    def paid(self) -> bool:
        """Whether somebody bills by the token."""
        return not _is_near(urlsplit(self.brief.endpoint).hostname or "localhost")

    def briefed(self, brief: TeacherBrief) -> OpenAICompatibleTeacher:
        """The teacher for one run."""
        return OpenAICompatibleTeacher(brief, self.desk)

    def metered(self, meter: Meter, wait: Wait) -> OpenAICompatibleTeacher:
        """The same teacher, reporting every attempt to a ledger."""
        return OpenAICompatibleTeacher(self.brief, Desk(meter, wait))

    def capabilities(self) -> TeacherCapabilities:
        """Paid unless the endpoint is on this machine or its private network."""
        return TeacherCapabilities(paid=self.paid, json_schema=True, batch=False, deterministic=False, checks=True, facts=True)

    def preflight(self) -> None:
        """Raises UsageError without endpoint, model or price, MissingAccess when the server does not answer or refuses the key."""
        if not self.brief.endpoint.startswith(("http://", "https://")):
            raise UsageError("the teacher openai_compatible has no endpoint", why=f"synth.endpoint is {self.brief.endpoint!r}", next="--set synth.endpoint=http://127.0.0.1:11434/v1")
        if not self.model:
            raise UsageError("the teacher openai_compatible has no model", why="synth.model is empty", next="--set synth.model=NAME, as the server calls it")
        if self.paid:
            price_of(self.model)
        try:
            status, _, body = self._call("GET", "/models", None)
        except OSError as error:
            raise MissingAccess(f"no teacher answers at {self.brief.endpoint}", why=str(error), next="start the server, or --set synth.teacher=offline") from error
        if status in {401, 403}:
            raise MissingAccess(f"the teacher at {self.brief.endpoint} refuses the key", why=f"HTTP {status}", next=f"export {KEY}=…")
        names = [entry.get("id", "") for entry in _object(body).get("data", []) if isinstance(entry, dict)]
        if status == 200 and names and self.model not in names:
            raise UsageError(f'the server has no model "{self.model}"', why=f"it has {', '.join(sorted(names)[:8])}", next="--set synth.model=NAME")

    def price(self, request: TeacherRequest) -> int:
        """The worst case in micro-dollars; nothing on this machine and its network."""
        used = {"input": tokens_at_most(SYSTEM, user_text(request)), "output": request.max_output_tokens}
        return cost_micro_usd(self.model, price_of(self.model), used, batch=False) if self.paid else 0

    def generate(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """Answers in the order in which they arrive."""
        yield from answers(Limiter(self._ask, self.brief.in_flight, check=self.desk.check), requests)

    def _ask(self, request: TeacherRequest) -> TeacherResponse:
        """One attempt, or more where the server takes no schema. Raises Busy and OverBudget."""
        asked = self._body(request)
        with attempt(self.desk, self.name, request, self.price(request)) as made:
            status, headers, body = self._post(asked, made)
            if status == 200 and (value := _object(body)):
                response = self._response(request, value)
                made.answered(f"answered: {response.error}" if response.error else "answered", response.micro_usd, response.usage)
                return response
            if status == 200:
                raise Busy("an answer that is no JSON object")
            made.failed(status, is_own_error(body))
        if status in RETRIED:
            after = headers.get("retry-after", "")
            raise Busy(f"HTTP {status}", float(after) if after.replace(".", "", 1).isdigit() else None)
        if status in {400, 422} and asked.get("response_format") and any(word in body for word in FORMAT_WORDS):
            self._format = max(self._format, FORMATS.index(asked["response_format"]["type"]) + 1)
            return self._ask(request)
        return TeacherResponse(key=request.key, error=f"HTTP {status}: {body[:200].decode(errors='replace')}")

    def _post(self, asked: dict[str, Any], made: UnderWay) -> tuple[int, Any, bytes]:
        try:
            return self._call("POST", "/chat/completions", asked)
        except ConnectionRefusedError as error:
            made.refused("not sent: ConnectionRefusedError")
            raise Busy("no answer (ConnectionRefusedError)") from error
        except (OSError, http.client.HTTPException) as error:
            made.unknown(f"no answer ({type(error).__name__})")
            raise Busy(f"no answer ({type(error).__name__})") from error

    def _body(self, request: TeacherRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user_text(request)}],
            "max_tokens": request.max_output_tokens,
            "temperature": 0,
        }
        if FORMATS[self._format] == "json_schema":   # vLLM, Ollama, LM Studio and llama.cpp make a grammar of it
            schema = {"name": request.kind, "schema": answer_schema(request.kind), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif FORMATS[self._format]:
            body["response_format"] = {"type": FORMATS[self._format]}
        return body

    def _response(self, request: TeacherRequest, body: dict[str, Any]) -> TeacherResponse:
        choice = next(iter(body.get("choices") or [{}]))
        text = (choice.get("message") or {}).get("content") or ""
        stopped = STOPS.get(choice.get("finish_reason") or "", "end")
        used = body.get("usage") or {}
        usage = Usage(input_tokens=used.get("prompt_tokens", 0), output_tokens=used.get("completion_tokens", 0))
        content, error = read_answer(text, request)
        cost = self._cost(request, usage)
        return TeacherResponse(
            key=request.key, **content, usage=usage, micro_usd=cost, stop_reason=stopped,
            error=f"stopped early: {stopped}" if error and stopped != "end" else error,
        )

    def _cost(self, request: TeacherRequest, usage: Usage) -> int:
        """A paid server that does not say what was used costs the worst case."""
        if not self.paid:
            return 0
        if not usage.output_tokens:
            return self.price(request)
        return cost_micro_usd(self.model, price_of(self.model), {"input": usage.input_tokens, "output": usage.output_tokens}, batch=False)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any, bytes]:
        """Status, headers and body over this thread's connection; a line that the server has closed is opened once more."""
        url = urlsplit(self.brief.endpoint)
        headers = {"content-type": "application/json"}
        if key := os.environ.get(KEY):
            headers["authorization"] = f"Bearer {key}"
        data = json.dumps(body).encode() if body is not None else None
        for fresh in (False, True):
            line = self._line(url, fresh)
            try:
                line.request(method, url.path.rstrip("/") + path, data, headers)
                response = line.getresponse()
                return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, http.client.CannotSendRequest):
                if fresh:
                    raise
            except (OSError, http.client.HTTPException):
                line.close()
                raise
        raise AssertionError

    def _line(self, url: SplitResult, fresh: bool) -> http.client.HTTPConnection:
        line: http.client.HTTPConnection | None = getattr(self._lines, "line", None)
        if line is None or fresh:
            kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
            line = self._lines.line = kind(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)
        return line


teacher = OpenAICompatibleTeacher()


def _is_near(host: str) -> bool:
    """True for this machine and private networks: what runs there bills nobody by the token."""
    if ("." not in host and ":" not in host) or host.endswith((".local", ".localhost", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
