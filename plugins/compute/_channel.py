"""Files and jobs on a machine that is reached by running programs there: over ssh, or a cluster's login node.

A transport only runs a program with bytes in and bytes out. What runs is always the same one: the machine's python3 with
plugins/compute/_host.py on its standard input, so that nothing has to be installed there, no two versions can meet, and no
argument of ours passes a shell. Every verb of it may be repeated; breaks are therefore waited out here.

    host = Host(SshTransport(target), patience_seconds=60)
    host.call("open", {"root": root, "token": ..., "run": ..., "attempt": 1, "deadline_seconds": 3600})     once, in start()
    channel = HostChannel(host, root)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from forge.errors import ForgeError, MachineLost, NoCapacity, UsageError
from forge.plugins.compute._transfer import (
    File,
    arrived,
    bytes_of,
    files_of,
    id_of,
    listed,
    member,
    put_in_place,
    write_members,
)
from forge.plugins.compute._transport import Broken, Failed, Here, Transport, last_line, run_program
from forge.store import hash_file

__all__ = ["Broken", "Failed", "Here", "Host", "HostChannel", "Transport", "Watch", "run_program"]

CALL_SECONDS = 120.0
"""Longest that a verb without a transfer may take; the machine hangs otherwise."""
PATIENCE_SECONDS = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
SMALL = 1 << 20
TRIES = 3
"""How often bytes that arrived damaged are sent again."""
MARK, REFUSED = b"<<slm-forge>>\n", 9

HOST_MODULES = ("_supervise", "_host_base", "_host_jobs", "_host_leases", "_host_files")
"""Sent with _host.py, in the order in which they import each other."""

BOOT = (
    "import sys;sys.version_info<(3,8) and sys.exit(\"Python %d.%d is too old\" % sys.version_info[:2]);"
    "b=sys.stdin.buffer;exec(compile(b.read(int(sys.argv[1])),\"slm-forge\",\"exec\"))"
)
"""Reads the program from stdin. Without quotes, backslashes or exclamation marks that some login shell would take as its own."""

T = TypeVar("T")


@dataclass(frozen=True)
class Watch:
    """How jobs of a channel are watched on the machine itself, whether or not anybody is there to ask.

    idle_seconds: a job ends with ABANDONED when the channel was not used for so long; 0 = never.
    grace_seconds: between the request to stop and the end. A job is asked to stop so long before the lease's deadline (at most
    a tenth of the lease), so that it has ended by then, with PAST_DEADLINE.
    notice: a command that is run every notice_seconds; success means that the machine is taken back: PREEMPTED.
    at_end: a command that is run after ABANDONED and PAST_DEADLINE (("shutdown", "-h", "now")).
    """

    idle_seconds: float = 1800.0
    grace_seconds: float = 30.0
    notice: tuple[str, ...] = ()
    notice_seconds: float = 5.0
    at_end: tuple[str, ...] = ()


@dataclass
class Host:
    """The verbs of _host.py on one machine. python: what runs them; any from 3.8 on."""

    transport: Transport
    python: str = "python3"
    patience_seconds: float = PATIENCE_SECONDS
    first_pause_seconds: float = FIRST_PAUSE_SECONDS

    def call(self, verb: str, request: Mapping[str, Any], *, seconds: float = CALL_SECONDS) -> Any:
        """Run a verb and return its answer; repeated while the connection breaks, up to patience_seconds: then MachineLost."""
        return json.loads(self.patiently(lambda: b"".join(self.stream(verb, request, seconds=seconds))))

    def probe(self, folder: str, *, seconds: float = 20.0) -> dict[str, Any]:
        """What the machine has: python, cores, memory_gib, disk_gib free at `folder`, gpus, environments, system, boot. Writes nothing there."""
        facts: dict[str, Any] = self.call("probe", {"folder": folder}, seconds=seconds)
        return facts

    def stream(
        self, verb: str, request: Mapping[str, Any], data: Iterable[bytes] = (), *, seconds: float | None = None
    ) -> Iterator[bytes]:
        """One call, unrepeated: the answer's bytes as they come. Raises Broken; refusals of the host side as ForgeErrors."""
        program, asked = host_program(), json.dumps(request).encode()
        argv = [self.python, "-I", "-S", "-c", BOOT, str(len(program)), verb, str(len(asked))]

        def stdin() -> Iterator[bytes]:
            yield program + asked
            yield from data

        try:
            yield from _after_mark(self.transport.stream(argv, stdin(), seconds=seconds))
        except Failed as error:
            raise self._explain(verb, error) from None

    def patiently(self, attempt: Callable[[], T], *, moved: Callable[[], float] = lambda: 0.0) -> T:
        """attempt(), repeated with growing pauses while the connection breaks.

        The patience starts anew whenever moved() has grown: a transfer that gets on is not given up. Raises MachineLost.
        """
        began, pause, seen = time.monotonic(), self.first_pause_seconds, moved()
        while True:
            try:
                return attempt()
            except Broken as error:
                if moved() > seen:
                    began, pause, seen = time.monotonic(), self.first_pause_seconds, moved()
                left = began + self.patience_seconds - time.monotonic()
                if left <= 0:
                    raise MachineLost(
                        f"{self.transport.where} does not answer any more", why=f"{error} (asked again for {self.patience_seconds:g} s)",
                        next="forge resume goes on when it answers again",
                    ) from error
                time.sleep(min(pause, left))
                pause = min(LONGEST_PAUSE_SECONDS, 1.5 * pause)

    def _explain(self, verb: str, error: Failed) -> Exception:
        where, text = self.transport.where, error.text.strip()
        if error.code == REFUSED:
            if not text:
                return Broken("the request did not arrive whole")
            return _refusal(where, json.loads(text.splitlines()[-1]))
        if error.code in (126, 127) or "not found" in text:
            return NoCapacity(f"{where} has no {self.python}", why=last_line(text), next=f"install Python 3.8 or later on {where}, or name one with --set ssh.python=PATH")
        if "is too old" in text:
            return NoCapacity(f"{last_line(text)} on {where}", why="the host side needs 3.8 or later", next="name a newer one with --set ssh.python=PATH")
        if error.code < 0 or error.code in (129, 130, 137, 143):
            return Broken(f"the call of {verb} was ended by a signal")
        return ForgeError(f"{where} could not do {verb}", why=last_line(text) or f"exit code {error.code}")


