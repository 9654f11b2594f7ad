"""Runs in a job of Hugging Face: puts what the lease's jobs have made whole into its private repository, one commit for each thing.

Sent there by hf_jobs.py on standard input, followed by its orders as JSON; standard library and the huggingface_hub of the job's own
environment. It goes on by itself until the container ends, so what it brought out is there whatever becomes of the engine:

    phases/<phase>/kept/<number>.json, phases/<phase>/kept/<number>/   a checkpoint (forge.keeping), the newest of each place
    phases/<phase>/out/                                                 what a phase has made, at once and always
    jobs/<job>/result.json                                              with it, in the same commit
    jobs/<job>/events.jsonl                                             with either of them
    pushed/<path of the thing>.json                                     its files: [[path, bytes, sha256, is a program], ...]

A push that fails is a line in push.log, which the engine tells, and is tried again; no job notices.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFESTS = "pushed"
NO_CLIENT = 3
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
SHARE_OF_TIME = 10.0
"""A checkpoint is pushed when this many times what its forerunner took has passed: large ones less often."""
JOB_NAME = re.compile(r"(?P<phase>.+)-[0-9a-f]{12}-\d+")
CHECKPOINT = "checkpoint-"


class NotPrivate(Exception):
    """Somebody has made the repository public."""


class Job:
    """One job of the lease's folder, as it is now."""

    def __init__(self, folder: Path, phase: str) -> None:
        self.folder, self.phase = folder, phase
        self.ended = is_over(folder / ".job")   # before its result is read: that is written first
        self.result: dict[str, Any] = json.loads(text_of(folder / "result.json") or "{}")

    @property
    def made(self) -> list[str]:
        """The phases whose outputs are whole."""
        return [] if self.result.get("failure") else sorted(self.result.get("outputs", {}))

    def kept(self) -> list[int]:
        """The numbers of what it said is worth keeping."""
        lines = text_of(self.folder / "events.jsonl").split("\n")[:-1]
        told = [json.loads(line) for line in lines if '"kept"' in line]
        return [int(one["number"]) for one in told if one["event"] == "kept"]


