"""The host side's jobs: each is started once and watched by a process of its own that needs nobody."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.plugins.compute import _supervise
from forge.plugins.compute._host_base import (
    HEARTBEAT_SECONDS,
    Refused,
    boot_id,
    inside,
    is_alive,
    jobs_of,
    lease_of,
    pid_of,
    place_of,
    seconds_left,
    state_of,
    text_of,
    uptime,
)

if TYPE_CHECKING:
    from forge.plugins.compute._host_base import Request

PREEMPTED, PAST_DEADLINE, ABANDONED, NOT_STARTED = 85, 86, 87, 127

START_SECONDS = 20.0

PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)
"""What a job gets of the login's environment there; nothing else of it, and of the engine's only what spawn names."""


def spawn(request: Request) -> Request:
    """Start a job and its watcher, once: a second call with the same id does nothing, whatever became of the first."""
    root, job = place_of(request["root"]), inside(request, f"jobs/{request['job']}")
    lease = lease_of(root)
    if state_of(root) != "live":
        raise Refused("over", f"the lease {root.name} is not open any more")
    job.mkdir(parents=True, exist_ok=True)
    try:
        (job / ".job").mkdir()
    except FileExistsError:
        _wait_for_pid(job)
        return {"started": False}
    if request.get("results", True):
        (job / ".job" / "results").touch()
    _detach(job, lease, request)
    _wait_for_pid(job)
    return {"started": True}


def poll(request: Request) -> Request:
    """The job's exit code, None while it runs, -1 when it is gone without one or was never started; refused when the lease is over too."""
    code, root = _code(inside(request, f"jobs/{request['job']}")), place_of(request["root"])
    if code == -1 and state_of(root) != "live":   # a reboot, the deadline: nothing can be started here any more
        raise Refused("over", f"the lease {root.name} is over")
    return {"code": code}


def stop(request: Request) -> Request:
    """Ask a job to stop, then end it with everything that it started."""
    _end_job(inside(request, f"jobs/{request['job']}"), float(request["grace_seconds"]))
    return {}


