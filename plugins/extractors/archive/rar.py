"""RAR: listed by rarfile, stored members read from the file, compressed ones through unrar, unar, bsdtar or 7z.

The programs see the archive alone in a folder of its own: unar takes any "x5-y.rar" beside an "x3-y.rar" for the next
volume and fails (measured with unar 1.10.1), and nothing beside it is theirs to read.
"""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from forge.errors import ExtractError
from forge.phase import Requirement
from forge.plugins.extractors.archive.members import CHUNK, ENCRYPTED, LINK, check_directory, damage_told
from forge.protocols import Embedded
from forge.records import Piece
from forge.registry import require

if TYPE_CHECKING:
    from rarfile import RarFile, RarInfo

NO_PROGRAM = "compressed RAR member: put unrar, unar or bsdtar on the PATH (Debian: apt install unar)"


def read_rar(path: Path, scratch: Path) -> Iterator[Piece | Embedded]:
    """The members in order. Raises ExtractError, after those that are whole, when the archive is damaged."""
    require((Requirement(module="rarfile", extra="archives"),), "a RAR archive")
    with _opened(path, scratch) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        check_directory(len(members), sum(member.file_size or 0 for member in members))
        if archive.is_solid() and any(_is_compressed(member) for member in members):
            yield from _solid(archive, members)
        else:
            for member in members:
                if note := _obstacle(member):
                    yield Embedded(_name(member), note=note)
                else:
                    yield Embedded(_name(member), chunks=_chunks(archive, member))
        if problem := archive.strerror():
            raise ExtractError(f"damaged RAR archive ({problem.replace(str(scratch), '')})")


@contextmanager
def _opened(path: Path, scratch: Path) -> Iterator[RarFile]:
    import rarfile

    alone, pieces = scratch / "rar", scratch / "rar-members"
    for folder in (alone, pieces):
        folder.mkdir(exist_ok=True)
    link = alone / "archive.rar"
    link.unlink(missing_ok=True)
    link.symlink_to(path.absolute())
    rarfile.HACK_TMP_DIR = str(pieces)
    with _damage_told("RAR archive"), rarfile.RarFile(str(link)) as archive:
        if archive.needs_password() and not archive.infolist():
            raise ExtractError("encrypted RAR archive (its list of names needs a password)", refused=True)
        yield archive


@contextmanager
def _damage_told(what: str) -> Iterator[None]:
    import rarfile

    try:
        with damage_told(what):
            yield
    except rarfile.NeedFirstVolume as error:
        raise ExtractError("a later volume of a RAR archive in parts", next="unpack the archive, starting with its first part") from error
    except (rarfile.Error, TypeError, AttributeError, AssertionError) as error:
        raise ExtractError(f"damaged {what} ({str(error) or type(error).__name__})") from error


def _name(member: RarInfo) -> str:
    return member.filename or "contents"


def _is_compressed(member: RarInfo) -> bool:
    import rarfile

    return bool(member.compress_type != rarfile.RAR_M0 and member.file_size)


def _obstacle(member: RarInfo) -> str:
    if member.is_symlink() or getattr(member, "file_redir", None):
        return LINK
    if member.needs_password():
        return ENCRYPTED
    return NO_PROGRAM if _is_compressed(member) and _program() is None else ""


def _program() -> Any:
    """rarfile's description of the program that unpacks, or None. 7z only where it knows RAR: Debian's does not."""
    import rarfile

    try:
        return rarfile.tool_setup(sevenzip=False, sevenzip2=False)
    except rarfile.RarCannotExec:
        pass
    for program in ("7z", "7zz"):
        try:
            known = subprocess.run([program, "i"], capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout
        except OSError:
            continue
        if b"Rar5" in known:
            return rarfile.tool_setup(unrar=False, unar=False, bsdtar=False, sevenzip=program == "7z", sevenzip2=program == "7zz")
    return None


def _chunks(archive: RarFile, member: RarInfo) -> Iterator[bytes]:
    with _damage_told("member"), archive.open(member) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _solid(archive: RarFile, members: list[RarInfo]) -> Iterator[Embedded]:
    """All members from one run of the program, which prints them one behind the other: a member of a solid archive
    is unpacked with all before it, so that a run for each would take quadratic time."""
    program = _program()
    if program is None or any(_obstacle(member) for member in members):
        locked = any(member.needs_password() for member in members)
        for member in members:
            yield Embedded(_name(member), note=_obstacle(member) or (ENCRYPTED if locked else "in one stream with members that cannot be read"))
        return
    command = program.open_cmdline(None, archive.filename)
    with closing(_Printed(command)) as printed:
        for member in members:
            if printed.fault:
                yield Embedded(_name(member), note=printed.fault)
            else:
                yield Embedded(_name(member), chunks=printed.member(member))


class _Printed:
    """What the program prints, cut by the sizes in the archive's list."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.output = cast("IO[bytes]", self.process.stdout)
        self.position = self.given_out = 0
        self.fault = ""

    def member(self, member: RarInfo) -> Iterator[bytes]:
        """The next member's bytes."""
        offset, self.given_out = self.given_out, self.given_out + member.file_size
        return self._chunks(offset, member.file_size, member.CRC)

    def _chunks(self, offset: int, size: int, crc: int | None) -> Iterator[bytes]:
        found = 0
        for start, end in ((self.position, offset), (offset, offset + size)):
            while self.position < end:
                chunk = self.output.read(min(CHUNK, end - self.position))
                if not chunk:
                    self.fault = "packed behind a damaged member of the same stream"
                    raise ExtractError("damaged member (it ends early)")
                self.position += len(chunk)
                if start == offset:
                    found = zlib.crc32(chunk, found)
                    yield chunk
        if crc is not None and found != crc:
            self.fault = "packed behind a damaged member of the same stream"
            raise ExtractError("damaged member (its checksum differs)")

    def close(self) -> None:
        """End the program, whether it is through or not."""
        self.output.close()
        self.process.kill()
        self.process.wait()
