"""Runs on the machine, standard library only, Python 3.8 and later; sent there by _channel.py on the standard input of every call.

Verbs (request and answer are JSON; `root` is a lease's folder, `folder` the one that holds leases/ and environments/):

    probe    {folder}                                  what the machine has; writes nothing
    open     {root, token, run, attempt, deadline_seconds, gpus, wanted_gpus, ...}
                                                       opens a lease; idempotent by (token, attempt) -> the lease, with seconds_left
    leases   {folder}                                  -> [{token, run, attempt, state: "live" | "over" | "kept", seconds_left, jobs, ...}]
    end      {root, grace_seconds}                     ends all jobs with everything they started -> {billed_seconds}
    remove   {root}                                    removes the folder, unless results were not fetched -> {kept}
    where    {root}                                    -> {root: absolute}
    spawn    {root, job, argv, env, watch}             starts a job once
    poll     {root, job}                               -> {code}
    stop     {root, job, grace_seconds}
    has, received, receive, list, send, read           files, by offset and hash (the verbs say how)

A lease's folder: lease.json, ended.json, .asked (touched by the engine's calls), .stop (touch it to end everything),
jobs/<job>/.job/{pid,rc,heartbeat}. All times are seconds of the clock that runs since boot: a changed wall clock neither
shortens nor extends a lease, and a reboot ends every lease, as it ended every process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from forge.plugins.compute import _supervise

if TYPE_CHECKING:   # Python 3.8 cannot evaluate it
    Request = dict[str, Any]

PREEMPTED, PAST_DEADLINE, ABANDONED, NOT_STARTED = 85, 86, 87, 127
REFUSED = 9
"""Exit code of a verb that cannot be done; the reason is on stderr as JSON."""
MARK = b"<<slm-forge>>\n"
"""Begins every answer: what a login script prints comes before it."""
CHUNK = 1 << 20
KEPT_SECONDS = 30 * 86400.0
HEARTBEAT_SECONDS = 5.0
START_SECONDS = 20.0
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "XDG_CACHE_HOME", "HF_HOME",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "PIP_INDEX_URL", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
)
"""What a job gets of the login's environment there; nothing else of it, and of the engine's only what spawn names."""


class Refused(Exception):
    """A verb cannot be done. kind: "disk", "missing", "busy", "damaged", "other"."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def main(stdin: BinaryIO, stdout: BinaryIO) -> int:
    """One call: sys.argv = [..., length of the request]; the request, then a transfer's bytes, are on stdin."""
    verb, length = sys.argv[-2], int(sys.argv[-1])
    data = stdin.read(length)
    if len(data) < length:
        return REFUSED   # the connection broke before the request was whole: nothing was done
    request = json.loads(data)
    stdout.write(MARK)
    try:
        answer = _VERBS[verb](request, stdin, stdout)
    except Refused as error:
        return _refuse(error.kind, str(error))
    except OSError as error:
        kind = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "missing" if isinstance(error, FileNotFoundError) else "other"
        return _refuse(kind, f"{error.filename or verb}: {error.strerror or error}")
    if answer is not None:
        stdout.write(json.dumps(answer).encode())
    stdout.flush()
    return 0


def _refuse(kind: str, text: str) -> int:
    sys.stderr.write("\n" + json.dumps({"kind": kind, "text": text}) + "\n")
    return REFUSED


# --- what the machine has --------------------------------------------------------------------------------------


def probe(request: Request) -> Request:
    """Cores, memory, free disk where `folder` is or would be, GPUs with what uses them, and the Python that runs this."""
    place = _place(request["folder"])
    existing = next(one for one in [place, *place.parents] if one.exists())
    held = {gpu for lease in leases(request) if lease["state"] == "live" for gpu in lease.get("gpus", ())}
    return {
        "python": list(sys.version_info[:3]), "executable": sys.executable, "system": sys.platform, "machine": os.uname().machine,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": _memory_gib(), "disk_gib": round(shutil.disk_usage(existing).free / 1024**3, 1), "writable": os.access(existing, os.W_OK),
        "folder": str(place), "gpus": [{**gpu, "held": gpu["index"] in held} for gpu in _gpus()], "cpu_flags": _bf16_flags(),
        "venv": _has("ensurepip"), "boot": _boot(),
    }


