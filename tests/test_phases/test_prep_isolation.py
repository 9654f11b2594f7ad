"""A plugin that misbehaves costs its file, with a typed reason: it reaches no network, writes nowhere, outlives nothing."""

from __future__ import annotations

import os
import socket
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from forge import isolate
from forge.phases.prep import PrepSettings, phase, pool, seat
from forge.phases.prep.pool import Lost, Pool
from forge.phases.prep.seat import Seat
from forge.records import Document, read_jsonl
from forge.testing import PhaseRun, run_phase, tiny_corpus

confined = pytest.mark.skipif(bool(isolate.gaps()), reason="; ".join(isolate.gaps()))
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and process groups as Linux has them")


def plugin(body: str, name: str = "bad", extension: str = ".bad", more: str = "") -> str:
    """An extractor whose `extract` is `body`; good files of its own type begin with "good"."""
    return (
        "import os, sys, time, socket, ctypes, subprocess\nfrom pathlib import Path\nfrom forge.records import Piece\n"
        f"class Made:\n    name, media_types, extensions = '{name}', ('text/x-{name}',), {{'{extension}': 'text/x-{name}'}}\n"
        f"    magic, requires = {{}}, ()\n{textwrap.indent(textwrap.dedent(more), '    ')}\n    def extract(self, path, ctx):\n"
        "        text = path.read_text()\n        if not text.startswith('good'):\n"
        f"{textwrap.indent(textwrap.dedent(body), ' ' * 12)}\n        yield Piece(text=text)\n\nextractor = Made()\n"
    )


def prep(tmp_path: Path, body: str, files: Mapping[str, str] | None = None, *, seconds: float = 20, memory_mib: int = 512) -> PhaseRun:
    plugins = tiny_corpus(tmp_path / "plugins", {"made.py": plugin(body)})
    root = tiny_corpus(tmp_path / "corpus", files or {"x.bad": "bad file", "a.bad": "good file one", "z.bad": "good file two"})
    settings = PrepSettings(workers=1, seconds_per_file=seconds, memory_mib=memory_mib, allowed_failed_share=1.0)
    return run_phase(phase, tmp_path / "run", corpus=root, settings=settings, plugin_dirs=(plugins,))


def endings(run: PhaseRun) -> dict[str, tuple[str, str]]:
    return {one.source.path: (one.status, one.reason) for one in read_jsonl(run.out / "documents.jsonl", Document)}


def only_x_failed(run: PhaseRun) -> str:
    found = endings(run)
    assert found["a.bad"][0] == found["z.bad"][0] == "ok"
    assert found["x.bad"][0] == "failed"
    return found["x.bad"][1]