class HostChannel:
    """forge.protocols.Channel over a transport. Everything lies below `root`, which may begin with "~/".

    environment(channel, tell) -> str: makes the machine's Python ready (forge.plugins.compute._environment); without one the
    host's own python must be able to run jobs.
    """

    durable: bool = False

    def __init__(
        self, host: Host, root: str, *, watch: Watch | None = None, poll_seconds: float = 2.0,
        environment: Callable[[HostChannel, Callable[[str], None]], str] | None = None,
    ) -> None:
        """Nothing is asked of the machine yet. poll_seconds: as in forge.protocols.Channel."""
        self.host, self.root, self.watch, self.poll_seconds = host, root, watch or Watch(), poll_seconds
        self._environment, self._home = environment, ""

    def prepare(self, tell: Callable[[str], None]) -> str:
        """Make the machine ready; the Python to start jobs with."""
        return self._environment(self, tell) if self._environment else self.host.python

    def put(self, local: Path, remote: str, sha256: str = "") -> None:
        """Send a file or folder; goes on where a broken transfer stopped, and skips what is there with this hash."""
        _check(remote)
        request: dict[str, Any] = {"root": self.root, "remote": remote}
        if sha256 and self.host.call("has", {**request, "sha256": sha256})["has"]:
            return
        files = files_of(local)
        request.update(files=files, id=id_of(files), sha256=sha256)
        for _ in range(TRIES):
            damaged = self._send(local, files, request)
            if not damaged:
                return
        raise ForgeError(f"{remote} arrives damaged on {self.host.transport.where}", why=f"the hash of {damaged[0] or local.name} is another one there")

    def get(self, remote: str, local: Path) -> None:
        """Fetch a file or folder; goes on where a broken transfer stopped. Raises ForgeError when it is not there."""
        _check(remote)
        request = {"root": self.root, "remote": remote}
        for _ in range(TRIES):
            files = listed(self.host.call("list", request, seconds=3600.0), self.host.transport.where)
            partial = local.with_name(f".{local.name}.{id_of(files)}.partial")
            self._receive(partial, files, request)
            damaged = [name for name, _, sha256, _ in files if hash_file(member(partial, name)) != sha256]
            for name in damaged:
                member(partial, name).unlink()
            if not damaged:
                return put_in_place(partial, local, files)
        raise ForgeError(f"{remote} arrives damaged from {self.host.transport.where}", why=f"the hash of {damaged[0] or local.name} is another one here")

    def read(self, remote: str, offset: int) -> bytes:
        """The bytes of a file from an offset on; empty when there is none (yet)."""
        _check(remote)
        request = {"root": self.root, "remote": remote, "offset": offset}
        return self.host.patiently(lambda: b"".join(self.host.stream("read", request, seconds=CALL_SECONDS)))

    def spawn(self, job: str, argv: Sequence[str], env: Mapping[str, str], *, results: bool = True) -> None:
        """Start a job in its folder, once. results: it leaves something to fetch, which stop() of the lease must not throw away."""
        self._job("spawn", job, argv=list(argv), env=dict(env), watch=asdict(self.watch), results=results)

    def poll(self, job: str) -> int | None:
        """The job's exit code, None while it runs, -1 when it is gone without one or was never started."""
        code: int | None = self._job("poll", job)["code"]
        return code

    def path(self, remote: str) -> str:
        """The absolute path of a remote name on the machine."""
        _check(remote)
        if self.root.startswith("~") and not self._home:
            self._home = str(self.host.call("where", {"root": self.root})["root"])
        return f"{self._home or self.root}/{remote}"

    def stop(self, job: str, *, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after the grace, to the job and everything it started."""
        self._job("stop", job, seconds=grace_seconds + CALL_SECONDS, grace_seconds=grace_seconds)

    def _job(self, verb: str, job: str, *, seconds: float = CALL_SECONDS, **more: Any) -> Any:
        _check(f"jobs/{job}")
        return self.host.call(verb, {"root": self.root, "job": job, **more}, seconds=seconds)

    def _send(self, local: Path, files: Sequence[File], request: Mapping[str, Any]) -> list[str]:
        """One whole transfer; the names of files that arrived damaged."""
        reached, asked = 0.0, sum(size for _, size, _, _ in files) <= SMALL   # little is sooner sent than asked for

        def attempt() -> list[str]:
            nonlocal reached, asked
            offset = 0 if asked else json.loads(b"".join(self.host.stream("received", request, seconds=CALL_SECONDS)))["offset"]
            asked = False
            reached = max(reached, offset)
            data = bytes_of(local, files, offset)
            answer = json.loads(b"".join(self.host.stream("receive", {**request, "offset": offset}, data)))
            if not answer["whole"] and not answer["damaged"]:
                raise Broken("the transfer broke off")
            return list(answer["damaged"])

        return self.host.patiently(attempt, moved=lambda: reached)

    def _receive(self, partial: Path, files: Sequence[File], request: Mapping[str, Any]) -> None:
        total = sum(size for _, size, _, _ in files)
        partial.mkdir(parents=True, exist_ok=True)

        def attempt() -> None:
            offset = arrived(partial, files)
            write_members(partial, files, offset, self.host.stream("send", {**request, "files": files, "offset": offset}))
            if arrived(partial, files) < total:
                raise Broken("the transfer broke off")

        self.host.patiently(attempt, moved=lambda: arrived(partial, files))


@cache
def host_program() -> bytes:
    """_host.py with the modules that it imports, as one program of the standard library."""
    folder, package = Path(__file__).parent, __package__
    lines = ["import sys, types", f"package = sys.modules[{package!r}] = types.ModuleType({package!r})"]
    for name in HOST_MODULES:
        lines += [
            f"package.{name} = sys.modules['{package}.{name}'] = types.ModuleType('{package}.{name}')",
            f"exec(compile({(folder / f'{name}.py').read_text(encoding='utf-8')!r}, '{name}.py', 'exec'), package.{name}.__dict__)",
        ]
    lines.append(f"exec(compile({(folder / '_host.py').read_text(encoding='utf-8')!r}, '_host.py', 'exec'))\n")
    return "\n".join(lines).encode()


def _after_mark(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """What follows the mark: before it comes what login scripts print."""
    head, seen = b"", False
    for data in chunks:
        if seen:
            yield data
            continue
        head += data
        _, mark, rest = head.partition(MARK)
        if mark:
            seen = True
            yield rest
    if not seen:
        raise Broken("the answer is cut off")


def _refusal(where: str, told: Mapping[str, str]) -> ForgeError:
    kind, text = told["kind"], told["text"]
    if kind == "disk":
        return ForgeError(f"the disk of {where} is full", why=text, next=f"free some space on {where}, then forge resume")
    if kind == "busy":
        return NoCapacity(f"{where} is taken", why=text, next="forge resume when it is free")
    if kind == "over":
        return MachineLost(f"{where} has ended the lease", why=text, next="forge resume")
    if kind == "missing":
        return ForgeError(f"the job left nothing there: {text}", next="forge logs shows what it wrote")
    return ForgeError(f"{where} refused", why=text)



def _check(remote: str) -> None:
    if Path(remote).is_absolute() or ".." in Path(remote).parts:
        raise UsageError(f"{remote} leads out of the working folder")