def _gpus() -> list[Request]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=index,name,memory.total,compute_cap,memory.used", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    good = [row for row in rows if len(row) == 5 and row[0].isdigit() and row[2].isdigit()]
    return [
        {"index": int(row[0]), "name": row[1], "memory_mib": int(row[2]), "capability": _number(row[3]), "used_mib": _number(row[4])} for row in good
    ]


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else 0.0


def _memory_gib() -> float:
    """What may be used: MemTotal, cut by a cgroup's limit."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    limits = [int(total.group(1)) * 1024] if total else [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if _text(name).isdigit():
            limits.append(int(_text(name)))
    return round(min(limits) / 1024**3, 1)


def _bf16_flags() -> bool:
    flags = re.search(r"^flags\s*:(.*)$", _text("/proc/cpuinfo"), re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_bf16"} & set(flags.group(1).split()))


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


# --- leases ----------------------------------------------------------------------------------------------------


def open_lease(request: Request) -> Request:
    """Open a lease, or return the open one of the same attempt. An older attempt's jobs are ended first."""
    root = _place(request["root"])
    with _alone(root.parent):
        root.mkdir(exist_ok=True, mode=0o700)
        _forget_old(root.parent)
        now = _lease(root)
        if now and _state(root) == "live" and now["attempt"] >= request["attempt"]:
            if now["attempt"] > request["attempt"]:
                raise Refused("busy", f"attempt {now['attempt']} of {now['token']} is open already")
            return {**now, "seconds_left": _seconds_left(now)}
        if now:
            _end_jobs(root, 0.0)
        for name in ("ended.json", ".stop", "kept"):
            with contextlib.suppress(FileNotFoundError):
                (root / name).unlink()
        given = {key: value for key, value in request.items() if key not in ("root", "gpus", "wanted_gpus")}
        lease = {**given, "gpus": _take_gpus(root, request), "boot": _boot(), "started": _now()}
        (root / ".asked").touch()
        _supervise.replace(root / "lease.json", json.dumps(lease, sort_keys=True))
        return {**lease, "seconds_left": _seconds_left(lease)}


def _take_gpus(root: Path, request: Request) -> list[int]:
    """The first `wanted_gpus` of the allowed `gpus` that no other open lease holds."""
    others = [one for one in root.parent.iterdir() if one != root and one.is_dir()]
    held = {gpu for other in others if _state(other) == "live" for gpu in _lease(other).get("gpus", ())}
    free = [gpu for gpu in request.get("gpus", ()) if gpu not in held]
    wanted = int(request.get("wanted_gpus", 0))
    if len(free) < wanted:
        raise Refused("busy", f"{wanted} GPUs are wanted and {len(free)} are free; other leases hold {sorted(held)}")
    return free[:wanted]


def leases(request: Request) -> list[Request]:
    """All lease folders of this user here. over: not usable any more, and to be removed; kept: ended, with results that nobody fetched."""
    place = _place(request["folder"]) / "leases"
    found = []
    for root in sorted(place.iterdir()) if place.is_dir() else []:
        if root.name.startswith(".") or not root.is_dir():
            continue
        lease = _lease(root)
        found.append({
            "token": root.name, "run": "", "attempt": 1, **lease, "state": _state(root), "jobs": sum(map(_alive, _jobs(root))),
            "seconds_left": _seconds_left(lease) if lease else 0.0, "asked_seconds": _asked_seconds(root),
        })
    return found


