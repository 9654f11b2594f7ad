"""Every error that slm-forge raises on purpose. Each says fact / why / next command.

    ForgeError                 exit 1    the user can act on it; shown without a traceback
    ├── UsageError             exit 2    a command, key, path or run id that does not exist
    ├── WaitingAtGate          exit 3    the plan needs a person's approval
    ├── MissingAccess          exit 4    a key, permission or installed extra is missing
    ├── OverBudget             exit 5    the next paid act might pass the cap
    ├── GateFailed             exit 6    an integrity or quality gate said no
    ├── NoCapacity             exit 7    no machine to be had
    ├── StillBilling           exit 70   something may still cost money
    ├── RunBusy                exit 75   another process holds the run
    ├── ArtifactDamaged        exit 1    stored bytes no longer match their hash
    └── ExtractError           exit 1    one file cannot be read (recorded per file by prep)
    Interrupted                exit 130  the user stopped the run; it can be resumed
"""

from __future__ import annotations

import errno
from collections.abc import Iterable


class ForgeError(Exception):
    """A failure that the user can act on: `fact` in lower case, `why`, and the `next` command."""

    exit_code = 1

    def __init__(self, fact: str, *, why: str = "", next: str = "") -> None:
        super().__init__(fact)
        self.fact, self.why, self.next = fact, why, next

    def __str__(self) -> str:
        lines = [self.fact]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.next:
            lines.append(f"  next: {self.next}")
        return "\n".join(lines)


class UsageError(ForgeError):
    """A command, key, path or run id that does not exist."""

    exit_code = 2


class WaitingAtGate(ForgeError):
    """The plan needs a person's approval before anything more is spent."""

    exit_code = 3


class MissingAccess(ForgeError):
    """A key, a permission or an installed extra is missing."""

    exit_code = 4


class OverBudget(ForgeError):
    """The worst case of the next paid act would pass the cap; nothing was spent on it."""

    exit_code = 5


class GateFailed(ForgeError):
    """An integrity or quality gate said no."""

    exit_code = 6


class NoCapacity(ForgeError):
    """No machine that fits the plan can be had now."""

    exit_code = 7


class MachineLost(ForgeError):
    """The leased machine is gone or does not answer any more; the work can go on from its last checkpoint on another one."""


class StillBilling(ForgeError):
    """A lease could not be confirmed as gone."""

    exit_code = 70


class RunBusy(ForgeError):
    """Another process holds the run's lock."""

    exit_code = 75


class ArtifactDamaged(ForgeError):
    """Stored bytes no longer match the hash under which they were published."""


class ExtractError(ForgeError):
    """One file cannot be read. `refused` marks a file that must not be opened (encrypted, a bomb)."""

    def __init__(self, fact: str, *, refused: bool = False, why: str = "", next: str = "") -> None:
        super().__init__(fact, why=why, next=next)
        self.refused = refused


class Interrupted(Exception):
    """The user asked to stop. What is finished is kept; exit code 130."""

    exit_code = 130


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?` for a mistyped word, or the known words when nothing is near."""
    from difflib import get_close_matches  # 11 ms: only when something is mistyped

    options = sorted(known)
    close = get_close_matches(word, options, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(options) or 'none'}"


DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def explain(error: BaseException) -> ForgeError | None:
    """A ForgeError as it is, the operating system's refusals as one; None for anything that is a bug of ours."""
    if isinstance(error, ForgeError):
        return error
    told = _explain_system(error) if isinstance(error, OSError) else _explain_database(error)
    if told is not None:
        told.__cause__ = error
    return told


def disk_full() -> ForgeError:
    """The error of a full disk."""
    return ForgeError(
        "the disk is full", why="what was finished before is kept; the file being written was not published",
        next="free some space, then forge resume",
    )


def _explain_system(error: OSError) -> ForgeError | None:
    if error.errno in DISK_FULL:
        return disk_full()
    if error.errno in NOT_WRITABLE:
        reason = (error.strerror or "not permitted").lower()
        return ForgeError(
            f"cannot use {error.filename or 'a file'}", why=reason, next="change its permissions, or set FORGE_HOME=FOLDER to keep runs elsewhere"
        )
    return None


def _explain_database(error: BaseException) -> ForgeError | None:
    import sqlite3

    if not isinstance(error, sqlite3.DatabaseError):
        return None
    text = str(error)
    if "full" in text:
        return disk_full()
    if "readonly" in text or "unable to open" in text:
        return ForgeError("the run's state cannot be written", why=text, next="change the permissions of its folder")
    if "malformed" in text or "not a database" in text:
        return ForgeError("the run's state is damaged", why=text, next="forge runs shows which; start anew with forge run CORPUS --new")
    return None
