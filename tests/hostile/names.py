"""Names, links and things that are no files."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import corpus
from tests.hostile import Case

TEXT = "The harbour master writes down when a boat comes in and when it leaves again.\n"
NO_LINK = "symbolic links are not followed"
NO_FILE = "not a regular file"


def cases() -> Iterator[Case]:
    """Names of all sorts, links, pipes, a socket, a file that nobody may read, files that are not what they say."""
    for name in ("line\nbreak.md", "..md", "...", "-rf", "$(touch x).txt", "a b\t.txt", "\u202etxt.exe.md", "x" * 250 + ".md", "new\\nline.md"):
        yield Case("names/" + name.replace("\\", "\\\\"), writer(name, TEXT + name), "ok", keeps="harbour master")
    yield Case("names/bytes \\xff\\xfe.md", writer(os.fsdecode(b"bytes \xff\xfe.md"), TEXT + "bytes"), "ok", keeps="harbour master")
    yield Case("links/passwd.txt", link("/etc/passwd"), "skipped", NO_LINK)
    yield Case("links/etc", link("/etc"), "skipped", NO_LINK)
    yield Case("links/self", link("self"), "skipped", NO_LINK)
    yield Case("links/up", link(".."), "skipped", NO_LINK)
    yield Case("links/there", link("back"), "skipped", NO_LINK)
    yield Case("links/back", link("there"), "skipped", NO_LINK)
    yield Case("links/nowhere.pdf", link("/nowhere/at/all.pdf"), "skipped", NO_LINK)
    yield Case("special/pipe.md", os.mkfifo, "skipped", NO_FILE)
    yield Case("special/socket.md", listen, "skipped", NO_FILE)
    yield Case("special/closed.md", closed, "ok" if os.geteuid() == 0 else "failed", "" if os.geteuid() == 0 else "ermission denied")
    yield Case("special/empty.pdf", b"", "skipped", "no text")
    yield Case("special/hole.txt", hole, "skipped|refused|failed|ok")
    yield Case("wrong/really_docx.pdf", corpus.docx(corpus.paragraph(TEXT + "docx")), "ok", keeps="harbour master")
    yield Case("wrong/really_pdf.docx", corpus.pdf([corpus.lines([TEXT[:60]])]), "ok", keeps="harbour master")
    yield Case("wrong/really_html.csv", f"<!doctype html><html><body><p>{TEXT * 4}html</p></body></html>".encode(), "ok", keeps="harbour master")
    yield Case("wrong/really_zip.txt", corpus.packed({"a.txt": TEXT + "zip"}), "ok", keeps="harbour master")
    yield Case("wrong/really_a_program.md", b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 40, "skipped|ok")
    yield Case("wrong/really_noise.pdf", bytes((number * 7919 >> 3) & 255 for number in range(20_000)), "skipped|failed|ok")


def writer(name: str, text: str) -> Callable[[Path], object]:
    """Writes `text` to a file of that very name, whatever the path of the case says."""
    return lambda target: (target.parents[len(target.parts) - 1 - target.parts.index("names")] / "names" / name).write_text(text, encoding="utf-8")


def link(to: str) -> Callable[[Path], object]:
    """A symbolic link."""
    return lambda target: target.symlink_to(to)


def listen(target: Path) -> None:
    """A Unix socket; bound by its short name, for the system takes 108 bytes at most."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(target.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(target.name)
    finally:
        os.fchdir(before)
        os.close(before)


def closed(target: Path) -> None:
    """A file that only root may read."""
    target.write_text(TEXT + "closed", encoding="utf-8")
    target.chmod(0)


def hole(target: Path) -> None:
    """300 MB of nothing, in no space."""
    with target.open("wb") as file:
        file.truncate(300_000_000)
