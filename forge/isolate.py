"""Takes from this process what reading a file does not need: the network, and every folder but one to write to.

No privileges, no other program, inside containers too: a seccomp filter (Linux 3.17) and Landlock (Linux 5.13), both
through ctypes. What cannot be had on this machine is told by gaps(); nothing here fails quietly.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

SYSTEM = sys.platform
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SECCOMP_GET_ACTION_AVAIL = 2
KILL, DENY, PRETEND, ALLOW = 0x8000_0000, 0x0005_0000 | errno.EACCES, 0x0005_0000, 0x7FFF_0000
"""What the filter answers: end the process, EACCES, success without doing anything, let through."""

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
WRITE_FILE, TRUNCATE, IOCTL_DEVICE = 1 << 1, 1 << 14, 1 << 15
MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
REFER = 1 << 13
FILE_RIGHTS = WRITE_FILE | TRUNCATE | IOCTL_DEVICE
RULE_PATH_BENEATH = 1

MACHINES = {"x86_64": (0, 0xC000_003E, 317), "aarch64": (1, 0xC000_00B7, 277)}
"""Machine -> column in the tables below, the kernel's number for it, the number of the call seccomp()."""

DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "sendmsg": (46, 211), "sendmmsg": (307, 269), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # A process that leaves its group would outlive the file that started it.
    "setsid": (112, 157), "setpgid": (109, 154),
    # Other processes of the same user, and limits (root may raise them).
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "setrlimit": (160, 164), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "bpf": (321, 280),
    # Files by other ways than their path, and what only root may do.
    "open_by_handle_at": (304, 265), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsmount": (432, 432), "mount_setattr": (442, 442), "reboot": (169, 142), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294),
    "open_tree_attr": (467, 467), "sethostname": (170, 161), "setdomainname": (171, 162), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "swapon": (167, 224), "swapoff": (168, 225),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # Memory and queues that stay when the process has gone.
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
}

PRETENDED: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
}
"""Landlock leaves modes, owners and times alone. Unpackers set them on what they unpack and give up on an error."""

SENDTO, PRLIMIT = (44, 206), (302, 261)


def gaps() -> tuple[str, ...]:
    """What a confined process could still do on this machine; empty when nothing is missing."""
    found = []
    if not has_seccomp():
        found.append("extractors could open network connections (no seccomp filter here)")
    if not landlock_version():
        found.append("extractors could write outside their scratch folder (no Landlock here: Linux 5.13 or later)")
    return tuple(found)


def confine(writable: Path) -> None:
    """From now on this process and its children open no connection and write only below `writable` and to /dev/null.

    Call it with a single thread. Does what the machine offers (see gaps()); raises OSError when an offer fails.
    """
    if SYSTEM != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if landlock_version():
        _restrict_writes(libc, writable)
    if has_seccomp():
        _install_filter(libc)


@cache
def landlock_version() -> int:
    """Landlock's ABI on this machine, 0 without it."""
    if SYSTEM != "linux" or os.uname().machine not in MACHINES:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


@cache
def has_seccomp() -> bool:
    """True when a filter over system calls can be installed."""
    if SYSTEM != "linux" or os.uname().machine not in MACHINES:
        return False
    action = ctypes.c_uint32(0x0005_0000)
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.syscall(MACHINES[os.uname().machine][2], SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(action))) == 0


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _restrict_writes(libc: ctypes.CDLL, writable: Path) -> None:
    """Reading and running stay free; connecting and signalling outside is denied where the kernel offers that too."""
    version = landlock_version()
    files = WRITE_FILE | MAKE_AND_REMOVE
    files |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0) | (IOCTL_DEVICE if version >= 5 else 0)
    network, scoped = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("=QQQ", files, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _checked(libc.syscall(LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "Landlock ruleset")
    try:
        for path, allowed in ((writable, files), (Path(os.devnull), files & FILE_RIGHTS)):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", allowed, handle)
            _checked(libc.syscall(LANDLOCK_ADD, rules, RULE_PATH_BENEATH, rule, 0), f"Landlock rule for {path}")
            os.close(handle)
        _checked(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "Landlock")
    finally:
        os.close(rules)


def _install_filter(libc: ctypes.CDLL) -> None:
    built = b"".join(program(os.uname().machine))
    code = ctypes.create_string_buffer(built, len(built))
    header = struct.pack("@HP", len(built) // 8, ctypes.addressof(code))
    _checked(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0), "seccomp filter")


def program(machine: str) -> Iterator[bytes]:
    """The filter in classic BPF: at 0 the call's number, at 4 the machine, from 16 on its arguments of 8 bytes."""
    column, number, _ = MACHINES[machine]
    yield from (_load(4), _if_equal(number, 1, 0), _answer(KILL), _load(0))  # 32-bit calls have other numbers
    if machine == "x86_64":
        yield from (_instruction(0x35, 0, 1, 0x4000_0000), _answer(KILL))  # x32 as well
    for table, answer in ((DENIED, DENY), (PRETENDED, PRETEND)):
        for call in _numbers(table.values(), column):
            yield from (_if_equal(call, 0, 1), _answer(answer))
    # send() on a socketpair has no address; sendto() with one could reach another socket.
    yield _if_equal(SENDTO[column], 0, 6)
    yield from (_load(48), _if_equal(0, 0, 2), _load(52), _if_equal(0, 1, 0), _answer(DENY), _answer(ALLOW))
    # Limits may be asked for; of them only the processor time (resource 0) may be set.
    yield _if_equal(PRLIMIT[column], 0, 8)
    yield from (_load(32), _if_equal(0, 0, 2), _load(36), _if_equal(0, 3, 0), _load(24), _if_equal(0, 1, 0))
    yield from (_answer(DENY), _answer(ALLOW))
    yield _answer(ALLOW)


def _numbers(pairs: Iterable[tuple[int | None, int | None]], column: int) -> Iterator[int]:
    return (pair[column] for pair in pairs if pair[column] is not None)  # type: ignore[misc]


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _if_equal(value: int, yes: int, no: int) -> bytes:
    """Skip `yes` instructions when the loaded word is `value`, else `no`."""
    return _instruction(0x15, yes, no, value)


def _answer(what: int) -> bytes:
    return _instruction(0x06, 0, 0, what)
