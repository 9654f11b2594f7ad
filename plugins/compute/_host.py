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
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from forge.plugins.compute._host_base import Refused, boot_id, place_of, text_of
from forge.plugins.compute._host_files import has, list_files, read, receive, received, send
from forge.plugins.compute._host_jobs import poll, spawn, stop
from forge.plugins.compute._host_leases import end_lease, leases, open_lease, remove_lease

if TYPE_CHECKING:
    from forge.plugins.compute._host_base import Request

REFUSED = 9
"""Exit code of a verb that cannot be done; the reason is on stderr as JSON."""

MARK = b"<<slm-forge>>\n"
"""Begins every answer: what a login script prints comes before it."""


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


def probe(request: Request) -> Request:
    """Cores, memory, free disk where `folder` is or would be, GPUs with what uses them, ready environments, and the Python that runs this."""
    place = place_of(request["folder"])
    existing = next(one for one in [place, *place.parents] if one.exists())
    held = {gpu for lease in leases(request) if lease["state"] == "live" for gpu in lease.get("gpus", ())}
    return {
        "python": list(sys.version_info[:3]), "executable": sys.executable, "system": sys.platform, "machine": os.uname().machine,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gib": _memory_gib(), "disk_gib": round(shutil.disk_usage(existing).free / 1024**3, 1), "writable": os.access(existing, os.W_OK),
        "folder": str(place), "gpus": [{**gpu, "held": gpu["index"] in held} for gpu in _gpus()], "cpu_flags": _bf16_flags(),
        "venv": _has("ensurepip"), "environments": [ready.parent.name for ready in place.glob("environments/*/ready")], "boot": boot_id(),
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
    total = re.search(r"^MemTotal:\s+(\d+) kB", text_of("/proc/meminfo"), re.MULTILINE)
    limits = [int(total.group(1)) * 1024] if total else [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if text_of(name).isdigit():
            limits.append(int(text_of(name)))
    return round(min(limits) / 1024**3, 1)


def _bf16_flags() -> bool:
    flags = re.search(r"^flags\s*:(.*)$", text_of("/proc/cpuinfo"), re.MULTILINE)
    return bool(flags and {"avx512_bf16", "amx_bf16"} & set(flags.group(1).split()))


def _has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def _asking(verb: Callable[[Request], Any]) -> Callable[[Request, BinaryIO, BinaryIO], Any]:
    """A verb by which the engine shows that it is there."""

    def asked(request: Request, stdin: BinaryIO, stdout: BinaryIO) -> Any:
        _touch(request)
        return verb(request)

    return asked


def _touch(request: Request) -> None:
    root = place_of(request["root"])
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
    "where": _silent(lambda request: {"root": str(place_of(request["root"]))}), "spawn": _asking(spawn), "poll": _asking(poll), "stop": _asking(stop), "has": _asking(has), "received": _asking(received),
    "receive": _receiving, "list": _asking(list_files), "send": _sending(send), "read": _sending(read),
}

if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