@confined
def test_a_plugin_that_connects_is_stopped_and_the_server_sees_nobody(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reason = only_x_failed(prep(tmp_path, f"socket.create_connection(('127.0.0.1', {port}), timeout=5)"))
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "tried what it may not" in reason


@confined
def test_a_program_that_a_plugin_starts_cannot_connect_either(tmp_path: Path) -> None:
    script = "import socket; socket.create_connection(('127.0.0.1', PORT), timeout=5)"
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = script.replace("PORT", str(server.getsockname()[1]))
        reason = only_x_failed(prep(tmp_path, f"subprocess.run([sys.executable, '-c', {script!r}], check=True, capture_output=True)"))
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()
    assert "CalledProcessError" in reason


@confined
@pytest.mark.parametrize(
    "act",
    [
        "Path('{out}/new').write_text('x')", "Path('{out}/kept').open('a')", "Path('{out}/kept').unlink()", "os.truncate('{out}/kept', 0)",
        "os.rename('{out}/kept', '{out}/moved')", "os.symlink('/etc', '{out}/link')", "Path('{out}/folder').mkdir()",
        "subprocess.run(['sh', '-c', 'echo x > {out}/new'], check=True)", "os.link('{out}/kept', str(ctx.scratch / 'same'))",
    ],
)
def test_a_plugin_that_writes_outside_its_scratch_folder_is_stopped(tmp_path: Path, act: str) -> None:
    out = tiny_corpus(tmp_path / "outside", {"kept": "as it was"})
    only_x_failed(prep(tmp_path, act.format(out=out)))
    assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == {"kept": "as it was"}


@confined
def test_modes_and_times_of_files_outside_stay_while_the_plugin_believes_otherwise(tmp_path: Path) -> None:
    out = tiny_corpus(tmp_path / "outside", {"kept": "as it was"}) / "kept"
    before = out.stat()
    run = prep(tmp_path, f"os.chmod('{out}', 0); os.utime('{out}', (1, 1))")
    assert endings(run)["x.bad"][0] == "ok"
    assert (out.stat().st_mode, out.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@confined
@pytest.mark.parametrize("act", ["os.kill(os.getppid(), 9)", "os.setsid()", "__import__('resource').setrlimit(7, (9, 9))"])
def test_a_plugin_cannot_end_its_parent_leave_its_group_or_change_its_limits(tmp_path: Path, act: str) -> None:
    assert "not permitted" in (reason := only_x_failed(prep(tmp_path, act))) or "denied" in reason


def test_scratch_is_empty_for_every_file_holds_temporary_files_and_is_gone_afterwards(tmp_path: Path) -> None:
    body = """
        import tempfile
        assert list(ctx.scratch.iterdir()) == []
        assert Path(tempfile.mkdtemp()).parent == ctx.scratch == Path(os.environ['TMPDIR'])
        (ctx.scratch / 'deep/er').mkdir(parents=True)
        (ctx.scratch / 'deep/er/file').write_text('left behind')
        os.symlink('/etc', ctx.scratch / 'link')
        Path(text.split()[1]).exists() or sys.exit('no such place')
    """
    run = prep(tmp_path, body, {f"{name}.bad": f"bad /etc {name}" for name in "abc"})
    assert {status for status, _ in endings(run).values()} == {"ok"}
    assert not [path for path in tmp_path.rglob("*") if path.name in ("deep", "link") or path.name.startswith("reading-")]
    assert Path("/etc/passwd").exists()


def test_scratch_is_cleaned_after_a_crash_and_a_hang(tmp_path: Path) -> None:
    def work(item: int, place: Seat) -> bytes:
        (place.scratch() / "left").write_text("behind", encoding="utf-8")
        os.abort() if item == 1 else time.sleep(60 * (item == 2))
        return b"done"

    found = dict(Pool(work, workers=1, seconds=0.3, memory_mib=512, scratch=tmp_path / "scratch").map([1, 2, 3], lambda: None))
    assert found[3] == b"done"
    assert isinstance(found[1], Lost)
    assert isinstance(found[2], Lost)
    assert list((tmp_path / "scratch").iterdir()) == []


@linux
def test_a_process_that_a_plugin_leaves_running_is_ended_and_its_file_has_failed(tmp_path: Path) -> None:
    body = """
        subprocess.Popen(['sh', '-c', 'sleep 637 & exit'], stdout=subprocess.DEVNULL).wait()
        text = 'good'
    """
    assert only_x_failed(prep(tmp_path, body)) == "its extractor left a process running"
    assert not sleepers()


@linux
def test_a_plugin_that_forks_a_copy_of_its_process_gets_one_say_at_most(tmp_path: Path) -> None:
    run = prep(tmp_path, "os.fork() or time.sleep(600)")
    assert only_x_failed(run) == "its extractor left a process running"
    assert len(endings(run)) == 3


def sleepers() -> list[str]:
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(line.read_bytes().decode())
        except OSError:
            continue   # it ended meanwhile
    return [line for line in found if line == "sleep\x00637\x00"]


@linux
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("kept = []\nwhile True: kept.append(bytearray(1 << 24))", "needs more than 512 MiB of memory"),
        ("ctypes.string_at(0)", "the extractor crashed (SIGSEGV)"),
        ("os.abort()", "the extractor crashed (SIGABRT)"),
        ("os._exit(3)", "the extractor ended its process (exit code 3)"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("while True: time.sleep(60)", "took longer than 1 seconds"),
        ("while True: pass", "took longer than 1 seconds"),
        pytest.param("while True: yield Piece(text='word ' * 100_000)", "more than 64,000,000 characters of text", marks=pytest.mark.slow),
        ("[os.open('/dev/null', os.O_RDONLY) for _ in range(2000)]", "OSError: [Errno 24] Too many open files: '/dev/null'"),
        ("raise RecursionError('deep')", "RecursionError: deep"),
    ],
)
def test_what_a_plugin_does_to_its_own_process_costs_its_file(tmp_path: Path, body: str, reason: str) -> None:
    seconds = 1 if "longer" in reason else 120
    run = prep(tmp_path, body, seconds=seconds)
    found = endings(run)
    assert found["a.bad"][0] == found["z.bad"][0] == "ok"
    assert found["x.bad"] == ("refused" if "characters" in reason else "failed", reason)


@linux
def test_an_endless_file_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "FILE_BYTES", 8 << 20)
    body = "file = (ctx.scratch / 'x').open('wb')\nwhile True: file.write(bytes(1 << 20))"
    assert "wrote a file of more than" in only_x_failed(prep(tmp_path, body))