class Pusher:
    """Brings out what the jobs below `root` make. api: a huggingface_hub.HfApi."""

    def __init__(self, root: Path, repo: str, api: Any, *, kept_seconds: float) -> None:
        self.root, self.repo, self.api, self.kept_seconds = root, repo, api, kept_seconds
        self.done: set[str] = set()
        self.kept: dict[tuple[str, str], int] = {}
        self.next_kept = self.pause = self.tried_at = 0.0

    def look(self) -> bool:
        """Push what is due; whether there is work: a job that runs, or something that is still to be brought out.

        False also while pushing fails: what cannot leave is no reason for the container to go on alone.
        """
        if self.pause and time.monotonic() - self.tried_at < self.pause:
            return False
        try:
            open_ones = [job for job in self.jobs() if job.folder.name not in self.done]
            for job in open_ones:
                self.push(job)
        except Exception as error:  # noqa: BLE001 - whatever the Hub or the line says: told, and tried again
            self.fail(error)
            return False
        if self.pause and open_ones:
            self.pause = 0.0
            self.tell("results are pushed again")
        return bool(open_ones)

    def jobs(self) -> Iterator[Job]:
        """Those that leave something to fetch."""
        for mark in sorted(self.root.glob("jobs/*/.job/results")):
            if found := JOB_NAME.fullmatch(mark.parents[1].name):
                yield Job(mark.parents[1], found["phase"])

    def push(self, job: Job) -> None:
        """The end of a job with what it has made, or the newest that it has kept when that is due."""
        if job.ended and job.made:
            things = [(f"phases/{phase}/out", self.root / "phases" / phase / "out") for phase in job.made]
            old = [f"{top}phases/{phase}/{part}" for phase in job.made for part in ("out", "kept") for top in ("", f"{MANIFESTS}/")]
            self.commit(job, things, old, f"{', '.join(job.made)}: done")
        elif job.ended or time.monotonic() >= self.next_kept:
            self.push_kept(job)
        if job.ended:
            self.done.add(job.folder.name)

    def push_kept(self, job: Job) -> None:
        """The newest of each place that is not there yet."""
        box = self.root / "phases" / job.phase / "kept"
        for number in sorted(job.kept(), reverse=True):
            note = json.loads(text_of(box / f"{number}.json") or "{}")
            place = (job.phase, place_of(note["path"])) if note else ("", "")
            if not note or self.kept.get(place, 0) >= number:
                continue   # replaced by a newer one
            copy, remote, name = self.root / "pushing" / str(number), f"phases/{job.phase}/kept/{number}", Path(note["path"]).name
            if self.copy(box, number, copy):
                began = time.monotonic()
                self.commit(job, [(f"{remote}.json", copy / "note"), (f"{remote}/{name}", copy / "files" / name)], self.earlier(place), f"{job.phase}: {note['path']}")
                self.kept[place] = number
                self.next_kept = time.monotonic() + max(self.kept_seconds, SHARE_OF_TIME * (time.monotonic() - began))
            shutil.rmtree(str(copy.parent), ignore_errors=True)

    def copy(self, box: Path, number: int, copy: Path) -> bool:
        """Links to the files of a kept thing, which may be replaced at any moment; False when it was."""
        shutil.rmtree(copy.parent, ignore_errors=True)
        try:
            shutil.copytree(str(box / str(number)), str(copy / "files"), copy_function=link)
            shutil.copyfile(str(box / f"{number}.json"), str(copy / "note"))   # removed first by who replaces it: so it was whole
        except (OSError, shutil.Error):
            return False
        return True

    def earlier(self, place: tuple[str, str]) -> list[str]:
        """Where what is replaced lies in the repository."""
        number = self.kept.get(place, 0)
        remote = f"phases/{place[0]}/kept/{number}"
        return [remote, f"{remote}.json", f"{MANIFESTS}/{remote}", f"{MANIFESTS}/{remote}.json.json"] if number else []

    def commit(self, job: Job, things: list[tuple[str, Path]], old: Iterable[str], message: str) -> None:
        """All files of the things with their list, and those of the job; without what is old. One commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        files: dict[str, Any] = {}
        for name in ("result.json", "events.jsonl"):   # the result only with what it tells of, in one commit
            if (job.folder / name).exists() and (name != "result.json" or (job.ended and job.made)):
                files[f"jobs/{job.folder.name}/{name}"] = (job.folder / name).read_bytes()
        for remote, path in things:
            rows = list(rows_of(path))
            files.update({join(remote, name): str(path / name) if name else str(path) for name, _, _, _ in rows})
            files[f"{MANIFESTS}/{remote}.json"] = json.dumps(rows).encode()
        info = self.api.repo_info(self.repo)
        if not info.private:
            raise NotPrivate(f"{self.repo} is not private any more")
        there = [sibling.rfilename for sibling in info.siblings or []]
        gone = [name for name in there if name not in files and any(name == one or name.startswith(f"{one}/") for one in old)]
        operations: list[Any] = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
        operations += [CommitOperationDelete(path_in_repo=name) for name in gone]
        self.api.create_commit(self.repo, operations, commit_message=message)

    def fail(self, error: Exception) -> None:
        """Tell the first failure of a row, and wait longer after each."""
        if not self.pause:
            words = " ".join(str(getattr(error, "server_message", "") or error).split())[:300]
            self.tell(f"results are not pushed to {self.repo}: {type(error).__name__}: {words}; tried again, and fetched while the job lives")
        self.pause = min(LONGEST_PAUSE_SECONDS, 2 * self.pause or FIRST_PAUSE_SECONDS)
        self.tried_at = time.monotonic()

    def tell(self, text: str) -> None:
        """A line for the user."""
        with (self.root / "push.log").open("a", encoding="utf-8") as log:
            log.write(text + "\n")


def is_over(note: Path) -> bool:
    """Whether a job has its exit code, or its watcher is gone without one."""
    pid = text_of(note / "pid").split()
    gone = bool(pid) and not Path("/proc", pid[0]).exists()   # before the code: it is written last
    return (note / "rc").exists() or gone


def rows_of(path: Path) -> Iterator[tuple[str, int, str, bool]]:
    """The files of a file or folder, as _transfer.files_of lists them."""
    names = [""] if path.is_file() else sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    for name in names:
        file = path / name if name else path
        yield name, file.stat().st_size, sha256_of(file), os.access(str(file), os.X_OK)


def place_of(path: str) -> str:
    """Checkpoints replace each other; anything else replaces what has its own name."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{CHECKPOINT}" if name.startswith(CHECKPOINT) else path


def join(remote: str, name: str) -> str:
    return f"{remote}/{name}" if name else remote


def text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def sha256_of(path: Path) -> str:
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            hasher.update(data)
    return hasher.hexdigest()


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:   # a file system without links
        shutil.copyfile(source, target)


def api_of(orders: dict[str, Any]) -> Any:
    """The client, with the timeout that the library does not set: a Hub that never answers would hold it for ever."""
    import httpx2
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> httpx2.Client:
        made: httpx2.Client = default_client_factory()
        made.timeout = httpx2.Timeout(orders["timeout_seconds"], connect=10.0)
        return made

    set_client_factory(client)
    return HfApi(endpoint=orders["endpoint"], token=orders["token"])


def run(orders: dict[str, Any]) -> None:
    """Push until the container ends. sign: a file whose change keeps the container up while there is work."""
    root, sign = Path(orders["root"]).expanduser(), Path(orders["sign"]).expanduser()
    pusher = Pusher(root, orders["repo"], api_of(orders), kept_seconds=orders["kept_seconds"])
    while True:
        with contextlib.suppress(OSError):   # a full disk: not even that can be told
            if pusher.look():
                sign.touch()
        time.sleep(orders["look_seconds"])


def main() -> int:
    """Read the orders, and go on in a session of its own; once for each lease."""
    orders = json.loads(sys.stdin.buffer.read())
    os.environ.update(orders["environment"])
    try:
        import huggingface_hub  # noqa: F401 - here, so that what is missing is told
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NO_CLIENT
    root = Path(orders["root"]).expanduser()
    handle = os.open(str(root / ".pusher"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0   # it is at work already
    if os.fork():
        return 0
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    run(orders)
    return 0


if __name__ == "__main__":
    sys.exit(main())
