"""A container with _agent.py in it as a transport: calls by HTTP, each started once however often it has to be asked for.

A call's input goes there in parts and its output comes back in parts, several at a time: one stream through a far proxy is
limited by its round trip (the Hub's own client measured 2 MiB/s at 100 ms, and sends 16 parts side by side).
"""

from __future__ import annotations

import base64
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from secrets import token_hex
from typing import Any

from forge.errors import MissingAccess
from forge.plugins.compute import _agent
from forge.plugins.compute._channel import Broken, Failed

PARALLEL = 8
INLINE = 256 * 2**10
"""Input up to this size travels with the call itself."""
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
DOOR_SECONDS = 60.0
TRIES, FIRST_PAUSE_SECONDS = 4, 0.3


def command(python: str) -> list[str]:
    """What a container runs to have the agent: its text is in the command, so the container fetches nothing for it."""
    source = Path(_agent.__file__).read_bytes()
    packed = base64.b85encode(zlib.compress(source, 9)).decode()
    return [python, "-c", f"import base64,zlib;exec(compile(zlib.decompress(base64.b85decode('{packed}')),'agent','exec'))"]


def environment(port: int, seconds: float, idle_seconds: float, sign: str = "") -> dict[str, str]:
    """The agent's settings, without its key. sign: a file there whose change counts as asking."""
    told = {"FORGE_AGENT_PORT": str(port), "FORGE_AGENT_SECONDS": f"{seconds:.0f}", "FORGE_AGENT_IDLE": f"{idle_seconds:.0f}"}
    return {**told, "FORGE_AGENT_SIGN": sign} if sign else told


@dataclass(frozen=True)
class Door:
    """Where an agent is asked. url: without a slash at the end. headers: what the proxy before it wants."""

    url: str
    headers: Mapping[str, str]


class AgentTransport:
    """forge.plugins.compute._channel.Transport over an agent.

    door() tells where it is; it is asked again after every failure and every DOOR_SECONDS, and raises MachineLost when there will be none any more,
    Broken when there is none yet.
    """

    def __init__(self, where: str, key: str, door: Callable[[], Door]) -> None:
        self.where, self.login = where, ""
        self._key, self._door = key, door
        self._client: Any = None
        self._known: tuple[Door, float] | None = None

    def stream(self, argv: Sequence[str], stdin: Iterable[bytes], *, seconds: float | None) -> Iterator[bytes]:
        """Run argv there on stdin, and yield what it writes. Raises Broken, Failed, MissingAccess, MachineLost."""
        name, ends = token_hex(16), None if seconds is None else time.monotonic() + seconds
        try:
            told = {"argv": list(argv), **self._send(name, stdin)}
            answer = self._patiently("POST", name, json=told)
            yield from self._output(name, answer, ends)
        finally:
            with suppress(Broken):
                self._ask("DELETE", name)

    def close(self) -> None:
        """Let go of the connections."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def is_up(self) -> bool:
        """Whether the agent answers."""
        try:
            return bool(self._request("GET", "/health").status_code == 200)
        except Broken:
            return False

    def _send(self, name: str, stdin: Iterable[bytes]) -> dict[str, Any]:
        """Send the input, in parts unless it is small; what the call has to be told about it."""
        parts = _parts(stdin)
        first = next(parts, b"")
        if len(first) <= INLINE and len(first) < _agent.PART:   # only the last part is short
            return {"size": len(first), "stdin": base64.b64encode(first).decode()}
        size, waiting = 0, deque[Future[Any]]()
        with ThreadPoolExecutor(PARALLEL) as pool:
            for part in chain([first], parts):
                waiting.append(pool.submit(self._patiently, "PUT", name, size, content=part))
                size += len(part)
                if len(waiting) == 2 * PARALLEL:
                    waiting.popleft().result()
            for one in waiting:
                one.result()
        return {"size": size}

    def _output(self, name: str, answer: Any, ends: float | None) -> Iterator[bytes]:
        offset = 0
        while True:
            yield answer.content
            offset += len(answer.content)
            size = int(answer.headers["X-Size"])
            if "X-Code" in answer.headers:
                break
            if ends is not None and time.monotonic() > ends:
                raise Broken(f"{self.where} took too long")
            answer = self._patiently("GET", name, offset)
        yield from self._rest(name, offset, size)
        if (code := int(answer.headers["X-Code"])) != 0:
            raise Failed(code, base64.b64decode(answer.headers["X-Err"]).decode(errors="replace").strip())

    def _rest(self, name: str, offset: int, size: int) -> Iterator[bytes]:
        """The output from `offset` on, of a call that has ended: several parts at a time, in order."""
        places, waiting = iter(range(offset, size, _agent.PART)), deque[tuple[int, Future[Any]]]()
        with ThreadPoolExecutor(PARALLEL) as pool:
            for place in places:
                waiting.append((place, pool.submit(self._patiently, "GET", name, place)))
                if len(waiting) == PARALLEL:
                    yield _whole(waiting.popleft(), size)
            while waiting:
                yield _whole(waiting.popleft(), size)

    def _patiently(self, method: str, name: str, offset: int = 0, **body: Any) -> Any:
        """Ask again after a break: a part that arrives late must not cost the parts that are there."""
        for attempt in range(1, TRIES + 1):
            try:
                return self._ask(method, name, offset, **body)
            except Broken:
                if attempt == TRIES:
                    raise
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError

    def _ask(self, method: str, name: str, offset: int = 0, **body: Any) -> Any:
        answer = self._request(method, f"/call?id={name}&offset={offset}&length={_agent.PART}", **body)
        if answer.status_code == 200:
            return answer
        raise Broken(f"{self.where} answers {answer.status_code}: {answer.text[:200]}")

    def _request(self, method: str, path: str, **body: Any) -> Any:
        import httpx2

        door = self._where()
        if self._client is None:
            # No redirects: what is sent here carries keys, and the proxy serves the agent itself.
            timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
            self._client = httpx2.Client(timeout=timeout, follow_redirects=False, limits=httpx2.Limits(max_connections=2 * PARALLEL))
        try:
            answer = self._client.request(method, door.url + path, headers={**door.headers, "X-Forge-Key": self._key}, **body)
        except httpx2.TransportError as error:
            self._known = None
            raise Broken(f"{type(error).__name__}: {error}") from error
        if answer.status_code == 403 and "X-Forge-Agent" in answer.headers:
            raise MissingAccess(
                f"{self.where} does not take our key", why="it was started with another token of the hub, or for another lease",
                next="export HF_TOKEN=… as when it was started, or forge teardown RUN",
            )
        if "X-Forge-Agent" not in answer.headers:
            self._known = None
            raise Broken(f"the proxy before {self.where} answers {answer.status_code}")
        return answer

    def _where(self) -> Door:
        """The Hub is asked seldom: it answers 1,000 requests in five minutes."""
        if self._known is None or time.monotonic() - self._known[1] > DOOR_SECONDS:
            self._known = self._door(), time.monotonic()
        return self._known[0]


def _parts(stdin: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of one size, the last one shorter."""
    held = bytearray()
    for piece in stdin:
        held += piece
        while len(held) >= _agent.PART:
            yield bytes(held[: _agent.PART])
            del held[: _agent.PART]
    if held:
        yield bytes(held)


def _whole(asked: tuple[int, Future[Any]], size: int) -> bytes:
    place, answer = asked[0], asked[1].result()
    part: bytes = answer.content
    if len(part) != min(_agent.PART, size - place):
        raise Broken("a part of an answer was cut")
    return part