def end_lease(request: Request) -> Request:
    """End all jobs with everything that they started, then close the lease; idempotent. billed_seconds: how long it was open."""
    root = _place(request["root"])
    lease = _lease(root)
    if not root.is_dir():
        return {"billed_seconds": 0.0, "there": False}
    (root / ".stop").touch()
    _end_jobs(root, float(request.get("grace_seconds", 5.0)))
    if lease and not (root / "ended.json").exists():
        _supervise.replace(root / "ended.json", json.dumps({"billed_seconds": _open_seconds(root, lease)}))
    return {"billed_seconds": _read_json(root / "ended.json").get("billed_seconds", 0.0), "there": True}


def remove_lease(request: Request) -> Request:
    """Remove a lease's folder, unless a job ended well and its results were not fetched: then keep it for 30 days."""
    root = _place(request["root"])
    if (root / "ended.json").exists() and any(map(_unfetched, _jobs(root))):
        (root / "kept").touch()
        return {"kept": True}
    if root.is_dir():
        with _alone(root.parent):
            shutil.rmtree(str(root))
            if [one.name for one in root.parent.iterdir()] == [".lock"]:   # the last one takes the empty folders with it
                (root.parent / ".lock").unlink()
                with contextlib.suppress(OSError):
                    root.parent.rmdir()
                    root.parent.parent.rmdir()
    return {"kept": False}


def _state(root: Path) -> str:
    lease = _lease(root)
    if (root / "kept").exists():
        return "kept"
    if not lease or (root / "ended.json").exists() or (root / ".stop").exists() or lease["boot"] != _boot():
        return "over"
    return "live" if _seconds_left(lease) > 0 or any(map(_alive, _jobs(root))) else "over"


def _open_seconds(root: Path, lease: Request) -> float:
    """From opening to now, but not past the deadline and the last sign of life of a job; after a reboot to that sign."""
    beats: list[float] = [float(_text(str(job / ".job" / "heartbeat")) or 0) - lease["started"] for job in _jobs(root)]
    alive = max([0.0, *beats]) + HEARTBEAT_SECONDS
    same_boot: bool = lease["boot"] == _boot()
    return min(float(_now() - lease["started"]), max(float(lease["deadline_seconds"]), alive)) if same_boot else alive


def _unfetched(job: Path) -> bool:
    """It ended well, has results to fetch, and nothing was fetched since."""
    rc = job / ".job" / "rc"
    if _text(str(rc)) != "0" or not (job / ".job" / "results").exists():
        return False
    fetched = job.parent.parent / ".fetched"
    return not fetched.exists() or fetched.stat().st_mtime_ns < rc.stat().st_mtime_ns


def _forget_old(folder: Path) -> None:
    for kept in folder.glob("*/kept"):
        if time.time() - kept.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(str(kept.parent))


def _asked_seconds(root: Path) -> float:
    asked = root / ".asked"
    return time.time() - asked.stat().st_mtime if asked.exists() else 1e9


def _lease(root: Path) -> Request:
    return _read_json(root / "lease.json")


def _seconds_left(lease: Request) -> float:
    if lease.get("boot") != _boot():
        return 0.0
    return float(lease["started"] + lease["deadline_seconds"] - _now())


# --- jobs ------------------------------------------------------------------------------------------------------


def spawn(request: Request) -> Request:
    """Start a job and its watcher, once: a second call with the same id does nothing, whatever became of the first."""
    root, job = _place(request["root"]), _inside(request, f"jobs/{request['job']}")
    lease = _lease(root)
    if _state(root) != "live":
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
    code, root = _code(_inside(request, f"jobs/{request['job']}")), _place(request["root"])
    if code == -1 and _state(root) != "live":   # a reboot, the deadline: nothing can be started here any more
        raise Refused("over", f"the lease {root.name} is over")
    return {"code": code}


