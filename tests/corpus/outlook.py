"""Writes an Outlook message (.msg): an OLE2 file ([MS-CFB], version 3) with the property streams of [MS-OXMSG]."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

FREE, END, FAT_SECTOR, NONE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
SECTOR, SMALL = 512, 64

SUBJECT, BODY, HTML, RTF, CLASS, HEADERS, SENDER = 0x0037, 0x1000, 0x1013, 0x1009, 0x001A, 0x007D, 0x0C1A
DATA, FILE_NAME, MIME, CONTENT_ID = 0x3701, 0x3707, 0x370E, 0x3712

Value = str | bytes
Folder = dict[str, "bytes | Folder"]


def message(properties: Mapping[int, Value], *attachments: Mapping[int, Value]) -> bytes:
    """A .msg with text and binary properties, by property id."""
    root = _properties({CLASS: "IPM.Note", **properties}, struct.pack("<8x4I8x", 0, len(attachments), 0, len(attachments)))
    for number, one in enumerate(attachments):
        root[f"__attach_version1.0_#{number:08X}"] = _properties(one, bytes(8))
    return _compound(root)


def _properties(values: Mapping[int, Value], head: bytes) -> Folder:
    folder: Folder = {}
    entries = b""
    for identifier, value in sorted(values.items()):
        kind, data = (0x001F, value.encode("utf-16-le")) if isinstance(value, str) else (0x0102, value)
        entries += struct.pack("<HHIII", kind, identifier, 6, len(data) + (2 if kind == 0x001F else 0), 0)
        folder[f"__substg1.0_{identifier:04X}{kind:04X}"] = data
    folder["__properties_version1.0"] = head + entries
    return folder


@dataclass
class _Entry:
    """One line of the directory: a stream (2), a folder (1) or the root (5)."""

    name: str
    kind: int
    start: int = 0
    size: int = 0
    right: int = NONE
    child: int = NONE

    def packed(self) -> bytes:
        text = self.name.encode("utf-16-le")
        length = len(text) + 2 if text else 0
        return struct.pack("<64sHBBIII16xI16xIQ", text, length, self.kind, 1, NONE, self.right, self.child, 0, self.start, self.size)


def _compound(root: Folder) -> bytes:
    """All streams lie in the mini stream; siblings are one chain, which every reader accepts."""
    entries, small, chains = [_Entry("Root Entry", 5)], bytearray(), list[int]()
    _add(root, entries[0], entries, small, chains)
    entries += [_Entry("", 0)] * (-len(entries) % 4)
    table = _padded(struct.pack(f"<{len(chains)}I", *chains), FREE)
    counts = [len(entries) // 4, len(table) // SECTOR, -(-len(small) // SECTOR)]
    starts = [1, 1 + counts[0], 1 + counts[0] + counts[1]]
    entries[0].start, entries[0].size = starts[2], len(small)
    fat = [FAT_SECTOR] + [one for start, count in zip(starts, counts, strict=True) for one in (*range(start + 1, start + count), END)]
    header = struct.pack(
        "<8s16xHHHHH6xIIIIIIIIII", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6, 0, 1, starts[0], 0, 4096, starts[1], counts[1], END, 0, 0
    )
    first = header + struct.pack("<108I", *[FREE] * 108) + _padded(struct.pack(f"<{len(fat)}I", *fat), FREE)
    return first + b"".join(one.packed() for one in entries) + table + _padded(bytes(small))


def _add(folder: Folder, owner: _Entry, entries: list[_Entry], small: bytearray, chains: list[int]) -> None:
    previous: _Entry | None = None
    for name, content in sorted(folder.items(), key=lambda item: (len(item[0]), item[0].upper())):
        index = len(entries)
        if isinstance(content, bytes):
            count = -(-len(content) // SMALL)
            entry = _Entry(name, 2, len(chains) if count else END, len(content))
            chains += [*range(len(chains) + 1, len(chains) + count), END] if count else []
            small += content.ljust(count * SMALL, b"\0")
            entries.append(entry)
        else:
            entry = _Entry(name, 1)
            entries.append(entry)
            _add(content, entry, entries, small, chains)
        if previous is None:
            owner.child = index
        else:
            previous.right = index
        previous = entry


def _padded(data: bytes, fill: int = 0) -> bytes:
    rest = -len(data) % SECTOR
    return data + (struct.pack("<I", fill) * (rest // 4 + 1))[:rest]
