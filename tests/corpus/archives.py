"""Small archives of every kind. RAR has no free packer, so it is written here, after the format's published description."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

RAR5 = b"Rar!\x1a\x07\x01\x00"


def tar(
    members: Mapping[str, bytes], *, mode: str = "w", kind: int = tarfile.PAX_FORMAT, extra: Callable[[tarfile.TarFile], object] | None = None
) -> bytes:
    """A tar of the members; `extra` adds what is no regular file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=kind) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            add(archive, name, content)
        if extra:
            extra(archive)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    """One member, of any type, dated 1970."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, len(content)
    archive.addfile(member, io.BytesIO(content))


def seven_zip(path: Path, members: Mapping[str, bytes], *, password: str | None = None, hide_names: bool = False, method: int | None = None) -> bytes:
    """A 7z written to `path`; returns its bytes. method: one of py7zr's FILTER_ numbers."""
    import py7zr

    filters = [{"id": method}] if method is not None else None
    with py7zr.SevenZipFile(path, "w", password=password, header_encryption=hide_names, filters=filters) as archive:
        for name, content in members.items():
            archive.writestr(content, name)
    return path.read_bytes()


def rar(members: Mapping[str, bytes], *, packed: bool = False, solid: bool = False, encrypted: bool = False) -> bytes:
    """A RAR 5 archive. packed: as compressed blocks whose Huffman code gives every byte eight bits."""
    out = RAR5 + _rar_header(1, 0, _vint(4 if solid else 0))
    for number, (name, content) in enumerate(members.items()):
        data = _rar_block(content) if packed else content
        info = (0x40 if solid and number else 0) | (0x80 if packed else 0)
        fields = _vint(4) + _vint(len(content)) + _vint(0o100644) + zlib.crc32(content).to_bytes(4, "little") + _vint(info) + _vint(1)
        raw = name.encode()
        extra = _vint(36) + _vint(1) + _vint(0) + _vint(0) + b"\x0f" + bytes(32) if encrypted else b""
        out += _rar_header(2, 2, fields + _vint(len(raw)) + raw, data=data, extra=extra)
    return out + _rar_header(5, 0, _vint(0))


def _vint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def _rar_header(kind: int, flags: int, fields: bytes, *, data: bytes = b"", extra: bytes = b"") -> bytes:
    flags |= bool(extra)
    sizes = (_vint(len(extra)) if extra else b"") + (_vint(len(data)) if flags & 2 else b"")
    body = _vint(kind) + _vint(flags) + sizes + fields + extra
    body = _vint(len(body)) + body
    return zlib.crc32(body).to_bytes(4, "little") + body + data


def _rar_block(content: bytes) -> bytes:
    """One compressed block with its tables: the literals 0..255 have eight bits each, nothing else has a code."""
    lengths = "".join(f"{ {8: 1, 17: 2, 19: 2}.get(symbol, 0):04b}" for symbol in range(20))
    eights = "0" + "10" + f"{127:07b}" + "10" + f"{255 - 138 - 11:07b}"  # 8, then the same again 138 and 117 times
    zeros = "11" + f"{127:07b}" + "11" + f"{430 - 256 - 138 - 11:07b}"
    bits = lengths + eights + zeros + "".join(f"{byte:08b}" for byte in content)
    last = (len(bits) - 1) % 8
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    flags = 0x80 | 0x40 | 2 << 3 | last
    size = len(body).to_bytes(3, "little")
    return bytes([flags, 0x5A ^ flags ^ size[0] ^ size[1] ^ size[2]]) + size + body
