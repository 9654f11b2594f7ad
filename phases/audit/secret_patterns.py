"""The kinds of secrets and personal numbers that audit masks: one row each."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from forge.phases.audit.secret_checks import (
    iban,
    is_assigned_secret,
    is_aws_secret,
    is_card,
    is_email,
    is_key_block,
    is_public_ip,
    is_random,
    is_spoken_password,
    is_ssn,
)

Check = Callable[[re.Match[str]], bool]


class Pattern(NamedTuple):
    """One kind of secret. `triggers`: lower-case strings of which one must occur; none = a long number must occur."""

    kind: str
    placeholder: str
    regex: re.Pattern[str]
    triggers: tuple[str, ...] = ()
    check: Check = lambda match: True


_KEYS = (
    r"password|passwd|passwort|kennwort|pwd|passphrase|secret[_-]?access[_-]?key|client[_-]?secret"
    r"|secret[_-]?key|private[_-]?key|secret|api[_-]?key|access[_-]?key|account[_-]?key|auth[_-]?token|access[_-]?token|refresh[_-]?token|bot[_-]?token|token"
)
_VENDOR_KEYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "anthropic_key": (r"sk-ant-[A-Za-z0-9]{2,12}-[\w-]{16,}", ("sk-ant-",)),
    "openai_key": (r"sk-(?:proj|svcacct|admin|None)-[\w-]{16,}|sk-[A-Za-z0-9]{32,}", ("sk-",)),
    "huggingface_token": (r"(?:hf|api_org)_[A-Za-z0-9]{24,}", ("hf_", "api_org_")),
    "aws_key_id": (
        r"(?:AKIA|ASIA|AROA|AIDA|AGPA|ANPA|ANVA|AIPA)[A-Z0-9]{16}",
        ("akia", "asia", "aroa", "aida", "agpa", "anpa", "anva", "aipa"),
    ),
    "google_key": (r"AIza[\w-]{35}|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}", ("aiza", "gocspx-", "ya29.")),
    "github_token": (
        r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    "gitlab_token": (r"gl(?:pat|ptt|dt|rt)-[\w-]{20,}", ("gl",)),
    "slack_token": (r"xox[abeoprs]-[\w-]{10,}|xapp-[\w-]{10,}", ("xox", "xapp-")),
    "stripe_key": (
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}|whsec_[A-Za-z0-9]{24,}",
        ("_live_", "_test_", "whsec_"),
    ),
    "sendgrid_key": (r"SG\.[\w-]{16,}\.[\w-]{16,}", ("sg.",)),
    "npm_token": (r"npm_[A-Za-z0-9]{36}", ("npm_",)),
    "pypi_token": (r"pypi-[\w-]{40,}", ("pypi-",)),
    "digitalocean_token": (r"do[por]_v1_[a-f0-9]{64}", ("_v1_",)),
    "telegram_token": (r"\d{8,10}:AA[\w-]{33}", (":aa",)),
    "twilio_key": (r"SK[0-9a-f]{32}", ("sk",)),
}

PATTERNS: tuple[Pattern, ...] = (
    Pattern(
        "private_key",
        "<PRIVATE_KEY>",
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"(?:.{0,6000}?-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
            r"|(?:\s+(?:[A-Za-z0-9+/=]{40,}|[A-Z][\w-]+:[^\n]*))*(?:\n[A-Za-z0-9+/=]{1,76})?)",
            re.DOTALL,
        ),
        ("private key",),
    ),
    Pattern(
        "private_key",
        "<PRIVATE_KEY>",
        re.compile(r"(?:[A-Za-z0-9+/=]{16,}\s+)*[A-Za-z0-9+/=]*\s*-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"),
        ("private key",),
    ),
    Pattern(  # the middle of a key that was cut into passages
        "key_block",
        "<KEY_BLOCK>",
        re.compile(r"(?m)(?:^[ \t]*[A-Za-z0-9+/]{60,76}[ \t]*\n){2,}(?:[ \t]*[A-Za-z0-9+/]{1,76}={0,2}[ \t]*$)?"),
        ("\n",),
        is_key_block,
    ),
    Pattern(
        "slack_webhook",
        "<API_KEY>",
        re.compile(r"https://hooks\.slack\.com/(?:services|workflows)/[\w/+-]{20,}"),
        ("hooks.slack",),
    ),
    *(
        Pattern(kind, "<API_KEY>", re.compile(rf"(?<![A-Za-z0-9_])(?:{regex})(?![A-Za-z0-9])"), triggers, is_random)
        for kind, (regex, triggers) in _VENDOR_KEYS.items()
    ),
    Pattern("jwt", "<TOKEN>", re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]+)?"), ("eyj",)),
    Pattern(
        "url_password",
        "<PASSWORD>",
        re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]*:(?P<secret>[^\s:/@<>{}$]{3,})@(?=[\w\[])", re.I),
        ("://",),
    ),
    Pattern(
        "aws_secret",
        "<API_KEY>",
        re.compile(r"(?<![A-Za-z0-9/+=])(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])"),
        ("aws", "amazon", "akia", "asia"),
        is_aws_secret,
    ),
    Pattern(
        "bearer_token",
        "<TOKEN>",
        re.compile(r"\b(?:Bearer|Basic)\s+(?P<secret>[A-Za-z0-9+/_.~-]{16,}={0,2})(?![\w])"),
        ("bearer", "basic"),
        is_random,
    ),
    Pattern(
        "password",
        "<PASSWORD>",
        re.compile(
            rf"""(?ix)(?P<key>{_KEYS})
            (?:["'`\]]{{0,2}}\s{{0,3}}(?:=>|:=|={{1,3}}|:)\s{{0,3}}|(?<=-password)\s|(?<=-token)\s|(?<=-pwd)\s)
            (?P<quote>["'`])?(?P<secret>(?(quote)[^"'`\n]{{4,120}}|(?:(?!&\w+=)[^\s"'`,;<>]){{6,120}}))(?(quote)["'`])"""
        ),
        ("pass", "pwd", "secret", "key", "token", "kennwort"),
        is_assigned_secret,
    ),
    Pattern(
        "password",
        "<PASSWORD>",
        re.compile(
            r"(?i)\b(?:password|passwort|kennwort|passphrase)\s+(?:is|was|ist|lautet|:)[:\s]+"
            r"[\"'`]?(?P<secret>[^\s\"'`,;<>]{6,}?)(?=[\"'`.,;]*(?:\s|$))"
        ),
        ("pass", "kennwort"),
        is_spoken_password,
    ),
    Pattern(
        "email",
        "<EMAIL>",
        re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}(?![\w-])"),
        ("@",),
        is_email,
    ),
    Pattern(
        "email",
        "<EMAIL>",
        re.compile(
            r"(?i)(?<![\w.+-])[\w.+-]{1,64}\s?[\[(]\s?at\s?[\])]\s?[\w-]{1,63}(?:\s?(?:[\[(]\s?dot\s?[\])]|\.)\s?[\w-]{1,63})+"
        ),
        ("at]", "at )", "at)", "at ]"),
    ),
    Pattern(
        "iban",
        "<IBAN>",
        re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"),
        (),
        lambda match: iban(match[0]),
    ),
    Pattern(
        "card_number",
        "<CARD_NUMBER>",
        re.compile(
            r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}[ -]\d{6}[ -]\d{4,5})(?![\w-]|\.\d)"
        ),
        (),
        is_card,
    ),
    Pattern("ssn", "<SSN>", re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-]|\.\d)"), (), is_ssn),
    Pattern(
        "phone",
        "<PHONE>",
        re.compile(r"(?<![\w+.])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d(?:[ .-]?\d){6,12}(?!\w)"),
        ("+",),
    ),
    Pattern(
        "ip_address",
        "<IP_ADDRESS>",
        re.compile(r"(?<![\w.#-])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"),
        (),
        is_public_ip,
    ),
    Pattern(
        "ip_address",
        "<IP_ADDRESS>",
        re.compile(r"(?i)(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:])"),
        (),
        is_public_ip,
    ),
)
