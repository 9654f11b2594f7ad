"""A publication before the swap: its folder, and what it must agree with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from forge.phases.publish.facts import Facts
from forge.phases.publish.licence import Licence
from forge.phases.publish.policy import Decision
from forge.records import Record


class Staged(Record):
    """What is about to be published: its folder, and the facts it must agree with."""

    folder: Path
    facts: Facts
    decision: Decision
    licence: Licence

    @property
    def card(self) -> str:
        """The README's text."""
        return (self.folder / "README.md").read_text(encoding="utf-8")

    @property
    def body(self) -> str:
        """The card below its front matter."""
        return split_card(self.card)[1]

    @property
    def meta(self) -> dict[str, Any]:
        """The front matter; empty when it does not parse (`front_matter_parses` reports that)."""
        try:
            found = yaml.safe_load(split_card(self.card)[0])
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}


def split_card(text: str) -> tuple[str, str]:
    """Front matter and body; an empty front matter when it is not delimited."""
    match = re.match(r"---\n(.*?\n)---\n(.*)\Z", text, re.DOTALL)
    return (match.group(1), match.group(2)) if match else ("", text)
