"""configs/private.yaml as rules: what each looks for, where it is worth looking, and what it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from forge.config import load_data
from forge.private.checks import CHECKS, Check

FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
REACH = (60, 400)
"""Characters before and behind an anchor in which a rule looks, unless it says otherwise. A word at the end is never cut."""

SHAPES: dict[str, re.Pattern[str]] = {
    "number": re.compile(r"\d(?:[ ./()-]{0,2}\d){6,}"),
    "dotted": re.compile(r"\.\d{1,3}\.\d{1,3}\.\d"),
    "colons": re.compile(r":[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]"),
    "country_digits": re.compile(r"[A-Z]{2} ?\d\d"),
    "letters_digits": re.compile(r"[A-Z]{6}\d\d[A-Z]\d"),
    "base64": re.compile(r"\n[ \t]*[A-Za-z0-9+/]{60}"),
    "dotted_token": re.compile(r"[MNO][\w-]{22,27}\.[\w-]{6,7}\."),
    "twilio": re.compile(r"SK[0-9a-f]{8}"),
}
"""What numbers and tokens without a fixed word in them contain: one cheap look for all rules that are `near` it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of secret (`is_secret`) or personal item.

    then: what must follow an anchor right away. near: a name of SHAPES, in at least `digits` characters.
    """

    kind: str
    is_secret: bool
    placeholder: str
    regex: re.Pattern[str]
    anchors: tuple[str, ...]
    then: re.Pattern[str] | None
    near: str
    digits: int
    before: int
    behind: int
    check: Check
    has_group: bool


@cache
def load_rules() -> tuple[Rule, ...]:
    """All rules, in the order in which they are tried."""
    told = load_data("private")
    return tuple(_rule(row, part == "secrets") for part in ("secrets", "personal") for row in told[part])


def _rule(row: Mapping[str, Any], is_secret: bool) -> Rule:
    token = row.get("token")
    pattern = rf"(?<![A-Za-z0-9_])(?:{token})(?![A-Za-z0-9])" if token else row["find"]
    flags = re.RegexFlag(0)
    for letter in row.get("flags", ""):
        flags |= FLAGS[letter]
    regex = re.compile(pattern, flags)
    before, behind = row.get("reach", REACH)
    name = row.get("check", "random" if token else "")
    return Rule(
        kind=row["kind"], is_secret=is_secret, placeholder=row["as"], regex=regex, anchors=tuple(row.get("anchors", ())),
        then=re.compile(row["then"]) if "then" in row else None,
        near=row.get("near", ""), digits=row.get("digits", 0), before=before, behind=behind,
        check=CHECKS[name] if name else lambda match: True, has_group="secret" in regex.groupindex,
    )