def stop(request: Request) -> Request:
    """Ask a job to stop, then end it with everything that it started."""
    _end_job(_inside(request, f"jobs/{request['job']}"), float(request["grace_seconds"]))
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
        root, watch = _place(request["root"]), request["watch"]
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
    return {**kept, **gpus, **given, "SLM_FORGE_LEASE": str(lease["token"]), "FORGE_SECONDS_LEFT": f"{_seconds_left(lease):.0f}"}


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
        _supervise.replace(self.job / ".job" / "pid", f"{os.getpid()} {_supervise.start_ticks(os.getpid())} {_boot()}")
        try:
            child = _supervise.start(self.job, argv)
        except OSError as error:
            (self.job / "log").write_text(f"{argv[0]}: {error.strerror}\n", encoding="utf-8")
            return NOT_STARTED
        why = self._watch(child, wakeup)
        grace = float(_text(str(self.job / ".job" / "grace")) or self.grace) if why == 0 else self.grace
        _supervise.end(child, 0.0 if why is None else grace)
        return why or _supervise.exit_code(child)

    def _watch(self, child: Any, wakeup: int) -> Any:
        """None: it ended by itself; 0: told to stop; else the code of the reason."""
        while child.poll() is None:
            if why := self._reason():
                return why
            left = max(0.05, min(1.0, _seconds_left(self.lease) - self.lead))
            ready, _, _ = select.select([wakeup], [], [], left)
            if (ready and signal.SIGTERM in os.read(wakeup, 4096)) or (self.root / ".stop").exists():
                return 0
        return None

    def _reason(self) -> int:
        now = time.monotonic()
        if now - self.beaten_at >= HEARTBEAT_SECONDS:
            self.beaten_at = now
            with contextlib.suppress(OSError):   # a full disk ends no job
                (self.job / ".job" / "heartbeat").write_text(str(_now()), encoding="utf-8")
        if _seconds_left(self.lease) <= self.lead:
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
    rc, alive = job / ".job" / "rc", _alive(job)   # alive first: between the two it may write its code and end
    if rc.exists():
        return int(_text(str(rc)))
    if alive or _starting(job):
        return None
    _end_orphans(job)
    return -1


def _starting(job: Path) -> bool:
    """Made moments ago by a call that is still at it, whose answer the engine may have lost."""
    with contextlib.suppress(OSError):
        return not (job / ".job" / "pid").exists() and time.time() - (job / ".job").stat().st_mtime < START_SECONDS
    return False


def _end_jobs(root: Path, grace: float) -> None:
    for job in _jobs(root):
        with contextlib.suppress(OSError):
            _end_job(job, grace)
    for pid in _strays(root.name):
        _supervise.send_signal(pid, signal.SIGKILL)


def _end_job(job: Path, grace: float) -> None:
    if _code(job) is not None:
        return
    (job / ".job" / "grace").write_text(str(grace), encoding="utf-8")
    _wait_for_pid(job)
    pid = _pid(job)[0]
    _supervise.send_signal(pid, signal.SIGTERM)
    until = time.monotonic() + grace + START_SECONDS
    while _code(job) is None:
        if time.monotonic() > until:   # it hangs: the job dies with it, and orphans are ended by the next look
            _supervise.send_signal(pid, signal.SIGKILL)
            until += START_SECONDS
        time.sleep(0.02)


def _end_orphans(job: Path) -> None:
    session = _text(str(job / ".job" / "session"))
    for pid in _supervise.orphans(int(session)) if session and _pid(job)[2] == _boot() else []:
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


def _jobs(root: Path) -> list[Path]:
    return sorted(note.parent for note in (root / "jobs").glob("*/.job"))


def _pid(job: Path) -> Any:
    fields = _text(str(job / ".job" / "pid")).split()
    return (int(fields[0]), int(fields[1]), fields[2]) if len(fields) == 3 else (0, 0, "")


def _alive(job: Path) -> bool:
    pid, start, boot = _pid(job)
    return bool(start > 0 and boot == _boot() and _supervise.start_ticks(pid) == start)


