"""Claude as the teacher: Message Batches for unattended runs (half the price), or live requests at the pace allowed.

Facts of the SDK 2.x that shaped this (2026-11-20): sampling parameters are refused even at their defaults, so the same
request may be answered differently and answers are kept by request key; thinking is on unless disabled and its tokens
are billed; the client's own retries obey retry-after without a bound, so they are off and ours are used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ValidationError

from forge.errors import MissingAccess, UsageError
from forge.ledger import Meter, Wait
from forge.phase import Requirement
from forge.plugins.teachers._attempts import Desk, UnderWay, answers, attempt, is_own_error
from forge.plugins.teachers._batches import Batches, Notes, outcome
from forge.plugins.teachers._limiter import Busy, Limiter, Pace
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

if TYPE_CHECKING:
    from anthropic import Anthropic

DEFAULT_MODEL = "claude-haiku-5-5"
"""The cheapest current model: 2,370 passages cost about $0.42 by batch (research of 2026-11-20)."""

KEYS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")
TIMEOUT_SECONDS = 300.0
RETRIED = {408, 409, 429, 500, 502, 503, 504, 529}
CLOSED = {401, 402, 403, 404}
"""Key, credit, permission or model are gone: every other request would be refused as well."""
LIMITS = {"requests": "requests", "input-tokens": "input", "output-tokens": "output"}


class CacheWritten(BaseModel):
    """Tokens written to the prompt cache, by lifetime."""

    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class Tokens(BaseModel):
    """The part of a message's usage that is billed."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | None = None
    cache_creation: CacheWritten | None = None


class Block(BaseModel):
    """One block of content; only text is read."""

    type: str
    text: str = ""


class MessageBody(BaseModel):
    """A message as the Messages API returns it: what is read of it, validated. A field's absence is an error, never a zero."""

    type: Literal["message"]
    content: list[Block]
    stop_reason: str | None
    usage: Tokens


class Asking(threading.local):
    """What the current thread is asking, for the middleware; `reply` is what came back."""

    request: TeacherRequest | None = None
    reply: TeacherResponse | None = None


