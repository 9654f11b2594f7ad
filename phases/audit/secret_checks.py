"""Tells a real secret or number from what only looks like one: by check digits, by context, by how random it looks."""

from __future__ import annotations

import re
from ipaddress import ip_address

_ADDRESS_WORD = re.compile(r"(?i)\bip(?:v4)?s?\b|_ip\b|addr|host|server|dns|ping|router|gateway|proxy|://")
_VERSION_WORD = re.compile(r"(?i)(?:\bversions?|\brelease|\bv|§|\bsections?|\bchapters?)[\s:.-]*$")
_FILE_ENDINGS = frozenset(("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "rs", "md", "html", "json", "toml"))
_PLACEHOLDER = re.compile(
    r"""(?ix) ^(?: [x*.•_#-]+ | <.* | \$\{?\w.* | %.*% | \{\{.* | your.* | my[_-]?\w* | (?:the|some|an?)[_-].* | \.\.\..*
      | change[_-]?(?:me|it)\W* | redacted | placeholder | example | none | null | nil | true | false | undefined
      | string | str | text | [a-z]+(?:_[a-z]+)+ | password | passwd | secret | token | required | optional | invalid
      | incorrect | process\.env.* | os\.environ.* | env\b.* | getenv.* | config\..* | self\..* | this\..* | request\..*
      | sha-?\d+ | md5 | bcrypt | argon2\w* | hs\d+ | rs\d+ | oauth2? | utf-?8 )$"""
)
_CODE = re.compile(
    r"\w\(|\]\(|::|://|->|\w\[|^[&*@!|/\\(\[{]|^\w+\.\w+\.\w+$|^https?://|^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$"
)


def luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(text: str) -> bool:
    """The check digits of a bank account number (ISO 13616: modulo 97 is 1)."""
    compact = re.sub(r"\s", "", text).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def is_card(match: re.Match[str]) -> bool:
    """A payment card: a known first digit and a right last one."""
    digits = re.sub(r"\D", "", match[0])
    known = re.match(r"4|5[1-5]|2[2-7]|3[4-8]|6[0-9]|50|5[6-9]", digits)
    return bool(known) and len(set(digits)) > 1 and luhn(digits)


def is_public_ip(match: re.Match[str]) -> bool:
    """A global address. Four small numbers are rather a version or a section, unless the text before tells otherwise."""
    try:
        address = ip_address(match[0])
    except ValueError:
        return False
    before = match.string[max(0, match.start() - 60) : match.start()]
    is_small = address.version == 4 and max(address.packed) < 32
    return (
        address.is_global and bool(not is_small or _ADDRESS_WORD.search(before)) and not _VERSION_WORD.search(before)
    )


def is_email(match: re.Match[str]) -> bool:
    """An address, not an image at a scale, a package at a version or a repository."""
    local, _, domain = match[0].rpartition("@")
    *labels, last = domain.lower().split(".")
    if local == "git" and match.string[match.end() : match.end() + 1] in {":", "/"}:
        return False  # the address of a repository
    return last not in _FILE_ENDINGS and not all(label.isdigit() for label in labels)


def is_ssn(match: re.Match[str]) -> bool:
    """A social security number that could have been issued."""
    area, group, serial = match[0].split("-")
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def is_assigned_secret(match: re.Match[str]) -> bool:
    """A value that a person or generator chose: no variable, call, type or blank of an example."""
    value, quoted = match["secret"], bool(match["quote"])
    if _PLACEHOLDER.search(value) or _CODE.search(value):
        return False
    classes = sum(bool(re.search(one, value)) for one in ("[a-z]", "[A-Z]", r"\d", r"[^\w\s]"))
    mixed = bool(re.search(r"\d", value) and re.search(r"[^\W\d]", value))
    if quoted:
        is_password = match["key"].lower() in {"password", "passwd", "passwort", "pwd", "passphrase", "kennwort"}
        return value == value.strip() and (mixed or classes >= 3 or (is_password and " " not in value))
    return mixed or (bool(re.search(r"[!@#$%^&*?+=~]", value)) and classes >= 2 and len(value) >= 8)


def is_spoken_password(match: re.Match[str]) -> bool:
    """"the password is hunter2": letters and digits, no code."""
    value = match["secret"]
    return bool(re.search(r"\d", value) and re.search(r"[^\W\d]", value)) and not _CODE.search(value)


def is_aws_secret(match: re.Match[str]) -> bool:
    """As mixed as 40 random characters are."""
    value = match["secret"]
    return all(len(re.findall(one, value)) >= least for one, least in (("[a-z]", 5), ("[A-Z]", 5), (r"\d", 2)))


def is_random(match: re.Match[str]) -> bool:
    """Letters and digits both."""
    return bool(re.search(r"\d", match[0]) and re.search(r"[A-Za-z]", match[0]))


def is_key_block(match: re.Match[str]) -> bool:
    """Small and capital letters and digits, as in any base64 of some length."""
    return all(re.search(one, match[0]) for one in ("[a-z]", "[A-Z]", r"\d"))