# --- files -----------------------------------------------------------------------------------------------------
# A file or folder travels as the bytes of its files one after the other; `files` lists them: [[path, bytes, sha256, is a program]].
# A single file has the path "". What arrived of them lies in .NAME.ID.partial beside the target, ID being a hash of the list.


def has(request: Request) -> Request:
    """Whether `remote` is what was received as `sha256`, untouched since."""
    note = _read_json(_note(request))
    target = _inside(request, request["remote"])
    return {"has": note.get("sha256") == request["sha256"] and note.get("stat") == _stat(target, note.get("files", []))}


def received(request: Request) -> Request:
    """How many bytes of the whole have arrived: where to go on."""
    partial, offset = _partial(request), 0
    for name, size, _, _ in request["files"]:
        place = _member(partial, name)
        there = place.stat().st_size if place.exists() else 0
        offset += min(there, size)
        if there < size:
            break
    return {"offset": offset}


def receive(request: Request, stdin: BinaryIO) -> Request:
    """Take bytes from `offset` on; when all are there and have their hashes, put the whole in place. whole: that was done."""
    partial, at = _partial(request), 0
    partial.mkdir(parents=True, exist_ok=True)
    for name, size, _, _ in request["files"]:
        skip = min(max(0, request["offset"] - at), size)
        at += size
        if skip == size and _member(partial, name).exists() and size:
            continue
        if not _take(stdin, _member(partial, name), skip, size):
            return {"whole": False, "damaged": []}
    damaged = [name for name, _, sha256, _ in request["files"] if _sha256(_member(partial, name)) != sha256]
    for name in damaged:
        _member(partial, name).unlink()
    if damaged:
        return {"whole": False, "damaged": damaged}
    _put_in_place(request, partial)
    return {"whole": True, "damaged": []}


