"""Finds what must never leave the machine in a text: credentials, and folders of the machine that made it."""

from __future__ import annotations

import re

SECRETS: dict[str, re.Pattern[str]] = {
    "private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "AWS secret key": re.compile(r"(?i)aws.{0,20}secret.{0,20}['\"=:\s][0-9a-z/+]{40}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[0-9A-Za-z]{36,}|github_pat_[0-9A-Za-z_]{40,})\b"),
    "Hugging Face token": re.compile(r"\bhf_[0-9A-Za-z]{30,}\b"),
    "Anthropic key": re.compile(r"\bsk-ant-[0-9A-Za-z_-]{20,}"),
    "OpenAI key": re.compile(r"\bsk-(?:proj-)?[0-9A-Za-z_-]{32,}"),
    "Google key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "Slack token": re.compile(r"\bxox[abprs]-[0-9A-Za-z-]{10,}"),
    "Stripe key": re.compile(r"\b[rs]k_live_[0-9A-Za-z]{20,}"),
    "JSON web token": re.compile(r"\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{10,}"),
    "password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"]{3,}@[\w.-]+"),
    "password": re.compile(r"(?i)\b(?:password|passwd|secret|api_?key)['\"]?\s*[:=]\s*['\"][^\s'\"]{8,}['\"]"),
}

MACHINE_PATH = re.compile(
    r"(?<![\w.:/~-])(?:/(?:home|Users|root|tmp|var|mnt|opt|workspace|work|data|scratch|srv)/[\w.@-]+(?:/[\w.@-]+)*"
    r"|[A-Za-z]:\\{1,2}(?:Users|Temp|Windows)\\{1,2}[\w.@-]+)"
)
"""An absolute path of a person's or a build machine. Not preceded by a word or a host name, so URLs do not match."""


def find_secrets(text: str) -> list[str]:
    """The kinds of credentials in a text, sorted; never the credential itself."""
    return sorted(kind for kind, pattern in SECRETS.items() if pattern.search(text))


def find_machine_paths(text: str) -> list[str]:
    """The absolute machine paths in a text, without repeats."""
    return sorted({match.group(0) for match in MACHINE_PATH.finditer(text)})