def _detach(job: Path, lease: Request, request: Request) -> None:
    """A process of its own session that outlives this call and the connection."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.closerange(3, 256)
        os.umask(0o077)
        root, watch = place_of(request["root"]), request["watch"]
        environment = _environment(lease, request["env"])
        os.environ.clear()
        os.environ.update(environment)
        code = Supervisor(root, job, lease, watch).run(list(request["argv"]))
        _supervise.replace(job / ".job" / "rc", str(code))
        if code in (PAST_DEADLINE, ABANDONED) and watch.get("at_end"):
            subprocess.Popen(watch["at_end"], start_new_session=True)
    finally:
        os._exit(0)


def _environment(lease: Request, given: Request) -> Request:
    kept = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, lease["gpus"]))} if lease.get("gpus") else {}
    return {**kept, **gpus, **given, "SLM_FORGE_LEASE": str(lease["token"]), "FORGE_SECONDS_LEFT": f"{seconds_left(lease):.0f}"}


class Supervisor:
    """Watches one job: runs it, and ends it at the deadline, when nobody asks any more, on the provider's notice, or when told."""

    def __init__(self, root: Path, job: Path, lease: Request, watch: Request) -> None:
        self.root, self.job, self.lease, self.watch = root, job, lease, watch
        self.grace = float(watch["grace_seconds"])
        self.lead = min(self.grace, float(lease["deadline_seconds"]) / 10)
        self.asked, self.asked_at = self._asked(), time.monotonic()
        self.looked_at = self.beaten_at = -1e9
        self.notice: Any = None

    def run(self, argv: list[str]) -> int:
        """Run argv until it ends or is ended; its exit code, 128 + N for signal N, or one of the codes above."""
        _supervise.prctl(_supervise.PR_SET_CHILD_SUBREAPER, 1)
        wakeup = _supervise.wake_on_signals()
        _supervise.replace(self.job / ".job" / "pid", f"{os.getpid()} {_supervise.start_ticks(os.getpid())} {boot_id()}")
        try:
            child = _supervise.start(self.job, argv)
        except OSError as error:
            (self.job / "log").write_text(f"{argv[0]}: {error.strerror}\n", encoding="utf-8")
            return NOT_STARTED
        why = self._watch(child, wakeup)
        grace = float(text_of(str(self.job / ".job" / "grace")) or self.grace) if why == 0 else self.grace
        _supervise.end(child, 0.0 if why is None else grace)
        return why or _supervise.exit_code(child)

    def _watch(self, child: Any, wakeup: int) -> Any:
        """None: it ended by itself; 0: told to stop; else the code of the reason."""
        while child.poll() is None:
            if why := self._reason():
                return why
            left = max(0.05, min(1.0, seconds_left(self.lease) - self.lead))
            ready, _, _ = select.select([wakeup], [], [], left)
            if (ready and signal.SIGTERM in os.read(wakeup, 4096)) or (self.root / ".stop").exists():
                return 0
        return None

    def _reason(self) -> int:
        now = time.monotonic()
        if now - self.beaten_at >= HEARTBEAT_SECONDS:
            self.beaten_at = now
            with contextlib.suppress(OSError):   # a full disk ends no job
                (self.job / ".job" / "heartbeat").write_text(str(uptime()), encoding="utf-8")
        if seconds_left(self.lease) <= self.lead:
            return PAST_DEADLINE
        if self._abandoned(now):
            return ABANDONED
        return PREEMPTED if self._noticed(now) else 0

    def _abandoned(self, now: float) -> bool:
        """Nobody touched .asked for so long, counted here: its own time is never compared with a clock."""
        asked = self._asked()
        if asked != self.asked:
            self.asked, self.asked_at = asked, now
        idle = float(self.watch["idle_seconds"])
        return idle > 0 and now - self.asked_at > idle

    def _asked(self) -> int:
        with contextlib.suppress(OSError):
            return (self.root / ".asked").stat().st_mtime_ns
        return 0

    def _noticed(self, now: float) -> bool:
        """Run the provider's command every few seconds, without waiting for it here."""
        if not self.watch.get("notice"):
            return False
        if self.notice is None:
            if now - self.looked_at < float(self.watch["notice_seconds"]):
                return False
            self.looked_at = now
            self.notice = subprocess.Popen(self.watch["notice"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        code: int | None = self.notice.poll()
        if code is None and now - self.looked_at > 10 * float(self.watch["notice_seconds"]):
            self.notice.kill()
        if code is not None:
            self.notice = None
        return code == 0


def _wait_for_pid(job: Path) -> None:
    """The watcher writes its pid first; without one after a while the job counts as gone."""
    until = time.monotonic() + START_SECONDS
    while not (job / ".job" / "pid").exists() and time.monotonic() < until:
        time.sleep(0.005)


def _code(job: Path) -> Any:
    rc, alive = job / ".job" / "rc", is_alive(job)   # alive first: between the two it may write its code and end
    if rc.exists():
        return int(text_of(str(rc)))
    if alive or _starting(job):
        return None
    _end_orphans(job)
    return -1


def _starting(job: Path) -> bool:
    """Made moments ago by a call that is still at it, whose answer the engine may have lost."""
    with contextlib.suppress(OSError):
        return not (job / ".job" / "pid").exists() and time.time() - (job / ".job").stat().st_mtime < START_SECONDS
    return False


def end_jobs(root: Path, grace: float) -> None:
    for job in jobs_of(root):
        with contextlib.suppress(OSError):
            _end_job(job, grace)
    for pid in _strays(root.name):
        _supervise.send_signal(pid, signal.SIGKILL)


def _end_job(job: Path, grace: float) -> None:
    if _code(job) is not None:
        return
    (job / ".job" / "grace").write_text(str(grace), encoding="utf-8")
    _wait_for_pid(job)
    pid = pid_of(job)[0]
    _supervise.send_signal(pid, signal.SIGTERM)
    until = time.monotonic() + grace + START_SECONDS
    while _code(job) is None:
        if time.monotonic() > until:   # it hangs: the job dies with it, and orphans are ended by the next look
            _supervise.send_signal(pid, signal.SIGKILL)
            until += START_SECONDS
        time.sleep(0.02)


def _end_orphans(job: Path) -> None:
    session = text_of(str(job / ".job" / "session"))
    for pid in _supervise.orphans(int(session)) if session and pid_of(job)[2] == boot_id() else []:
        _supervise.send_signal(pid, signal.SIGKILL)


def _strays(token: str) -> list[int]:
    """Living processes that carry the lease's name in their environment: what a job started in sessions of its own."""
    wanted = f"SLM_FORGE_LEASE={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
