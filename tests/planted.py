"""Secrets and personal data that nobody has: made up from a seed, with right check digits, each in the words that it comes in.

Assembled from parts, so that no scanner takes this file for a leak. The check digits are computed here by other means than in
forge/private where that is easy (by trying the ten digits or 23 letters against the definition).
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable
from typing import NamedTuple

LETTERS = string.ascii_letters + string.digits
HEX = string.digits + "abcdef"
UPPER = string.ascii_uppercase + string.digits


class Planted(NamedTuple):
    """One item: its kind, the value that must be gone, and the line of text that holds it."""

    kind: str
    value: str
    line: str

    @property
    def parts(self) -> list[str]:
        """What must not be found anywhere: the value, or each long line of it."""
        return [part for part in self.value.split("\n") if len(part) > 20] or [self.value]


Make = Callable[[random.Random], str]


def _chars(dice: random.Random, size: int, alphabet: str = LETTERS) -> str:
    text = "".join(dice.choices(alphabet, k=size))
    is_mixed = size < 5 or (any(c.isdigit() for c in text) and any(c.isalpha() for c in text))
    return text if is_mixed else _chars(dice, size, alphabet)


def _digits(dice: random.Random, size: int) -> str:
    text = "".join(dice.choices(string.digits, k=size))
    return text if len(set(text)) > min(3, size - 1) else _digits(dice, size)


def _token(form: str) -> Make:
    """ "ghp_{a36}": a = letters and digits, x = hex, u = capitals, d = digits, w = a with _ and -; the number is how many."""
    alphabets = {"a": LETTERS, "x": HEX, "u": UPPER, "w": LETTERS + "_-"}

    def make(dice: random.Random) -> str:
        text = ""
        for place, part in enumerate(form.replace("}", "{").split("{")):
            if place % 2 == 0:
                text += part
            elif part[0] == "d":
                text += _digits(dice, int(part[1:]))
            else:
                text += _chars(dice, int(part[1:]) - 1, alphabets[part[0]]) + dice.choice("2357")
        return text

    return make


def _jwt(dice: random.Random) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': _digits(dice, 10), 'iat': 1700000000 + dice.randrange(10**7)})}.{_chars(dice, 43)}"


def _key_block(dice: random.Random) -> str:
    name = dice.choice(("RSA PRIVATE", "OPENSSH PRIVATE", "PRIVATE", "EC PRIVATE"))
    body = "\n".join(_chars(dice, 64, LETTERS + "+/") for _ in range(dice.randrange(6, 24)))
    return f"-----BEGIN {name} KEY-----\n{body}\n-----END {name} KEY-----"


def _pgp_block(dice: random.Random) -> str:
    body = "\n".join(_chars(dice, 64, LETTERS + "+/") for _ in range(12))
    return f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{body}\n=aB3d\n-----END PGP PRIVATE KEY BLOCK-----"


def _password(dice: random.Random) -> str:
    return dice.choice(("Winter", "blue", "Zebra", "mango", "Turm", "kayak")) + dice.choice("!#_-+") + _digits(dice, 4) + dice.choice("!xQz")


SECRETS: dict[str, tuple[Make, tuple[str, ...]]] = {
    "aws key id": (_token("AKIA{u16}"), ("aws_access_key_id = {}", "The access key {} was rotated.")),
    "aws secret key": (_token("{a19}/{a20}"), ("aws_secret_access_key = {}", "AWS_SECRET_ACCESS_KEY={}")),
    "google key": (_token("AIza{w35}"), ("maps?key={}&q=Berlin", 'const key = "{}";')),
    "azure storage key": (_token("{a85}a=="), ("DefaultEndpointsProtocol=https;AccountName=mill;AccountKey={};EndpointSuffix=core.windows.net",)),
    "azure client secret": (_token("{a2}78Q~{a33}.x"), ("AZURE_CLIENT_SECRET={}", "The app uses {} to sign in.")),
    "github token": (_token("ghp_{a36}"), ("git clone https://{}@github.com/mill/wheel", "GITHUB_TOKEN: {}", "token {} in the log")),
    "github fine-grained": (_token("github_pat_{a22}_{a59}"), ("gh auth login --with-token {}",)),
    "gitlab token": (_token("glpat-{a20}"), ("PRIVATE-TOKEN: {}", "The runner has {} in its settings.")),
    "slack token": (_token("xoxb-{d12}-{d12}-{a24}"), ("SLACK={}", "The bot posts with {}.")),
    "slack webhook": (_token("https://hooks.slack.com/services/T{u9}/B{u9}/{a24}"), ("curl -X POST {}",)),
    "stripe key": (_token("sk_live_{a24}"), ('stripe.api_key = "{}"', "charged with {}")),
    "anthropic key": (_token("sk-ant-api03-{w92}A"), ("ANTHROPIC_API_KEY={}", "x-api-key: {}")),
    "openai key": (_token("sk-proj-{a60}"), ("OPENAI_API_KEY={}", "Use {} for the demo.")),
    "huggingface token": (_token("hf_{a34}"), ("huggingface-cli login --token {}", "HF_TOKEN={}")),
    "npm token": (_token("npm_{a36}"), ("//registry.npmjs.org/:_authToken={}",)),
    "pypi token": (_token("pypi-AgEIcHlwaS5vcmc{a100}"), ("password = {}", "twine upload -u __token__ -p {}")),
    "sendgrid key": (_token("SG.{a22}.{a43}"), ("SENDGRID={}", "mail goes out with {}")),
    "twilio key": (_token("SK{x32}"), ("twilio sid {} and so on", "TWILIO={}")),
    "jwt": (_jwt, ("Cookie: session={}", "Authorization: Bearer {}")),
    "private key": (_key_block, ("The key of the server:\n{}\nKeep it.",)),
    "pgp key": (_pgp_block, ("Import this:\n{}\nand trust it.",)),
    "basic auth url": (_password, ("https://miller:{}@intranet.mill-works.de/wiki", "git remote add origin https://bot:{}@git.mill-works.de/x.git")),
    "database url": (_password, ("postgres://app:{}@db.internal:5432/grain", "mongodb+srv://root:{}@cluster0.ab1cd.mongodb.net/x", "redis://:{}@10.0.0.5:6379/0")),
    "assigned password": (_password, ('password = "{}"', "DB_PASSWORD={}", "passwd: {}", '{{"password": "{}"}}', "the password is {}.")),
    "assigned api key": (_token("{a32}"), ("api_key: {}", 'API_KEY="{}"', '"client_secret": "{}"', "secret_key = '{}'")),
    "telegram token": (_token("{d9}:AA{w32}A"), ("bot {} answers", "TELEGRAM={}")),
    "discord token": (_token("MT{a24}.G{a5}.{w37}A"), ("DISCORD={}", "client.run('{}')")),
    "digitalocean token": (_token("dop_v1_{x64}"), ("doctl auth init -t {}",)),
    "gitlab ci bearer": (_token("{a40}"), ("Authorization: Bearer {}", "curl -H 'Authorization: Bearer {}' https://api.mill-works.de")),
    "databricks token": (_token("dapi{x32}"), ("DATABRICKS={}",)),
    "shopify token": (_token("shpat_{x32}"), ("X-Shopify-Access-Token: {}",)),
    "vault token": (_token("hvs.{a24}"), ("vault login {}",)),
    "docker token": (_token("dckr_pat_{a27}"), ("docker login -u miller -p {}",)),
}


def _first(text: str, digits: str, holds: Callable[[str], bool]) -> str:
    """`text` with the first of `digits` in place of "?" for which the definition holds; "" when there is none."""
    return next((one for one in (text.replace("?", digit) for digit in digits) if holds(one)), "")


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _email(dice: random.Random) -> str:
    first, last = dice.choice(("anna", "jörg", "m.luisa", "Peter", "li")), dice.choice(("weber", "o-brien", "garcia", "nowak"))
    return f"{first}.{last}{dice.randrange(100)}@{dice.choice(('mill-works.de', 'uni-tuebingen.de', 'gmail.com', 'grain.co.uk', 'ufmg.br'))}"


def _international_phone(dice: random.Random) -> str:
    form = dice.choice(("+49 30 {}-{}", "+33 6 {} {} 12 47", "+44 20 7{} {}", "+1 415 {}-{}9", "+39 06 {}{}", "+34 6{} {}128"))
    return form.format("6" + _digits(dice, 2), _digits(dice, 3))


def _card(dice: random.Random) -> str:
    start, form = dice.choice((("4539", "{}{}{}{} {}{}{}{} {}{}{}{} {}{}{}{}"), ("5412", "{}{}{}{}-{}{}{}{}-{}{}{}{}-{}{}{}{}"), ("4916", "{}" * 16), ("371", "{}{}{}{} {}{}{}{}{}{} {}{}{}{}{}")))
    size = form.count("{")
    digits = _first(start + _digits(dice, size - len(start) - 1) + "?", string.digits, _luhn)
    return form.format(*digits)


def _iban(dice: random.Random) -> str:
    country, size = dice.choice((("DE", 18), ("FR", 23), ("NL", 0), ("AT", 16), ("ES", 20)))
    body = _digits(dice, size) if size else "ABNA" + _digits(dice, 10)
    number = int("".join(str(int(c, 36)) for c in body + country + "00"))
    whole = f"{country}{98 - number % 97:02}{body}"
    return " ".join(whole[i : i + 4] for i in range(0, len(whole), 4)) if dice.random() < 0.6 else whole


def _ssn(dice: random.Random) -> str:
    return f"{dice.randrange(100, 600):03}-{dice.randrange(1, 99):02}-{dice.randrange(1000, 9999)}"


def _german_tax(dice: random.Random) -> str:
    while True:
        ten = dice.sample("0123456789", 9)
        ten.insert(dice.randrange(1, 9), dice.choice(ten))
        if ten[0] == "0" or any(ten[i] == ten[i + 1] for i in range(9)):
            continue
        product = 10
        for digit in ten:
            product = 2 * ((int(digit) + product) % 10 or 10) % 11
        whole = "".join(ten) + str((11 - product) % 10)
        return whole if dice.random() < 0.5 else f"{whole[:2]} {whole[2:5]} {whole[5:8]} {whole[8:]}"


def _nir(dice: random.Random) -> str:
    body = f"{dice.choice('12')}{dice.randrange(40, 99)}{dice.randrange(1, 13):02}{dice.randrange(1, 95):02}{dice.randrange(1, 900):03}{dice.randrange(1, 900):03}"
    key = f"{97 - int(body) % 97:02}"
    return body + key if dice.random() < 0.3 else f"{body[0]} {body[1:3]} {body[3:5]} {body[5:7]} {body[7:10]} {body[10:]} {key}"


def _dni(dice: random.Random) -> str:
    number = _digits(dice, 8)
    return f"{number}{dice.choice(('', '-'))}{'TRWAGMYFPDXBNJZSQVHLCKE'[int(number) % 23]}"


def _codice_fiscale(dice: random.Random) -> str:
    odd = dict(zip(UPPER[26:] + UPPER[:26], (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2 + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23), strict=True))
    code = "".join(dice.choices("BCDFGLMNPRST", k=6)) + f"{dice.randrange(40, 99)}{dice.choice('ABCDEHLMPRST')}{dice.randrange(1, 29):02}H{dice.randrange(100, 999)}"
    total = sum(odd[c] if place % 2 == 0 else (int(c) if c.isdigit() else ord(c) - 65) for place, c in enumerate(code))
    return code + chr(65 + total % 26)


def _nino(dice: random.Random) -> str:
    head, digits = dice.choice(("AB", "CE", "JK", "PW", "SX")), _digits(dice, 6)
    return dice.choice((f"{head}{digits}C", f"{head} {digits[:2]} {digits[2:4]} {digits[4:]} A"))


def _bsn(dice: random.Random) -> str:
    while True:
        found = _first(_digits(dice, 8) + "?", string.digits, lambda text: sum(int(c) * w for c, w in zip(text, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0)
        if found:
            return found


def _ip(dice: random.Random) -> str:
    return f"{dice.choice((52, 84, 93, 165, 185, 203))}.{dice.randrange(1, 99)}.{dice.randrange(120, 250)}.{dice.randrange(1, 250)}"


def _ipv6(dice: random.Random) -> str:
    return f"2a00:{dice.randrange(0x1000, 0xFFFF):x}:{dice.randrange(0x1000, 0xFFFF):x}:{dice.randrange(0x100, 0xFFF):x}::{dice.randrange(0x10, 0xFFFF):x}"


MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")


def _date(dice: random.Random) -> str:
    day, month, year = dice.randrange(1, 28), dice.randrange(1, 13), dice.randrange(1940, 2005)
    name = MONTHS[month - 1]
    return dice.choice((f"{day:02}.{month:02}.{year}", f"{year}-{month:02}-{day:02}", f"{month}/{day}/{year}", f"{day} {name} {year}", f"{name} {day}, {year}"))


def _street(dice: random.Random) -> str:
    number = dice.randrange(1, 300)
    return dice.choice((f"{number} Maple Grove Road", f"Lindenstraße {number}", f"{number} rue des Moulins", f"{number} Elm Street, Apt 4B", f"Am Mühlbach Weg {number}", f"Calle Mayor, {number}"))


PERSONAL: dict[str, tuple[Make, tuple[str, ...]]] = {
    "email": (_email, ("Write to {} for details.", "From: Anna <{}>", "mailto:{}", "| miller | {} |")),
    "spelled email": (lambda dice: _email(dice).replace("@", " [at] ").replace(".de", " [dot] de").replace(".com", " [dot] com"), ("mail: {}",)),
    "international phone": (_international_phone, ("Call {} after noon.", "Tel.: {}", "| Anna | {} |")),
    "american phone": (lambda dice: f"({dice.choice((206, 312, 415, 617, 808))}) {dice.randrange(312, 411)}-{_digits(dice, 4)}", ("Call {} now.", "Phone: {}")),
    "american phone, dashes": (lambda dice: f"{dice.choice((212, 415, 617, 808))}-{dice.randrange(312, 411)}-{_digits(dice, 4)}", ("fax {}", "reach us at {}.")),
    "national phone": (lambda dice: dice.choice(("030 {}{}", "0171-{}{}", "(089) {} {}", "020 7{} {}")).format("4" + _digits(dice, 3), _digits(dice, 3)), ("Telefon: {}", "Mobile {}", "phone number is {}")),
    "iban": (_iban, ("IBAN {}", "Pay to {} by Friday.", "account {}")),
    "card": (_card, ("card {} expires soon", "Paid with {}.", "| Visa | {} |")),
    "us ssn": (_ssn, ("SSN {}", "His number {} is on file.")),
    "german tax id": (_german_tax, ("Steuer-ID: {}", "IdNr. {}", "tax id {}")),
    "french nir": (_nir, ("N° de sécurité sociale : {}", "NIR {}")),
    "spanish dni": (_dni, ("DNI {}", "con documento {}.")),
    "codice fiscale": (_codice_fiscale, ("codice fiscale {}", "CF: {}")),
    "uk nino": (_nino, ("National Insurance number {}", "NI no. {}")),
    "dutch bsn": (_bsn, ("BSN {}", "burgerservicenummer: {}")),
    "public ip": (_ip, ("Login from {} at night.", "client {} connected", "| host | {} |")),
    "public ipv6": (_ipv6, ("resolver {} answered",)),
    "birth date": (_date, ("Date of birth: {}", "DOB: {}", "geboren, Geburtsdatum: {}", "born on {} in Ulm")),
    "passport": (lambda dice: dice.choice("CFGHJK") + _digits(dice, 8), ("Passport number: {}", "passport no. {}", "Reisepass {}")),
    "street": (_street, ("Address: {}", "Home address: {}", "She lives at {}.")),
}


def plant(table: dict[str, tuple[Make, tuple[str, ...]]], count: int, seed: int = 11) -> list[Planted]:
    """`count` items, the kinds in turn, no value twice."""
    dice = random.Random(seed)
    found: list[Planted] = []
    seen: set[str] = set()
    kinds = list(table)
    while len(found) < count:
        kind = kinds[len(found) % len(kinds)]
        make, forms = table[kind]
        value = make(dice)
        if value and value not in seen:
            seen.add(value)
            found.append(Planted(kind, value, forms[len(found) // len(kinds) % len(forms)].format(value)))
    return found
