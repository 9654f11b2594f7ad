"""Third-party extractors that crash, hang, eat memory, lie, and try to get out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests import corpus
from tests.hostile import Case

GOOD = "This file stands between two that take the reader down, and has to be read all the same.\n"

PLUGIN = '''
import os, socket, time
from pathlib import Path
from forge.protocols import Embedded
from forge.records import Piece


def eat():
    held = []
    while True:
        held.append(bytearray(16 << 20))


def write_out(target):
    for path in (Path(target), Path.home() / "escaped.txt", Path("escaped.txt")):
        try:
            path.write_text("out")
        except OSError:
            pass
    return [Piece(text="It tried to write to places where it has no business.")]


def call_out(address):
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        pass
    return [Piece(text="It tried to tell somebody what it was reading here.")]


class Bad:
    name, media_types, magic, requires = "bad", ("text/x-bad",), {}, ()
    extensions = {".bad": "text/x-bad"}

    def extract(self, path, ctx):
        what, _, argument = path.read_text().partition(" ")
        acts = {
            "crash": lambda: os.kill(os.getpid(), 11), "abort": os.abort, "exit": lambda: os._exit(0), "hang": lambda: time.sleep(3600),
            "eat": eat, "lie": lambda: [42], "recurse": lambda: recurse(0),
            "endless": lambda: (Piece(text="and so on and on " * 10_000) for _ in iter(int, 1)),
            "endless_members": lambda: (Embedded("again.txt", [b"again "]) for _ in iter(int, 1)),
            "endless_bytes": lambda: [Embedded("long.txt", (b"long " * 200_000 for _ in iter(int, 1)))],
            "write": lambda: write_out(argument), "call": lambda: call_out(argument), "leave": leave, "fill": lambda: fill(ctx),
        }
        for item in acts[what]() or ():
            yield item


def recurse(depth):
    return recurse(depth + 1) + 1


def leave():
    if os.fork() == 0:
        os.setsid()
        time.sleep(3600)
    return [Piece(text="It left a process behind when it was done with this.")]


def fill(ctx):
    with (ctx.scratch / "full").open("wb") as file:
        for _ in iter(int, 1):
            file.write(bytes(1 << 20))


extractor = Bad()
'''


def write(folder: Path) -> None:
    """The plugin folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bad.py").write_text(PLUGIN, encoding="utf-8")


def cases(url: str, escape: Path) -> Iterator[Case]:
    """Files that make the plugin misbehave."""
    yield Case("plugin/crash.bad", b"crash", "failed", "crashed (SIGSEGV)")
    yield Case("plugin/abort.bad", b"abort", "failed", "crashed (SIGABRT)")
    yield Case("plugin/exit.bad", b"exit", "failed", "ended its process")
    yield Case("plugin/hang.bad", b"hang", "failed", "took longer than")
    yield Case("plugin/eat.bad", b"eat", "failed", "memory")
    yield Case("plugin/lie.bad", b"lie", "failed", "not Piece")
    yield Case("plugin/recurse.bad", b"recurse", "failed", "RecursionError")
    yield Case("plugin/endless.bad", b"endless", "refused|failed", "characters|took longer")   # a busy machine may end it by the clock first
    yield Case("plugin/endless_members.bad", b"endless_members", "refused", "files")
    yield Case("plugin/endless_bytes.bad", b"endless_bytes", "refused", "unpacks to")
    inside = corpus.packed({"a.bad": "crash", "b.txt": GOOD, "c.bad": "exit", "d.md": GOOD + "twice"})
    members = {"a.bad": "failed: the extractor crashed (SIGSEGV)", "c.bad": "failed: the extractor ended its process", "b.txt": "ok", "d.md": "ok"}
    yield Case("plugin/inside.zip", inside, "ok", members=members, keeps="stands between two")
    yield Case("plugin/leave.bad", b"leave", "ok|failed")
    yield Case("plugin/fill.bad", b"fill", "failed|refused")
    yield Case("plugin/write.bad", f"write {escape.as_posix()}/plugin.txt".encode(), "ok|failed")
    yield Case("plugin/call.bad", f"call {url.partition('//')[2]}".encode(), "ok|failed")