def _take(stdin: BinaryIO, place: Path, skip: int, size: int) -> bool:
    place.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(str(place), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        left = size - skip
        while left:
            data = stdin.read(min(CHUNK, left))
            if not data:
                return False
            # at its own offset: a call that a partition left behind writes the same bytes to the same place
            os.pwrite(handle, data, size - left)
            left -= len(data)
        os.ftruncate(handle, size)
        os.fsync(handle)
        return True
    finally:
        os.close(handle)


def _put_in_place(request: Request, partial: Path) -> None:
    target, files = _inside(request, request["remote"]), request["files"]
    for name, _, _, program in files:
        _member(partial, name).chmod(0o700 if program else 0o600)
    _remove(target)
    if [name for name, _, _, _ in files] == [""]:
        _member(partial, "").replace(target)
        partial.rmdir()
    else:
        partial.replace(target)
    for old in target.parent.glob(f".{target.name}.*.partial"):
        _remove(old)
    note = {"sha256": request.get("sha256", ""), "files": files, "stat": _stat(target, files)}
    _note(request).parent.mkdir(exist_ok=True)
    _supervise.replace(_note(request), json.dumps(note))


def list_files(request: Request) -> list[Any]:
    """The `files` of something here, hashed now."""
    source = _inside(request, request["remote"])
    if not source.exists():
        raise Refused("missing", f"there is no {request['remote']}")
    names = [""] if source.is_file() else sorted(file.relative_to(source).as_posix() for file in source.rglob("*") if file.is_file())
    return [[name, _file(source, name).stat().st_size, _sha256(_file(source, name)), os.access(str(_file(source, name)), os.X_OK)] for name in names]


def send(request: Request, stdout: BinaryIO) -> None:
    """The bytes of the `files` of something here, from `offset` on."""
    source, at = _inside(request, request["remote"]), 0
    for name, size, _, _ in request["files"]:
        skip, at = min(max(0, request["offset"] - at), size), at + size
        if skip < size:
            _pour(_file(source, name), skip, size, stdout)
    stdout.flush()
    with contextlib.suppress(OSError):
        (_place(request["root"]) / ".fetched").touch()


def read(request: Request, stdout: BinaryIO) -> None:
    """The bytes of one file from `offset` on; none when there is no file."""
    source = _inside(request, request["remote"])
    if source.is_file():
        _pour(source, request["offset"], source.stat().st_size, stdout)


def _pour(path: Path, start: int, end: int, stdout: BinaryIO) -> None:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0:
            data = file.read(min(CHUNK, left))
            if not data:
                raise Refused("damaged", f"{path} became shorter while it was read")
            stdout.write(data)
            left -= len(data)


def _member(partial: Path, name: str) -> Path:
    return partial / (name or "_")


def _file(source: Path, name: str) -> Path:
    return source / name if name else source


def _partial(request: Request) -> Path:
    target = _inside(request, request["remote"])
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{request['id']}.partial")


def _note(request: Request) -> Path:
    return _place(request["root"]) / ".received" / hashlib.sha256(request["remote"].encode()).hexdigest()[:32]


def _stat(target: Path, files: list[Any]) -> list[Any]:
    found = []
    for name, _, _, _ in files:
        with contextlib.suppress(OSError):
            now = _file(target, name).stat()
            found.append([name, now.st_size, now.st_mtime_ns])
    return found


def _sha256(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            hasher.update(data)
    return hasher.hexdigest()


# --- helpers ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One at a time in a folder, which is made; who waited for a lock that was removed meanwhile takes the new one."""
    lock = folder / ".lock"
    while True:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            handle = os.open(str(lock), os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if lock.exists() and os.fstat(handle).st_ino == lock.stat().st_ino:
                yield
                return
        finally:
            os.close(handle)


def _place(text: str) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else Path.home() / path


def _inside(request: Request, remote: str) -> Path:
    root = _place(request["root"])
    place = Path(os.path.normpath(str(root / remote)))
    if root not in place.parents:
        raise Refused("other", f"{remote} leads out of the lease's folder")
    return place


def _boot() -> str:
    return _text("/proc/sys/kernel/random/boot_id")


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read_json(path: Path) -> Request:
    text = _text(str(path))
    value: Request = json.loads(text) if text else {}
    return value


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _asking(verb: Callable[[Request], Any]) -> Callable[[Request, BinaryIO, BinaryIO], Any]:
    """A verb by which the engine shows that it is there."""

    def asked(request: Request, stdin: BinaryIO, stdout: BinaryIO) -> Any:
        _touch(request)
        return verb(request)

    return asked


def _touch(request: Request) -> None:
    root = _place(request["root"])
    if not (root / "lease.json").exists():
        raise Refused("over", f"there is no lease {root.name}")
    with contextlib.suppress(OSError):   # a full disk: what is asked may be how to free it
        (root / ".asked").touch()


def _silent(verb: Callable[[Request], Any]) -> Callable[[Request, BinaryIO, BinaryIO], Any]:
    return lambda request, stdin, stdout: verb(request)


def _receiving(request: Request, stdin: BinaryIO, stdout: BinaryIO) -> Any:
    _touch(request)
    return receive(request, stdin)


def _sending(verb: Callable[[Request, BinaryIO], None]) -> Callable[[Request, BinaryIO, BinaryIO], Any]:
    def sent(request: Request, stdin: BinaryIO, stdout: BinaryIO) -> None:
        _touch(request)
        verb(request, stdout)

    return sent


_VERBS: dict[str, Callable[[Request, BinaryIO, BinaryIO], Any]] = {
    "probe": _silent(probe), "open": _silent(open_lease), "leases": _silent(leases), "end": _silent(end_lease), "remove": _silent(remove_lease),
    "where": _silent(lambda request: {"root": str(_place(request["root"]))}), "spawn": _asking(spawn), "poll": _asking(poll), "stop": _asking(stop), "has": _asking(has), "received": _asking(received),
    "receive": _receiving, "list": _asking(list_files), "send": _sending(send), "read": _sending(read),
}

if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