def test_many_files_that_fill_the_disk_end_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SCRATCH_BYTES", 16 << 20)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.05)
    body = """
        for number in range(60):
            (ctx.scratch / str(number)).write_bytes(bytes(1 << 20))
        time.sleep(30)
    """
    assert only_x_failed(prep(tmp_path, body)) == "wrote more than 16 MiB"


@linux
@pytest.mark.parametrize("said", ["b'nonsense that is no message'", "b'D' + (1 << 20).to_bytes(8, 'little') + b'half'", "b'D' + b'\\xff' * 8"])
def test_a_child_whose_pipe_is_written_over_costs_its_file(tmp_path: Path, said: str) -> None:
    body = f"""
        for number in range(3, 60):
            try:
                os.write(number, {said})
            except OSError:
                continue
        time.sleep(30)
    """
    reason = only_x_failed(prep(tmp_path, body, seconds=1.5))
    assert reason in ("the extractor wrote over its process's memory or pipe", "took longer than 1.5 seconds")


def test_results_of_any_size_come_back_whole() -> None:
    found = dict(Pool(lambda item, place: bytes([item]) * (item * 3_000_000), workers=2, seconds=20, memory_mib=512).map(range(5), lambda: None))
    assert found == {item: bytes([item]) * (item * 3_000_000) for item in range(5)}


def test_secrets_of_the_environment_are_not_there_while_files_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    ((_, result),) = Pool(lambda item, place: repr(sorted(os.environ)).encode(), workers=1, seconds=5, memory_mib=512).map([1], lambda: None)
    assert isinstance(result, bytes)
    assert b"SOME_API_KEY" not in result
    assert b"PATH" in result


@linux
def test_processor_time_is_limited_for_what_a_plugin_starts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "_cores", lambda: 0)   # so that two seconds are left, far less than the clock allows
    reason = only_x_failed(prep(tmp_path, "subprocess.run([sys.executable, '-c', 'while True: pass'], check=True)", seconds=15))
    assert "SIGXCPU" in reason


@linux
def test_a_plugin_that_spins_is_ended_by_its_processor_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "_cores", lambda: 0)
    assert only_x_failed(prep(tmp_path, "while True: pass", seconds=15)) == "took longer than 15 seconds of processor time"


def test_children_are_replaced_before_they_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "ITEMS", 3)
    pids = dict(Pool(lambda item, place: str(os.getpid()).encode(), workers=1, seconds=5, memory_mib=512).map(range(8), lambda: None))
    assert len(set(pids.values())) == 3
    assert sorted(pids) == list(range(8))


@linux
def test_a_child_that_leaks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "GROWTH_BYTES", 60 << 20)
    kept: list[bytearray] = []

    def work(item: int, place: Seat) -> bytes:
        kept.append(bytearray(os.urandom(1) * (40 << 20)))  # above what malloc takes from freed memory
        return str(os.getpid()).encode()

    found = dict(Pool(work, workers=1, seconds=5, memory_mib=512).map(range(6), lambda: None))
    assert len(set(found.values())) == 3


def test_the_part_of_an_item_that_takes_the_child_down_is_left_out_the_next_time() -> None:
    def work(item: int, place: Seat) -> bytes:
        done = []
        for part in ("one", "crash", "two", "hang", "three"):
            if part in place.avoid:
                done.append(f"{part}: {place.avoid[part]}")
                continue
            place.begin(part)
            os.abort() if part == "crash" else time.sleep(60 * (part == "hang"))
            done.append(part)
        return "\n".join(done).encode()

    ((_, result),) = Pool(work, workers=2, seconds=0.5, memory_mib=512).map([7], lambda: None)
    assert not isinstance(result, Lost)
    assert result.decode().split("\n") == ["one", "crash: the extractor crashed (SIGABRT)", "two", "hang: took longer than 0.5 seconds", "three"]


def test_an_item_whose_parts_keep_failing_is_given_up() -> None:
    def work(item: int, place: Seat) -> bytes:
        for part in map(str, range(50)):
            if part not in place.avoid:
                place.begin(part)
                os.abort()
        return b""

    ((_, result),) = Pool(work, workers=1, seconds=5, memory_mib=512).map([7], lambda: None)
    assert result == Lost(f"the extractor crashed (SIGABRT), at '{pool.MAX_LOST_PARTS}' inside it")


def test_a_machine_without_isolation_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "landlock_version", lambda: 0)
    monkeypatch.setattr(isolate, "has_seccomp", lambda: False)
    network, writes = isolate.gaps()
    assert "network" in network
    assert "write outside" in writes
    from forge import doctor

    (finding,) = doctor._isolation()
    assert finding.state == "missing"
    assert network in finding.detail
