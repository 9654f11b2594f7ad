"""Finds what must never leave the machine in a text: credentials, and folders of the machine that made it."""

from __future__ import annotations

import re

from forge import private

MACHINE_PATH = re.compile(
    r"(?<![\w.:/~-])(?:/(?:home|Users|root|tmp|var|mnt|opt|workspace|work|data|scratch|srv)/[\w.@-]+(?:/[\w.@-]+)*"
    r"|[A-Za-z]:\\{1,2}(?:Users|Temp|Windows)\\{1,2}[\w.@-]+)"
)
"""An absolute path of a person's or a build machine. Not preceded by a word or a host name, so URLs do not match."""


def find_secrets(text: str, *, quotes_a_corpus: bool = False) -> list[str]:
    """The kinds of credentials in a text ("aws key id"), sorted; never the credential itself. The rules are those of masking.

    quotes_a_corpus: the text quotes documents, where a made-up token ("ghp_xxxx…") is an example and no leak.
    """
    hits = private.find(text, also_made_up=not quotes_a_corpus)
    return sorted({hit.kind.replace("_", " ") for hit in hits if hit.is_secret})


def find_machine_paths(text: str) -> list[str]:
    """The absolute machine paths in a text, without repeats."""
    return sorted({match.group(0) for match in MACHINE_PATH.finditer(text)})
