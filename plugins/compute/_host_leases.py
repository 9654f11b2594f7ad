"""The host side's leases: a folder each, opened, listed, ended and removed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from forge.plugins.compute import _supervise
from forge.plugins.compute._host_base import (
    HEARTBEAT_SECONDS,
    Refused,
    alone_in,
    boot_id,
    is_alive,
    jobs_of,
    lease_of,
    place_of,
    read_json,
    seconds_left,
    state_of,
    text_of,
    uptime,
)
from forge.plugins.compute._host_jobs import end_jobs

if TYPE_CHECKING:
    from forge.plugins.compute._host_base import Request

KEPT_SECONDS = 30 * 86400.0


def open_lease(request: Request) -> Request:
    """Open a lease, or return the open one of the same attempt. An older attempt's jobs are ended first."""
    root = place_of(request["root"])
    with alone_in(root.parent):
        root.mkdir(exist_ok=True, mode=0o700)
        _forget_old(root.parent)
        now = lease_of(root)
        if now and state_of(root) == "live" and now["attempt"] >= request["attempt"]:
            if now["attempt"] > request["attempt"]:
                raise Refused("busy", f"attempt {now['attempt']} of {now['token']} is open already")
            return {**now, "seconds_left": seconds_left(now)}
        if now:
            end_jobs(root, 0.0)
        for name in ("ended.json", ".stop", "kept"):
            with contextlib.suppress(FileNotFoundError):
                (root / name).unlink()
        given = {key: value for key, value in request.items() if key not in ("root", "gpus", "wanted_gpus")}
        lease = {**given, "gpus": _take_gpus(root, request), "boot": boot_id(), "started": uptime()}
        (root / ".asked").touch()
        _supervise.replace(root / "lease.json", json.dumps(lease, sort_keys=True))
        return {**lease, "seconds_left": seconds_left(lease)}


def _take_gpus(root: Path, request: Request) -> list[int]:
    """The first `wanted_gpus` of the allowed `gpus` that no other open lease holds."""
    others = [one for one in root.parent.iterdir() if one != root and one.is_dir()]
    held = {gpu for other in others if state_of(other) == "live" for gpu in lease_of(other).get("gpus", ())}
    free = [gpu for gpu in request.get("gpus", ()) if gpu not in held]
    wanted = int(request.get("wanted_gpus", 0))
    if len(free) < wanted:
        raise Refused("busy", f"{wanted} GPUs are wanted and {len(free)} are free; other leases hold {sorted(held)}")
    return free[:wanted]


def leases(request: Request) -> list[Request]:
    """All lease folders of this user here. over: not usable any more, and to be removed; kept: ended, with results that nobody fetched."""
    place = place_of(request["folder"]) / "leases"
    found = []
    for root in sorted(place.iterdir()) if place.is_dir() else []:
        if root.name.startswith(".") or not root.is_dir():
            continue
        lease = lease_of(root)
        found.append({
            "token": root.name, "run": "", "attempt": 1, **lease, "state": state_of(root), "jobs": sum(map(is_alive, jobs_of(root))),
            "seconds_left": seconds_left(lease) if lease else 0.0, "asked_seconds": _asked_seconds(root),
        })
    return found


def end_lease(request: Request) -> Request:
    """End all jobs with everything that they started, then close the lease; idempotent. billed_seconds: how long it was open."""
    root = place_of(request["root"])
    lease = lease_of(root)
    if not root.is_dir():
        return {"billed_seconds": 0.0, "there": False}
    (root / ".stop").touch()
    end_jobs(root, float(request.get("grace_seconds", 5.0)))
    if lease and not (root / "ended.json").exists():
        _supervise.replace(root / "ended.json", json.dumps({"billed_seconds": _open_seconds(root, lease)}))
    return {"billed_seconds": read_json(root / "ended.json").get("billed_seconds", 0.0), "there": True}


def remove_lease(request: Request) -> Request:
    """Remove a lease's folder, unless a job ended well and its results were not fetched: then keep it for 30 days."""
    root = place_of(request["root"])
    if (root / "ended.json").exists() and any(map(_unfetched, jobs_of(root))):
        (root / "kept").touch()
        return {"kept": True}
    if root.is_dir():
        with alone_in(root.parent):
            shutil.rmtree(str(root))
            if [one.name for one in root.parent.iterdir()] == [".lock"]:   # the last one takes the empty folders with it
                (root.parent / ".lock").unlink()
                with contextlib.suppress(OSError):
                    root.parent.rmdir()
                    root.parent.parent.rmdir()
    return {"kept": False}


def _open_seconds(root: Path, lease: Request) -> float:
    """From opening to now, but not past the deadline and the last sign of life of a job; after a reboot to that sign."""
    beats: list[float] = [float(text_of(str(job / ".job" / "heartbeat")) or 0) - lease["started"] for job in jobs_of(root)]
    alive = max([0.0, *beats]) + HEARTBEAT_SECONDS
    same_boot: bool = lease["boot"] == boot_id()
    return min(float(uptime() - lease["started"]), max(float(lease["deadline_seconds"]), alive)) if same_boot else alive


def _unfetched(job: Path) -> bool:
    """It ended well, has results to fetch, and nothing was fetched since."""
    rc = job / ".job" / "rc"
    if text_of(str(rc)) != "0" or not (job / ".job" / "results").exists():
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