class AnthropicTeacher:
    """One Claude model. `briefed` chooses model, endpoint and route."""

    name: ClassVar[str] = "anthropic"
    requires: ClassVar[tuple[Requirement, ...]] = (Requirement(module="anthropic", extra="anthropic"),)

    def __init__(self, brief: TeacherBrief = TeacherBrief(), desk: Desk = Desk()) -> None:  # noqa: B008  # frozen
        self.brief, self.desk, self.model = brief, desk, brief.model or DEFAULT_MODEL
        self.batch = brief.mode != "live"
        self._client: Anthropic | None = None
        self._pace, self._asking = Pace(), Asking()

    def briefed(self, brief: TeacherBrief) -> AnthropicTeacher:
        """The teacher for one run."""
        return AnthropicTeacher(brief, self.desk)

    def metered(self, meter: Meter, wait: Wait) -> AnthropicTeacher:
        """The same teacher, reporting every attempt to a ledger."""
        return AnthropicTeacher(self.brief, Desk(meter, wait))

    def capabilities(self) -> TeacherCapabilities:
        """Paid, with a JSON schema; answers differ from call to call."""
        return TeacherCapabilities(paid=True, json_schema=True, batch=self.batch, deterministic=False, resumes=self.batch, checks=True, facts=True)

    def preflight(self) -> None:
        """Raises MissingAccess without a key or with a refused one, UsageError for a model that is unknown or on its way out."""
        import anthropic

        price_of(self.model)
        if not any(os.environ.get(key) for key in KEYS):
            raise MissingAccess("the teacher anthropic has no key", why=f"neither {' nor '.join(KEYS)} is set", next=f"export {KEYS[0]}=…")
        try:
            info = self._connect().models.retrieve(self.model)
        except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
            raise MissingAccess("the teacher anthropic refuses the key", why=error.message, next=f"check {KEYS[0]}") from error
        except anthropic.NotFoundError as error:
            raise UsageError(f'anthropic has no model "{self.model}"', why=error.message, next=f"--set synth.model={DEFAULT_MODEL}") from error
        except anthropic.APIError as error:
            raise MissingAccess("the teacher anthropic cannot be reached", why=error.message, next="try again, or --set synth.teacher=offline") from error
        if info.lifecycle != "active":
            raise UsageError(
                f"the model {self.model} is {info.lifecycle}", why=f"it is retired on {info.retires_at:%Y-%m-%d}" if info.retires_at else "it may stop answering",
                next=f"--set synth.model={DEFAULT_MODEL}",
            )

    def price(self, request: TeacherRequest) -> int:
        """The worst case in micro-dollars: every byte a token, the longest answer allowed."""
        used = {"input": tokens_at_most(SYSTEM, user_text(request)), "output": request.max_output_tokens}
        return cost_micro_usd(self.model, price_of(self.model), used, batch=self.batch)

    def generate(self, requests: Sequence[TeacherRequest]) -> Iterator[TeacherResponse]:
        """Answers in the order in which they arrive."""
        if self.batch:
            batches = Batches(self._connect(), Notes(self._notes()), self.desk, self.name, self._parameters, self.price, self._from_batch)
            yield from batches.answer(requests)
            return
        yield from answers(Limiter(self._ask, self.brief.in_flight, pace=self._pace, costs=_costs, check=self.desk.check), requests)

    def _connect(self) -> Anthropic:
        if self._client is None:
            import anthropic

            self._client = anthropic.Anthropic(
                base_url=self.brief.endpoint or None, max_retries=0, timeout=TIMEOUT_SECONDS, middleware=[self._watch], open_telemetry=False
            )
        return self._client

    def _notes(self) -> Path:
        return Path(self.brief.notes) / "batches.jsonl"

    def _watch(self, request: Any, call_next: Any) -> Any:
        """The client's middleware: sees every attempt, puts it into the ledger, and learns the limits that the server advertises."""
        asked = self._asking.request
        if asked is None:   # preflight and batches; a batch's items have their lines already
            return call_next(request)
        with attempt(self.desk, self.name, asked, self.price(asked)) as made:
            try:
                answered = call_next(request)
            except Exception as error:
                _explain(made, error)
                raise
            response = answered.http_response
            self._learn(response.headers)
            if response.is_success:
                self._asking.reply = self._read(asked, response.content, made)
            else:
                made.failed(response.status_code, is_own_error(response.content))
            return answered

    def _learn(self, headers: Any) -> None:
        for header, kind in LIMITS.items():
            limit, remaining = (headers.get(f"anthropic-ratelimit-{header}-{what}") for what in ("limit", "remaining"))
            if limit and remaining:
                self._pace.learn(kind, float(limit), float(remaining))

    def _read(self, request: TeacherRequest, body: bytes, made: UnderWay) -> TeacherResponse | None:
        """The response in a body, booked as answered; None, and left as unknown, when the body is no message."""
        try:
            reply = MessageBody.model_validate_json(body)
        except ValidationError:
            return None
        response = self._response(request, reply, batch=False)
        made.answered(outcome(response), response.micro_usd, response.usage)
        return response

    def _ask(self, request: TeacherRequest) -> TeacherResponse:
        """One attempt. Raises Busy when another may go better, OverBudget when its worst case does not fit,
        MissingAccess when the account is served no more."""
        import anthropic

        self._asking.request, self._asking.reply = request, None
        try:
            self._connect().messages.with_raw_response.create(**self._parameters(request))
        except anthropic.APIStatusError as error:
            if error.status_code in RETRIED:
                after = error.response.headers.get("retry-after", "")
                raise Busy(f"HTTP {error.status_code}", float(after) if after.replace(".", "", 1).isdigit() else None) from error
            if error.status_code in CLOSED:
                raise MissingAccess(
                    f"the teacher anthropic does not serve this account any more (HTTP {error.status_code})", why=error.message[:300],
                    next="forge resume, when that is mended; what is answered is kept",
                ) from error
            return TeacherResponse(key=request.key, error=f"HTTP {error.status_code}: {error.message}"[:300])
        except anthropic.APIConnectionError as error:
            raise Busy(f"no answer ({type(error.__cause__ or error).__name__})") from error
        finally:
            self._asking.request = None
        if self._asking.reply is None:
            raise Busy("an answer that is no message")
        self._pace.give_back("output", request.max_output_tokens - self._asking.reply.usage.output_tokens)
        return self._asking.reply

    def _parameters(self, request: TeacherRequest) -> dict[str, Any]:
        output: dict[str, Any] = {"format": {"type": "json_schema", "schema": answer_schema(request.kind)}}
        always = price_of(self.model).get("thinking") == "always"
        return {
            "model": self.model,
            "max_tokens": request.max_output_tokens,
            "system": SYSTEM,
            "messages": [{"role": "user", "content": user_text(request)}],
            **({} if always else {"thinking": {"type": "disabled"}}),
            "output_config": {**output, "effort": "low"} if always else output,
        }

    def _from_batch(self, request: TeacherRequest, message: Any) -> TeacherResponse | None:
        try:
            return self._response(request, MessageBody.model_validate(message.model_dump(include=set(MessageBody.model_fields))), batch=True)
        except ValidationError:
            return None

    def _response(self, request: TeacherRequest, reply: MessageBody, *, batch: bool) -> TeacherResponse:
        used = reply.usage
        written = used.cache_creation or CacheWritten()
        tokens = {
            "input": used.input_tokens, "output": used.output_tokens, "cache_read": used.cache_read_input_tokens or 0,
            "cache_write_5m": written.ephemeral_5m_input_tokens, "cache_write_1h": written.ephemeral_1h_input_tokens,
        }
        text = "".join(block.text for block in reply.content if block.type == "text")
        content, error = read_answer(text, request)
        stopped = reply.stop_reason or "end_turn"
        return TeacherResponse(
            key=request.key, **content, micro_usd=cost_micro_usd(self.model, price_of(self.model), tokens, batch=batch),
            usage=Usage(input_tokens=used.input_tokens, output_tokens=used.output_tokens, cached_input_tokens=tokens["cache_read"]),
            stop_reason="end" if stopped == "end_turn" else stopped, error=f"stopped early: {stopped}" if error and stopped != "end_turn" else error,
        )


teacher = AnthropicTeacher()


def _costs(request: TeacherRequest) -> dict[str, float]:
    """What one request takes from the advertised limits: about four bytes a token, and its longest answer."""
    return {"requests": 1, "input": len(user_text(request).encode()) / 4 + 300, "output": request.max_output_tokens}


def _explain(made: UnderWay, error: Exception) -> None:
    """Whether an attempt without an answer was sent at all. While a connection is being made nothing has been sent yet."""
    import httpx2

    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.UnsupportedProtocol):
        made.refused(f"not sent: {type(cause).__name__}")
    else:
        made.unknown(f"no answer ({type(cause).__name__})")
