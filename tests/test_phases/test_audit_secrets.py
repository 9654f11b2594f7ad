"""Secrets are masked whatever their kind, nowhere left behind, and prose is left alone. All secrets here are made up."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path

import pytest

from forge.phases.audit import phase
from forge.phases.audit.settings import AuditSettings
from forge.private import mask
from forge.private.checks import iban, luhn
from forge.records import Document, Passage, Source, write_jsonl
from forge.testing import run_phase

_random = random.Random(5)


def chars(n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """n random characters; the first ones make sure that letters and digits occur."""
    return ("aB3" + "".join(_random.choices(alphabet, k=n)))[:n]


HEX = string.digits + "abcdef"
KEY_LINES = "\n".join(chars(64) for _ in range(12))

PLANTED = {  # what surrounds it -> the secret; assembled here so that no scanner takes this file for a leak
    "export ANTHROPIC_API_KEY={}": "sk-ant-" + "api03-" + chars(90),
    "openai.api_key = {}": "sk-" + chars(48),
    "the project key is {}, said the log": "sk-" + "proj-" + chars(40) + "_" + chars(20) + "-" + chars(10),
    "login with {} on the hub": "hf_" + chars(34),
    "aws_access_key_id = {}": "AKIA" + "".join(_random.choices(string.ascii_uppercase + string.digits, k=15)) + "7",
    "aws_secret_access_key = {}": chars(20) + "/" + chars(19),
    "The AWS user was given {} as its secret": chars(14) + "/" + chars(12) + "+" + chars(12),
    "maps?key={}&q=Berlin": "AIza" + chars(35),
    "client secret {} for OAuth": "GOCSPX-" + chars(28),
    "git clone with {} as user": "ghp_" + chars(36),
    "fine-grained: {}": "github_pat_" + chars(22) + "_" + chars(59),
    "glab auth {}": "glpat-" + chars(20),
    "slack bot {} posts": "xoxb-" + "123456789012-" + chars(24),
    "post to {} daily": "https://hooks.slack.com/" + "services/T0" + chars(8) + "/B0" + chars(8) + "/" + chars(24),
    "stripe.api_key: {}": "sk_live_" + chars(24),
    "SENDGRID={}": "SG." + chars(22) + "." + chars(43),
    "//registry.npmjs.org/:_authToken={}": "npm_" + chars(36),
    "twine upload -p {}": "pypi-" + chars(60),
    "bot {} answers": "123456789:AA" + chars(33),
    "Cookie: session={}": "eyJ" + chars(20) + ".eyJ" + chars(40) + "." + chars(43),
    "Authorization: Bearer {}": chars(40),
    "postgres://app:{}@db.internal:5432/x": "Pr0d-" + chars(8),
    "DB_PASSWORD={}": "hunter2" + "!x",
    'password: "{}"': "Swordfish",
    "the password is {}.": "Tr0ub4dor&3",
    '{{"client_secret": "{}"}}': chars(32),
    "mysql --password {} -u root": "S3cret" + chars(5),
    "write to {} for details": "jane.doe+lab@uni-example.de",
    "mail {} please": "müller@exämple.de",
    "mail: {}": "jane [at] lab [dot] org",
    "IBAN {} at the bank": "DE89 3704 0044 0532 0130 00",
    "pay from {} today": "GB82WEST12345698765432",
    "card {} expires": "4111 1111 1111 1111",
    "amex {} expires": "3782-822463-10005",
    "SSN {} on file": "536-90-4399",
    "call {} now": "+49 30 901820-55",
    "host {} answered": "165.225.50.94",
    "resolver {} answered": "2a00:1450:4001:81b::200e",
    "{}": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + KEY_LINES + "\n-----END RSA " + "PRIVATE KEY-----",
    "cut off: {}": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + KEY_LINES[:400],
    "the rest:\n{}": KEY_LINES + "\n-----END " + "PRIVATE KEY-----",
    "a middle part:\n{}\n": KEY_LINES,
}


@pytest.mark.parametrize(("around", "secret"), PLANTED.items())
def test_a_planted_secret_is_masked_and_the_text_around_it_stays(around: str, secret: str) -> None:
    text = "Before it. " + around.format(secret) + " After it."
    masked, found = mask(text)
    assert sum(found.values()) >= 1
    assert secret not in masked
    assert not any(part in masked for part in secret.split("\n") if len(part) > 5)
    assert masked.startswith("Before it.")
    assert masked.endswith("After it.")
    assert mask(masked) == (masked, {})


INNOCENT = [
    "In version 4.13.0.1 the section 5.1.4.2 was rewritten; see RFC 9110, sections 8.8.3.2 and 2.16.840.1.",
    "The password must have at least twelve characters. Password: required. A secret is kept by two.",
    "let token = iter.next(); let secret_number = rand::thread_rng().gen_range(1..=100);",
    "password = os.environ['DB_PASSWORD'] and api_key = settings.API_KEY, or token: String in the struct.",
    'api_key = "<your key here>"; password: "${DB_PASSWORD}"; secret = "changeme"; token = "xxxxxxxx"',
    "The commit 3f786850e387550fdab836ed7e6dc881de23001b fixed it; its sha256 is "
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.",
    "Call 555-2368 between 2019-2021; the ISBN is 978-3-16-148410-0 and the order number 4111111111111112.",
    "The loopback is 127.0.0.1, the router 192.168.0.1, the documentation range 192.0.2.1 and 2001:db8::1.",
    "git clone git@github.com:rust-lang/book.git and look at icon@2x.png",
    "At 12:30:45 the ratio was 16:9, std::vec::Vec grew by 1,000,000,000,000 and pi is 3.14159265358979.",
    "Smith et al. (2020) and [12, 13] report p < 0.05 for the sk-learn and hf_transfer packages.",
    "use crate::front_of_house::hosting::add_to_waitlist; see https://example.org/a/very/long/path/to/Some/Page42",
]


@pytest.mark.parametrize("text", INNOCENT)
def test_text_without_secrets_is_left_alone(text: str) -> None:
    assert mask(text) == (text, {})


def test_check_digits() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert iban("GB82 WEST 1234 5698 7654 32")
    assert not iban("GB82 WEST 1234 5698 7654 33")


def test_no_output_of_audit_contains_a_planted_secret(tmp_path: Path) -> None:
    """Secrets in kept passages, dropped ones (too short, foreign, copies, references), headings and locators."""
    passages, documents = [], []
    for number, (around, secret) in enumerate(PLANTED.items()):
        line = around.format(secret)
        body = f"Paragraph {number} explains what the operator of plant {number * 7} has to write down before the shift ends."
        english = f"{line}\n\n{body} Nobody but the supervisor and the people named in the list may read it, and all of them sign."
        french = "Il est interdit de communiquer ce qui suit à des personnes étrangères au service, sous peine de sanctions. "
        texts = (
            [english, f"{english} {line}", line, f"{line} {english}"]
            if number % 3
            else [f"{french * 2} {line} {french}"]
        )
        source = Source(path=f"{number}.md", sha256="0" * 64, locator=f"heading={line}")
        if number == 1:
            texts += [f"Whoever opens the gate of the mill at night tells the miller first. {line} He keeps a lamp in the window."] * 2
        documents.append(
            Document(
                id=f"d{number:03}",
                source=source.model_copy(update={"locator": ""}),
                media_type="text/markdown",
                status="ok",
            )
        )
        passages += [
            Passage(
                id=f"d{number:03}-{i}",
                source=source,
                group=f"d{number:03}",
                text=text,
                tokens=50,
                meta={"heading": f"About {line}", "kind": "prose"},
            )
            for i, text in enumerate(texts)
        ]
    write_jsonl(tmp_path / "passages.jsonl", passages)
    write_jsonl(tmp_path / "documents.jsonl", documents)
    inputs = {"passages": tmp_path / "passages.jsonl", "documents": tmp_path / "documents.jsonl"}
    run = run_phase(phase, tmp_path / "run", inputs=inputs, settings=AuditSettings(languages=("en",)))
    written = "".join(
        path.read_text(encoding="utf-8") for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()
    )
    told = repr(run.metrics) + repr(run.events)
    assert len(written) > 10_000
    assert {"language", "boilerplate", "exact_duplicate", "too_short"} <= set(
        re.findall(r'"reason":"(\w+)"', written)
    )
    for secret in PLANTED.values():
        for part in (part for part in secret.split("\n") if len(part) > 5):
            assert part not in written
            assert part not in told
