"""Watches one job on this machine: run as a script by plugins/compute/local.py, standard library only.

    python -I -S _supervise.py FOLDER SECONDS GRACE ARGV...

Standard input is a pipe whose other end only the engine holds: its end of file means that the engine is gone, however
it went (kill -9 too), and the job is ended. The pipe is used, and not PR_SET_PDEATHSIG alone, because that signal is
sent when the *thread* that started the child ends (prctl(2)). The job itself dies with this watcher by PDEATHSIG.

FOLDER/.job/pid   "PID START" of this watcher, START in clock ticks since boot: a reused pid is not mistaken for it
FOLDER/.job/session  the job's process id, which is its session's number
FOLDER/.job/rc    the exit code, written by rename when the job and everything it started are gone;
                  128 + N for signal N, 124 when the deadline ended it, 127 when the program could not be started
FOLDER/.job/grace seconds that stop() grants, read when SIGTERM arrives
FOLDER/log        what the job writes to standard output and error
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
DEADLINE_RC, NOT_STARTED_RC = 124, 127


def supervise(folder: Path, seconds: float, grace: float, argv: list[str]) -> int:
    """Run `argv` in `folder` until it ends, the deadline passes, SIGTERM arrives or the engine is gone."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    replace(folder / ".job" / "pid", f"{os.getpid()} {start_ticks(os.getpid())}")
    wakeup = wake_on_signals()
    deadline = time.monotonic() + seconds
    try:
        job = start(folder, argv)
    except OSError as error:
        (folder / "log").write_text(f"{argv[0]}: {error.strerror}\n", encoding="utf-8")
        return NOT_STARTED_RC
    why = _watch(job, wakeup, deadline)
    if why == "stop":
        grace = _granted(folder, grace)
    end(job, grace if why != "done" else 0.0)
    return DEADLINE_RC if why == "deadline" else exit_code(job)


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 when it is gone or a zombie (proc(5), field 22)."""
    fields = _stat(pid)
    return 0 if fields[0] in "ZX" else int(fields[19])


def descendants(pid: int) -> list[int]:
    """All living processes below `pid`. Orphans among them come back to it, because it is a subreaper."""
    children: dict[int, list[int]] = {}
    for found_pid in _living():
        children.setdefault(int(_stat(found_pid)[1]), []).append(found_pid)
    found, pending = [], [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def orphans(session: int) -> list[int]:
    """Living processes of a session whose leader is gone: its number cannot have been given to anybody else meanwhile."""
    if start_ticks(session):
        return []
    return [pid for pid in _living() if _stat(pid)[3] == str(session)]


def send_signal(pid: int, number: int) -> None:
    """Signal a process, or a group by its negative number; one that is gone already is fine."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def die_with_parent(number: int) -> None:
    """Ask the kernel to signal this process when the thread that started it ends; for preexec_fn."""
    prctl(PR_SET_PDEATHSIG, number)


def start(folder: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    watcher = os.getpid()

    def die_with_watcher() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # by the job itself, so that it stands before the job's first instruction, however early the watcher is killed
        replace(folder / ".job" / "session", str(os.getpid()))
        if os.getppid() != watcher:
            os._exit(NOT_STARTED_RC)

    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=die_with_watcher,
        )


def _watch(job: subprocess.Popen[bytes], wakeup: int, deadline: float) -> str:
    """Block until something ends the job; returns "done", "stop", "deadline" or "engine"."""
    engine = os.getppid()
    while job.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return "deadline"
        ready, _, _ = select.select([0, wakeup], [], [], min(left, 1.0))
        if wakeup in ready and signal.SIGTERM in os.read(wakeup, 4096):
            return "stop"
        if (0 in ready and not os.read(0, 4096)) or os.getppid() != engine:
            return "engine"
    return "done"


def end(job: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM to the job's group, then SIGKILL to everything that is left after `grace` seconds."""
    if grace > 0:
        send_signal(-job.pid, signal.SIGTERM)
        until = time.monotonic() + grace
        while time.monotonic() < until and job.poll() is None:
            time.sleep(0.02)
    while left := descendants(os.getpid()):
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        job.poll()
        _reap()
        time.sleep(0.01)
    job.wait()


def exit_code(job: subprocess.Popen[bytes]) -> int:
    return job.returncode if job.returncode >= 0 else 128 - job.returncode


def _granted(folder: Path, grace: float) -> float:
    path = folder / ".job" / "grace"
    return float(path.read_text(encoding="utf-8")) if path.exists() else grace


def wake_on_signals() -> int:
    """A descriptor that becomes readable when a child ends or SIGTERM arrives (the bytes are signal numbers)."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return read


def _reap() -> None:
    """Collect orphans that came to us. The job's own status is taken by Popen.poll() before this is called."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _living() -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if start_ticks(pid)]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, group, session ...; state "X" when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ["X", "0", "0", "0"]
    return text.rpartition(")")[2].split()


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    replace(place / ".job" / "rc", str(supervise(place, float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
