"""Any database's value as JSON and as text, the same every time."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

SHORT_BYTES = 16


def plain_value(value: Any) -> Any:
    """Any database's value as JSON, the same every time: times in ISO 8601 (zoned ones in UTC), decimals with their digits.

    Bytes are not text: up to 16 of them as hexadecimal digits, more by length and hash.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value.replace("\x00", "") if isinstance(value, str) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, decimal.Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat() if value.tzinfo else value.isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return _duration(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        return raw.hex() if len(raw) <= SHORT_BYTES else f"({len(raw):,} bytes, sha256 {hashlib.sha256(raw).hexdigest()[:16]})"
    if isinstance(value, Mapping):
        return {str(key): plain_value(inner) for key, inner in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (set, frozenset)):
        return sorted((plain_value(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    if isinstance(value, (list, tuple)):
        return [plain_value(inner) for inner in value]
    return _other(value)


def unique_names(names: Iterable[str]) -> list[str]:
    """Column names with _2, _3 where a query gives one twice (SELECT a.id, b.id)."""
    found: list[str] = []
    for name in names:
        count, free = 1, name or "column"
        while free in found:
            count += 1
            free = f"{name or 'column'}_{count}"
        found.append(free)
    return found


def as_text(value: Any) -> str:
    """A plain value as it stands in a text: nothing for null, JSON for lists and objects."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _duration(value: datetime.timedelta) -> str:
    sign, value = ("-", -value) if value < datetime.timedelta(0) else ("", value)
    minutes, seconds = divmod(value.days * 86400 + value.seconds, 60)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{fraction}"


def _other(value: Any) -> Any:
    """UUIDs, addresses, ranges, object ids: their text. A text with a memory address would differ every time."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if hasattr(value, "to_decimal"):   # bson.Decimal128
        return plain_value(value.to_decimal())
    text = str(value)
    return type(value).__name__ if re.search(r"\bat 0x[0-9a-f]+", text) else text
