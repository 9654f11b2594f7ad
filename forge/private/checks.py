"""Tells a real secret or number from what only looks like one: by check digits, by issued ranges, by how random it looks.

Each public function gets a match of a rule of configs/private.yaml and says whether it counts; CHECKS names them there.
The algorithms are those of the issuing offices, as python-stdnum documents them (https://arthurdejong.org/python-stdnum/).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from ipaddress import ip_address

Check = Callable[[re.Match[str]], bool]

_ADDRESS_WORD = re.compile(r"(?i)\bip(?:v[46])?s?\b|_ip\b|addr|host|server|client|dns|ping|router|gateway|proxy|login|logged|from|visitor|://")
_VERSION_WORD = re.compile(
    r"(?i)(?:\bversions?|\brelease|\bv|§|\bsections?|\bchapters?|\boids?|\bspec|\bappendix|\btable|\bfigure|\bgit|\bdpkg|\bprepare for|[<>=]=)[\s:.(\"'=-]*$"
    r"|(?:\bv8\b|\bupdated?\b|\bupgraded?\b|\bpatch|\bbump|\brelease|\bversion)[^\n]{0,40}$"
)
_WELL_KNOWN_IPS = frozenset((
    "8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "4.4.4.4", "1.2.3.4", "123.45.67.89", "192.0.0.9", "192.0.0.10", "2001:4860:4860::8888", "2001:4860:4860::8844",
    "2606:4700:4700::1111",
))
_FILE_ENDINGS = frozenset((
    "png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "rs", "md", "html", "json", "toml", "service", "socket",
    "timer", "target", "mount", "so", "path", "conf", "local", "internal", "localdomain",
))
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|\.)(?:(?:(?:my|your|some|the)-?(?:domain|company|host|email|server|site)|(?:my|your)?-?example\d?|domain)\.[a-z]{2,6}(?:\.[a-z]{2})?"
    r"|(?:foo|bar|baz|foobar)\.(?:com|org|net|edu)|example|test|invalid|localhost|x\.y)$"
)
_PLACEHOLDER = re.compile(
    r"""(?ix) ^(?: [x*.•_#?-]+ | [<\[{(].* | \$\{?\w.* | %.*%? | .*\{\{?.* | your.* | my[_-]?\w* | (?:the|some|any|an?)[_-].* | .*\.\.\..*
      | change[_-]?(?:me|it)\W* | redacted | placeholder | .*example.* | none | null | nil | true | false | undefined | not[_\s-].*
      | string | str | text | bytes | int | [a-z]+(?:[_-][a-z]+)+ | pass | (?:pass(?:wd|word|phrase)?|secret|token|key|value|foo|bar|user)\d{0,3}
      | (?:pass(?:word)?|secret)?123(?:4(?:5(?:6(?:78?9?0?)?)?)?)? | required | optional | invalid
      | incorrect | process\.env.* | os\.environ.* | env\b.* | getenv.* | config\..* | self\..* | this\..* | request\..*
      | [a-z]?sha-?\d+\w* | md5\w* | bcrypt | argon2\w* | [hrpe]s\d+ | oauth2?\w* | utf-?\d+ | (?-i:[a-z\\_.-]+(?:/[a-z0-9\\_.-]+)+) | base64 | x25519 | ed25519 | ipv[46] | unix\w* )$"""
)
_CODE = re.compile(
    r"\w\(|\]\(|::|://|->|=>|==|&&|\|\||\w\[|^[&*@!|/\\(\[{]|\)$|\\x|\\[nt]|^\w+(?:\.\w+){2,}$|^https?://|^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$|^-{1,2}\w|^\W+$"
    r"|^[A-Za-z]+\.[A-Za-z_]+$"
)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def luhn(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban(text: str) -> bool:
    """The check digits of a bank account number (ISO 13616: modulo 97 is 1)."""
    compact = re.sub(r"[\s-]", "", text).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def is_iban(match: re.Match[str]) -> bool:
    """An account number with right check digits."""
    return iban(match[0])


def is_card(match: re.Match[str]) -> bool:
    """A payment card: the length and first digits of an issuer, and a right last digit."""
    digits = _digits(match[0])
    if len(set(digits)) < 2 or (digits[0] == "2" and len(set(re.split(r"\D", match[0])[1:])) == 1):
        return False
    issuers = {
        14: r"30[0-5]|3[689]", 15: r"3[47]", 16: r"4|5[1-5]|2[2-7]|35[2-8]|6011|64[4-9]|65|62|50|5[6-8]|6304|67",
        17: r"62", 18: r"62", 19: r"4[0-9]|6011|65|62",
    }
    known = issuers.get(len(digits))
    return bool(known and re.match(known, digits)) and luhn(digits)


def is_public_ip(match: re.Match[str]) -> bool:
    """A global address of one machine that is no well-known resolver. Small numbers are rather a version, unless the words before tell otherwise."""
    try:
        address = ip_address(match[0])
    except ValueError:
        return False
    before = match.string[max(0, match.start() - 60) : match.start()]
    if match[0].lower() in _WELL_KNOWN_IPS or not address.is_global or address.is_multicast or len(set(match[0])) < 5:
        return False
    if re.match(r"/ ?\d", match.string[match.end() : match.end() + 3]) or re.search(r"(?:\.0|::|:0:0)$", match[0]):
        return False  # a network, not a machine
    if (_VERSION_WORD.search(before) and not _ADDRESS_WORD.search(before[-24:])) or match.string.startswith(".in-addr", match.end()):
        return False
    is_small = address.version == 4 and (max(address.packed) < 64 or address.packed[0] < 10)
    return not is_small or bool(_ADDRESS_WORD.search(before[-28:]))


def is_email(match: re.Match[str]) -> bool:
    """An address of somebody: not of an example domain, no image at a scale, package at a version or repository."""
    local, _, domain = match[0].lower().replace("%40", "@").rpartition("@")
    *labels, last = domain.split(".")
    if local in {"git", "hg", "svn"} or (match.string[match.end() : match.end() + 1] == ":" and match.string[match.end() + 1 : match.end() + 2].isalpha()):
        return False  # the address of a repository
    if last in _FILE_ENDINGS and len(labels) > 1 and re.fullmatch(r"com|org|net|edu|gov|io|eu|de|uk|fr|es|it|nl|ch|at|br|us|in", labels[-1]):
        *labels, last = labels  # a file that is named after a person
    return last not in _FILE_ENDINGS and not all(label.isdigit() for label in labels) and not _EXAMPLE_DOMAIN.search(domain)


def is_spelled_email(match: re.Match[str]) -> bool:
    """"jane [at] lab [dot] org", of no example domain."""
    domain = re.sub(r"(?i)\s?[\[(]\s?dot\s?[\])]\s?", ".", re.split(r"(?i)[\[(]\s?at\s?[\])]| at ", match[0])[-1].replace(" dot ", ".").strip()).lower()
    return not _EXAMPLE_DOMAIN.search(domain)


_CALLING_CODE = re.compile(
    r"7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2[1-689]\d|3[578]\d|42[013]|5[09]\d|6[789]\d|8[05-8]\d|9[679]\d"
)
"""ITU-T E.164 country codes, without 1."""


def is_international_phone(match: re.Match[str]) -> bool:
    """A number with an assigned country code and a possible length (ITU-T E.164)."""
    digits = _digits(match[0].replace("(0)", ""))
    if digits[0] == "1":
        return len(digits) == 11 and _is_north_american(digits[1:])
    if re.fullmatch(r"\+\d+\.\d+", match[0]):
        return False  # a decimal
    return 9 <= len(digits) <= 15 and _CALLING_CODE.match(digits) is not None and len(set(digits)) > 3


def is_north_american_phone(match: re.Match[str]) -> bool:
    """A number that could be assigned in the North American plan; 555-01xx is kept for fiction."""
    return _is_north_american(_digits(match["secret"])[-10:])


def _is_north_american(digits: str) -> bool:
    fiction = digits[3:8] == "55501"
    return re.fullmatch(r"[2-9](?!11)\d{2}[2-9](?!11)\d{6}", digits) is not None and not fiction and len(set(digits)) > 3


def is_labelled_phone(match: re.Match[str]) -> bool:
    """Seven to fourteen digits that the words before call a phone number."""
    digits = _digits(match["secret"])
    return 7 <= len(digits) <= 14 and len(set(digits)) > 2 and not re.fullmatch(r"(?:\d{3})?55501\d\d|1?234567890?|(?:19|20)\d{6}", digits)


def is_ssn(match: re.Match[str]) -> bool:
    """A US social security number that could have been issued."""
    digits = _digits(match["secret"])
    if digits in {"078051120", "219099999", "123456789", "987654321"}:
        return False  # printed in advertisements, never valid again
    return digits[:3] not in {"000", "666"} and digits < "900" and digits[3:5] != "00" and digits[5:] != "0000"


def is_german_tax_id(match: re.Match[str]) -> bool:
    """Steuer-Identifikationsnummer: one digit twice or three times among the first ten, ISO 7064 MOD 11,10."""
    digits = _digits(match["secret"])
    counts = Counter(digits[:10])
    if len(digits) != 11 or digits[0] == "0" or sorted(counts.values())[-1] not in (2, 3) or len(counts) not in (8, 9):
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def is_french_nir(match: re.Match[str]) -> bool:
    """Numéro de sécurité sociale: 13 places and 97 minus their remainder."""
    compact = re.sub(r"\s", "", match[0])
    body = compact[:13].replace("2A", "19").replace("2B", "18")
    month = int(compact[3:5])
    return body.isdigit() and (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(body) % 97 == int(compact[13:])


def is_spanish_id(match: re.Match[str]) -> bool:
    """DNI or NIE: the letter is the number modulo 23."""
    compact = re.sub(r"[\s.-]", "", match[0]).upper()
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return number.isdigit() and len(set(number)) > 2 and "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23
), strict=True))


def is_codice_fiscale(match: re.Match[str]) -> bool:
    """The Italian tax code with its check letter."""
    code = match[0].upper()
    even = sum(int(one) if one.isdigit() else ord(one) - 65 for one in code[1:15:2])
    return chr(65 + (sum(_ODD[one] for one in code[0:15:2]) + even) % 26) == code[15]


def is_dutch_bsn(match: re.Match[str]) -> bool:
    """Burgerservicenummer: the eleven test, last digit weighted -1."""
    digits = _digits(match["secret"]).zfill(9)
    return len(set(digits)) > 2 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def is_nhs_number(match: re.Match[str]) -> bool:
    """The ten digits of the British health service, modulo 11."""
    digits = _digits(match["secret"])
    return len(set(digits)) > 2 and (11 - _weighted(digits, tuple(range(10, 1, -1))) % 11) % 11 == int(digits[9])


def is_pesel(match: re.Match[str]) -> bool:
    """The Polish number: a date of birth in it and a check digit."""
    digits = _digits(match["secret"])
    month = int(digits[2:4]) % 20
    return 1 <= month <= 12 and 1 <= int(digits[4:6]) <= 31 and -_weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10 == int(digits[10])


def is_belgian_number(match: re.Match[str]) -> bool:
    """Rijksregisternummer: 97 minus the first nine digits (with a leading 2 from the year 2000 on)."""
    digits = _digits(match["secret"])
    return int(digits[2:4]) <= 12 and int(digits[9:]) in {97 - int(lead + digits[:9]) % 97 for lead in ("", "2")}


def is_swiss_ahv(match: re.Match[str]) -> bool:
    """The Swiss social insurance number, an EAN-13 that begins with 756."""
    digits = _digits(match[0])
    return -_weighted(digits, (1, 3) * 6) % 10 == int(digits[12])


def is_brazilian_cpf(match: re.Match[str]) -> bool:
    """CPF: two check digits modulo 11."""
    digits = _digits(match["secret"])
    first = _weighted(digits, tuple(range(10, 1, -1))) * 10 % 11 % 10
    second = _weighted(digits, tuple(range(11, 1, -1))) * 10 % 11 % 10
    return len(set(digits)) > 2 and digits[9:] == f"{first}{second}"


def is_personnummer(match: re.Match[str]) -> bool:
    """The Swedish number: a date and the check digit of cards."""
    digits = _digits(match["secret"])[-10:]
    return 1 <= int(digits[2:4]) <= 12 and 1 <= int(digits[4:6]) % 60 <= 31 and luhn(digits)


def is_canadian_sin(match: re.Match[str]) -> bool:
    """The Canadian social insurance number."""
    digits = _digits(match["secret"])
    return digits[0] != "8" and luhn(digits)


def is_chinese_id(match: re.Match[str]) -> bool:
    """The 18 places of GB 11643: a date of birth and ISO 7064 MOD 11-2."""
    text = match[0].upper()
    try:
        date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    return "10X98765432"[_weighted(text[:17], tuple(2 ** (17 - place) % 11 for place in range(17))) % 11] == text[17]


_VERHOEFF = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def is_aadhaar(match: re.Match[str]) -> bool:
    """The Indian number, with Verhoeff's check digit."""
    check = 0
    for place, digit in enumerate(reversed(_digits(match["secret"]))):
        check = _dihedral(check, int(_VERHOEFF[place % 8][int(digit)]))
    return check == 0


def _dihedral(left: int, right: int) -> int:
    """The product in the group of the pentagon's ten motions."""
    turned = (left + right) % 5 if left < 5 else (left - right) % 5
    return turned + 5 * ((left >= 5) != (right >= 5))


def has_digits(match: re.Match[str]) -> bool:
    """At least four digits: what a number of a document has, and a word after its label has not."""
    return len(_digits(match["secret"])) >= 4


def is_assigned_secret(match: re.Match[str]) -> bool:
    """A value that a person or generator chose: no variable, call, type or blank of an example."""
    value, quoted = match["secret"], bool(match["quote"])
    if _PLACEHOLDER.search(value) or _CODE.search(value):
        return False
    classes = sum(bool(re.search(one, value)) for one in ("[a-z]", "[A-Z]", r"\d", r"[^\w\s]"))
    mixed = bool(re.search(r"\d", value) and re.search(r"[^\W\d]", value))
    if match["key"].lower() in {"pass", "pw"}:
        return classes >= 3  # "PASS: align2" is a test that passed
    if "," in match.string[match.end("key") : match.start("secret")]:
        return mixed  # an argument after the name, or just two words of a list
    if quoted:
        is_password = match["key"].lower() in {"password", "passwd", "passwort", "pwd", "passphrase", "kennwort"}
        return " " not in value and (mixed or classes >= 3 or (is_password and len(value) >= 6))
    return (mixed and len(value) >= 6) or (bool(re.search(r"[!@#$%^&*?+=~]", value)) and classes >= 3 and len(value) >= 8)


def is_spoken_password(match: re.Match[str]) -> bool:
    """"the password is hunter2": letters and digits, no code."""
    value = match["secret"]
    return bool(re.search(r"\d", value) and re.search(r"[^\W\d]", value)) and not _CODE.search(value) and not _PLACEHOLDER.search(value)


def is_url_password(match: re.Match[str]) -> bool:
    """What somebody chose, where a manual would write "password"."""
    if re.match(r"(?i)@(?:\w+\.)?(?:example|host|server)\b", match.string[match.end("secret") : match.end("secret") + 40]) and match["secret"].isalpha():
        return False
    return not re.fullmatch(r"(?i)p(?:ass)?w(?:or)?[dt]|pass|secret|user\w*|token|your.*|x+|\*+|\.+|postgres|root|guest|admin|example|xyz|abc|123|\d{2,5}/.*", match["secret"])


def is_mixed(match: re.Match[str]) -> bool:
    """As mixed as 40 random characters are."""
    value = match["secret"]
    return all(len(re.findall(one, value)) >= least for one, least in (("[a-z]", 5), ("[A-Z]", 5), (r"\d", 2)))


def is_random(match: re.Match[str]) -> bool:
    """Letters and digits both, and more than a few different ones: no row of x."""
    value = match.groupdict().get("secret") or match[0]
    return bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value)) and len(set(value)) >= 8


