"""Hugging Face Jobs small enough for a test: jobs that are started, listed by label, cancelled, billed, and that really run.

Speaks the routes that huggingface_hub 2.4 uses. A job's command runs as a process of this machine with the environment that
the job was given and nothing else; plugins/compute/_supervise.py stands for the container: when its first process ends, when
its time is over and when it is cancelled, everything that was started in it ends. Its port is reached through this server
only, with a token, as through the Hub's proxy. What is not about jobs is answered by model_hub.py, which keeps repositories.
`lose`, `deaf`, `hide` and `broken` make it fail, `refuse_commits` the repositories.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from forge.plugins.compute import _supervise
from tests.servers.model_hub import ModelHub, model_hub, read_body

WRITER, READER, NARROW = "hf_writerwriterwriterwriter", "hf_readerreaderreaderreader", "hf_narrownarrownarrownarrow"
ACCESS: dict[str, dict[str, Any]] = {
    WRITER: {"role": "write"},
    READER: {"role": "read"},
    NARROW: {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"type": "user", "name": "ann"}, "permissions": ["repo.write"]}]}},
}
JOBS_ONLY = "hf_jobsonlyjobsonlyjobs"
ACCESS[JOBS_ONLY] = {"role": "fineGrained", "fineGrained": {"scoped": [{"entity": {"type": "user", "name": "ann"}, "permissions": ["job.write"]}]}}
LIVE = ("SCHEDULING", "RUNNING")
UNIT_MICRO_USD = 8333   # a minute of the small GPU: $0.50 an hour


def hardware(name: str, micro: int, *, gpu: str = "", vram: str = "", quantity: str = "1") -> dict[str, Any]:
    """One row of the price list."""
    chip = {"type": "gpu", "model": gpu, "quantity": quantity, "vram": vram, "manufacturer": "Nvidia"} if gpu else None
    return {
        "name": name, "prettyName": name, "cpu": "4 vCPU", "ram": "32 GB", "ephemeralStorage": "100 GB", "accelerator": chip,
        "unitCostMicroUSD": micro, "unitCostUSD": micro / 1e6, "unitLabel": "minute",
    }


@dataclass
class Job:
    """One job: what was asked for, and the process that it is."""

    id: str
    spec: dict[str, Any]
    created: float
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    started: float | None = None
    ended: float | None = None
    stage: str = "SCHEDULING"
    message: str | None = None

    def seconds(self, now: float) -> int:
        """How long it has run, as the Hub counts."""
        return 0 if self.started is None else math.ceil((self.ended or now) - self.started)


@dataclass
class JobsHub:
    """What the server holds. Costs are in micro-dollars."""

    folder: Path
    url: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    prices: list[dict[str, Any]] = field(default_factory=lambda: [
        hardware("cpu-basic", 167), hardware("t4-small", UNIT_MICRO_USD, gpu="T4", vram="16 GB"), hardware("l4x4", 66667, gpu="L4", vram="96 GB", quantity="4"),
    ])
    posts: int = 0
    seen: list[str] = field(default_factory=list)
    lose: int = 0            # starts that are done and not answered
    deaf: int = 0            # starts that are taken and never answered; done is whether they were done
    deaf_does: bool = True
    broken: int = 0          # requests of any kind that are answered with 503
    hide: int = 0            # lists that do not show new jobs yet
    refuse: tuple[int, str] = (0, "")   # status and words for starts
    keep_waiting: bool = False           # no hardware comes free
    forgets: bool = False                # a deleted job is not known any more
    cut: bool = False                    # the proxy does not reach any job
    lose_proxied: int = 0                # requests to jobs that are done, and whose answers are lost
    refuse_commits: tuple[int, str] = (0, "")   # status and words for commits to repositories
    repositories: ModelHub = field(default_factory=ModelHub)
    over: threading.Event = field(default_factory=threading.Event)

    def up(self) -> list[str]:
        """Jobs that run or wait, and so may bill."""
        self.look()
        return [job.id for job in self.jobs.values() if job.stage in LIVE]

    def bill(self) -> int:
        """What all jobs cost: begun minutes of running, at the price of their hardware."""
        self.look()
        units = {row["name"]: row["unitCostMicroUSD"] for row in self.prices}
        return sum(math.ceil(job.seconds(time.time()) / 60) * units[job.spec["flavor"]] for job in self.jobs.values())

    def processes(self) -> list[int]:
        """Living processes of jobs."""
        return [pid for job in self.jobs.values() if job.process and job.process.poll() is None for pid in [job.process.pid]]

    def look(self) -> None:
        """Note what became of the processes."""
        for job in self.jobs.values():
            if job.stage == "RUNNING" and job.process is not None and job.process.poll() is not None:
                code = (job.folder / ".job" / "rc").read_text(encoding="utf-8")
                job.stage, job.ended = ("COMPLETED" if code == "0" else "ERROR"), time.time()
                job.message = {"0": None, "124": "Job timeout"}.get(code, f"exit code {code}")

    def make(self, spec: dict[str, Any]) -> Job:
        """Start a job."""
        number = f"{len(self.jobs) + 1:024x}"
        job = Job(number, spec, time.time(), self.folder / number, _free_port())
        self.jobs[number] = job
        (job.folder / ".job").mkdir(parents=True)
        if not self.keep_waiting:
            self.run(job)
        return job

    def run(self, job: Job) -> None:
        """The hardware is there."""
        given = {**job.spec["environment"], **job.spec.get("secrets", {})}
        env = {"PATH": "/usr/bin:/bin", "HOME": str(job.folder), "TMPDIR": str(job.folder), **given, "FORGE_AGENT_PORT": str(job.port)}
        argv = [sys.executable, "-I", "-S", _supervise.__file__, str(job.folder), str(job.spec.get("timeoutSeconds", 1800)), "0.2", *job.spec["command"]]
        job.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True)
        job.stage, job.started = "RUNNING", time.time()

    def end(self, job: Job, stage: str) -> None:
        """Cancel it, or delete it as its owner could."""
        if job.process is not None and job.process.poll() is None:
            job.process.send_signal(signal.SIGTERM)
            job.process.wait()
        job.stage, job.ended = stage, time.time()

    def log(self, job_id: str) -> str:
        """What a job wrote."""
        path = self.jobs[job_id].folder / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""


@contextmanager
def jobs_hub(folder: Path) -> Iterator[JobsHub]:
    """A running hub on loopback; all its jobs end with it."""
    with model_hub() as repositories:
        yield from _serve(JobsHub(folder, repositories=repositories))


def _serve(state: JobsHub) -> Iterator[JobsHub]:

    class Handler(_Handler):
        hub, lock = state, threading.RLock()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield state
    finally:
        state.over.set()
        for job in state.jobs.values():
            if job.stage in LIVE:
                state.end(job, "CANCELED")
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: JobsHub
    lock: Any

    def do_GET(self) -> None:
        self.data = read_body(self)
        place = urlsplit(self.path)
        if found := re.fullmatch(r"/_proxy/([0-9a-f]+)(/.*)", place.path):
            return self.proxy(found[1], found[2] + (f"?{place.query}" if place.query else ""))
        with self.lock:
            self.hub.seen.append(f"{self.command} {place.path}")
            self.hub.look()
            if self.hub.broken:
                self.hub.broken -= 1
                return self.reply(503, {"error": "overloaded"})
        if self.token() not in ACCESS:
            return self.reply(401, {"error": "Invalid credentials in Authorization header"})
        return self.route(place.path, parse_qs(place.query))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def route(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/api/whoami-v2":
            return self.reply(200, {"type": "user", "name": "ann", "orgs": [{"name": "harbour"}], "auth": {"accessToken": ACCESS[self.token()]}})
        if path == "/api/jobs/hardware":
            return self.reply(200, self.hub.prices)
        if path == "/api/jobs/ann" and self.command == "POST":
            return self.start()
        if path == "/api/jobs/ann":
            return self.list_jobs(query)
        if found := re.fullmatch(r"/api/jobs/ann/([0-9a-f]+)(/cancel)?", path):
            return self.one(found[1], cancel=bool(found[2]))
        if path.startswith("/api/jobs"):
            return self.reply(404, {"error": f"no route {path}"})
        return self.keep_repositories(path)

    def keep_repositories(self, path: str) -> None:
        """As the other server answers."""
        if "/commit/" in path and self.hub.refuse_commits[0]:
            return self.reply(self.hub.refuse_commits[0], {"error": self.hub.refuse_commits[1]})
        line = http.client.HTTPConnection(urlsplit(self.hub.repositories.url).netloc, timeout=30)
        try:
            line.request(self.command, self.path, self.data, {"Authorization": self.headers.get("Authorization") or ""})
            answer = line.getresponse()
            data = answer.read()
        finally:
            line.close()
        headers = {key: value for key, value in answer.getheaders() if key not in ("Server", "Date", "Connection")}
        return self.reply(answer.status, raw=data, headers=headers)

    def start(self) -> None:
        hub, deaf, lost = self.hub, False, False
        with self.lock:
            hub.posts += 1
            if hub.refuse[0]:
                return self.reply(hub.refuse[0], {"error": hub.refuse[1]})
            if ACCESS[self.token()]["role"] != "write":
                return self.reply(403, {"error": "you may not start jobs"})
            if hub.deaf:
                hub.deaf, deaf = hub.deaf - 1, True
            if hub.lose:
                hub.lose, lost = hub.lose - 1, True
            job = hub.make(json.loads(self.data)) if hub.deaf_does or not deaf else None
        if deaf or lost:
            if deaf:
                hub.over.wait()   # takes the request and never answers
            self.close_connection = True
            self.connection.close()
            return None
        assert job is not None
        return self.reply(200, self.told(job))

    def list_jobs(self, query: dict[str, list[str]]) -> None:
        with self.lock:
            wanted = dict(label.split("=", 1) for label in query.get("label", []))
            rows = [job for job in self.hub.jobs.values() if wanted.items() <= job.spec.get("labels", {}).items()]
            rows = [job for job in rows if not query.get("stage") or job.stage in query["stage"]]
            if self.hub.hide and rows:
                self.hub.hide -= 1
                rows = []
            told = [self.told(job) for job in rows if job.stage != "DELETED"]
        self.reply(200, told)

    def one(self, name: str, *, cancel: bool) -> None:
        with self.lock:
            job = self.hub.jobs.get(name)
            if job is None or (job.stage == "DELETED" and self.hub.forgets):
                return self.reply(404, {"error": "Job not found"})
            if cancel and job.stage not in LIVE:
                return self.reply(409, {"error": "the job is over"})
            if cancel:
                self.hub.end(job, "CANCELED")
            told = self.told(job)
        return self.reply(200, told)

    def told(self, job: Job) -> dict[str, Any]:
        """As the Hub describes a job; secrets are never told."""
        status: dict[str, Any] = {"stage": job.stage, "message": job.message}
        if job.spec.get("expose") and job.stage == "RUNNING":
            status["exposeUrls"] = [f"{self.hub.url}/_proxy/{job.id}"]
        spec = {key: job.spec.get(key) for key in ("command", "arguments", "environment", "flavor", "labels", "dockerImage")}
        now = time.time()
        durations = {"schedulingSecs": 0, "runningSecs": job.seconds(now) if job.started else None, "totalSecs": math.ceil((job.ended or now) - job.created)}
        times = {"createdAt": _iso(job.created), "startedAt": _iso(job.started), "finishedAt": _iso(job.ended)}
        return {"id": job.id, **spec, **times, "status": status, "durations": durations, "owner": {"id": "1", "name": "ann", "type": "user"}}

    def proxy(self, name: str, path: str) -> None:
        """Hand a request to the job's port, as <id>--<port>.hf.jobs does."""
        job = self.hub.jobs.get(name)
        if self.token() not in ACCESS:
            return self.reply(401, {"error": "no access"})
        if job is None or job.stage != "RUNNING" or self.hub.cut:
            return self.reply(502, {"error": "no such job"})
        line = http.client.HTTPConnection("127.0.0.1", job.port, timeout=30)
        try:
            line.request(self.command, path, self.data, {key: value for key, value in self.headers.items() if key.startswith("X-")})
            answer = line.getresponse()
            data = answer.read()
        except OSError:
            return self.reply(502, {"error": "the job does not listen"})
        finally:
            line.close()
        with self.lock:
            lost = self.hub.lose_proxied > 0
            self.hub.lose_proxied -= lost
        if lost:
            self.close_connection = True
            self.connection.close()
            return None
        return self.reply(answer.status, raw=data, headers={key: value for key, value in answer.getheaders() if key.startswith("X-")})

    def reply(self, code: int, value: Any = None, *, headers: dict[str, str] | None = None, raw: bytes | None = None) -> None:
        data = raw if raw is not None else json.dumps(value).encode()
        try:
            self.send_response(code)
            for name, text in {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)
        except OSError:   # the one who asked is gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


__all__ = ["JOBS_ONLY", "NARROW", "READER", "UNIT_MICRO_USD", "WRITER", "JobsHub", "jobs_hub"]
