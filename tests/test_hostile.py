"""One run over a corpus made to hurt (tests/hostile): what is good is read, what is bad ends with its reason, nothing gets out."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from forge import isolate
from forge.corpus import scan_corpus
from forge.records import Document, Passage, read_jsonl
from tests import hostile
from tests.hostile import harmless

GOOD = 200
MEMORY_MIB = 1024
MAX_TREE_BYTES = 2 << 30
MAX_SECONDS = 180

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Listener:
    """A server that counts who calls."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url, self.calls = f"http://127.0.0.1:{self.server.getsockname()[1]}", 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                self.server.accept()[0].close()
            except OSError:
                return
            self.calls += 1


@dataclass
class Outcome:
    """What the run left."""

    cases: list[hostile.Case]
    corpus: Path
    code: int = 0
    output: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0
    calls: int = 0
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """All passages of a file and of the files inside it, copies resolved to the file that was read."""
        found = []
        for name in (path, *(one for one in self.documents if one.startswith(path + "!/"))):
            copied = self.documents[name].reason.removeprefix("the same bytes as ")
            found.append(self.texts.get(copied if copied in self.texts else name, ""))
        return "\n".join(found)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """The corpus is written and read once."""
    place, listener = tmp_path_factory.mktemp("hostile"), Listener()
    outside = place / "outside"
    folders = {name: outside / name for name in ("home", "tmp", "cwd", "canary", "escape")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number in range(20):
        (folders["canary"] / f"{number}.txt").write_text(f"canary {number}", encoding="utf-8")
    made = hostile.write(place, listener.url, folders["escape"], GOOD)
    result = Outcome([case for case in made if _can_be_held(case, place)], place / "corpus")
    before = snapshot(outside) | snapshot(place / "corpus")
    _run(result, place, folders)
    after = snapshot(outside) | snapshot(place / "corpus")
    result.changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    result.calls = listener.calls
    listener.server.close()
    yield result
    (place / "corpus/special/closed.md").chmod(0o600)


def _can_be_held(case: hostile.Case, place: Path) -> bool:
    """Plugins that write and call out are left out where the system cannot hold them (`forge doctor` tells)."""
    if case.path in ("plugin/write.bad", "plugin/call.bad") and isolate.gaps():
        (place / "corpus" / case.path).unlink()
        return False
    return True


def _run(result: Outcome, place: Path, folders: dict[str, Path]) -> None:
    settings = {"allowed_failed_share": 1, "seconds_per_file": 25, "memory_mib": MEMORY_MIB, "workers": 2}
    command = [sys.executable, "-m", "forge", "run", str(result.corpus), "--until", "prep", "--new", "--budget", "0", "--plugin-dir", str(place / "plugins")]
    for name, value in settings.items():
        command += ["--set", f"prep.{name}={value}"]
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "FORGE_HOME": str(place / "runs"), "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    with (place / "output.txt").open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=folders["cwd"], env=environment, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            result.peak_bytes = max(result.peak_bytes, tree_bytes(process.pid))
            time.sleep(0.05)
        result.seconds, result.code = time.monotonic() - started, process.returncode
    result.output = (place / "output.txt").read_text(encoding="utf-8")
    result.left = running(str(folders["home"]))
    for path in (place / "runs").rglob("phases/prep/documents.jsonl"):
        result.documents = {one.source.path: one for one in read_jsonl(path, Document)}
        texts = defaultdict(list)
        for passage in read_jsonl(path.with_name("passages.jsonl"), Passage):
            texts[passage.source.path].append(passage.text)
        result.texts = {name: "\n".join(parts) for name, parts in texts.items()}


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all below it; what they share counts for each."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                continue
    except psutil.Error:
        return total
    return total


def running(home: str) -> list[str]:
    """Processes that carry the run's environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def snapshot(folder: Path) -> dict[str, str]:
    """Every name below a folder with its kind, mode, time and content."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)  # noqa: PTH118  # names that are no text
            info = os.lstat(path)
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) and info.st_mode & 0o400 and info.st_size < 1 << 20 else ""
            found[os.fsencode(path).decode("utf-8", "backslashreplace")] = f"{info.st_mode:o} {info.st_size} {info.st_mtime_ns if files else 0} {content}"
    return found


def test_the_run_ends_well_in_time_and_memory(outcome: Outcome, record_property: Callable[[str, object], None]) -> None:
    told = f"{len(outcome.cases)} hostile and {GOOD} good files: {outcome.seconds:.0f} s, {outcome.peak_bytes >> 20:,} MiB at most"
    record_property("measured", told)
    assert outcome.code == 0, outcome.output
    assert outcome.seconds < MAX_SECONDS, told
    assert outcome.peak_bytes < MAX_TREE_BYTES, told


def test_the_corpus_is_as_hostile_as_it_says(outcome: Outcome) -> None:
    assert len(outcome.cases) >= 100
    assert len({case.path for case in outcome.cases}) == len(outcome.cases)


def test_every_good_file_is_read(outcome: Outcome) -> None:
    lost = []
    for number in range(GOOD):
        name = f"good/{number:04d}{harmless.KINDS[number % len(harmless.KINDS)][0]}"
        if harmless.marker(number) not in outcome.text(name):
            lost.append(f"{name}: {outcome.documents[name].status} {outcome.documents[name].reason}")
    assert lost == []


def test_every_hostile_file_ends_as_it_must(outcome: Outcome) -> None:
    wrong = []
    for case in outcome.cases:
        document = outcome.documents[case.path]
        ended = f"{case.path!r}: {document.status}: {document.reason}"
        if document.status not in case.ends.split("|") or not any(why in document.reason for why in case.why.split("|")):
            wrong.append(f"{ended} (wanted {case.ends}: {case.why})")
        if case.keeps not in re.sub(r"\s+", " ", outcome.text(case.path)):
            wrong.append(f"{ended} (lost {case.keeps!r})")
        for name, wanted in case.members.items():
            member = outcome.documents.get(f"{case.path}!/{name}")
            if member is None or not f"{member.status}: {member.reason}".startswith(wanted):
                wrong.append(f"{case.path}!/{name}: {member} (wanted {wanted})")
    assert wrong == []


def test_every_name_has_a_status_and_what_was_not_read_a_reason(outcome: Outcome) -> None:
    names = {entry.path for entry in scan_corpus(outcome.corpus)}
    assert names <= outcome.documents.keys()
    assert [name for name, one in outcome.documents.items() if one.status != "ok" and not one.reason] == []


def test_nothing_outside_the_run_folder_has_changed(outcome: Outcome) -> None:
    assert outcome.changed == []


def test_no_connection_was_made_and_no_process_is_left(outcome: Outcome) -> None:
    assert (outcome.calls, outcome.left) == (0, [])


def test_no_text_comes_from_outside_the_corpus(outcome: Outcome) -> None:
    assert [path for path, text in outcome.texts.items() if re.search(r"^root:[^:]*:0:0:", text, re.MULTILINE)] == []
    assert len(outcome.text("markup/laughs.xml")) + len(outcome.text("office/laughs.docx")) == 0