def is_key_block(match: re.Match[str]) -> bool:
    """Small and capital letters and digits in every line, as in any base64 of some length."""
    lines = match[0].split()
    around = match.string[max(0, match.start() - 300) : match.start()] + match.string[match.end() : match.end() + 100]
    if re.search(r"(?:BEGIN|END) [A-Z0-9 ]*(?:PUBLIC KEY|CERTIFICATE|SIGNATURE|MESSAGE|REQUEST)", around):
        return False
    return all(all(re.search(one, line) for one in ("[a-z]", "[A-Z]", r"\d")) for line in lines[:2])


CHECKS: dict[str, Check] = {
    "aadhaar": is_aadhaar, "assigned": is_assigned_secret, "belgian": is_belgian_number, "bsn": is_dutch_bsn, "card": is_card,
    "chinese": is_chinese_id, "codice_fiscale": is_codice_fiscale, "cpf": is_brazilian_cpf, "email": is_email,
    "german_tax": is_german_tax_id, "digits": has_digits, "iban": is_iban, "international_phone": is_international_phone,
    "ip": is_public_ip, "key_block": is_key_block, "labelled_phone": is_labelled_phone, "mixed": is_mixed, "nhs": is_nhs_number,
    "nir": is_french_nir, "north_american_phone": is_north_american_phone, "personnummer": is_personnummer, "pesel": is_pesel,
    "random": is_random, "sin": is_canadian_sin, "spanish": is_spanish_id, "spelled_email": is_spelled_email,
    "spoken": is_spoken_password, "ssn": is_ssn, "swiss": is_swiss_ahv, "url_password": is_url_password,
}
