"""Which licence a model may carry: never a laxer one than its base. Texts checked 2026-11; not legal advice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

from forge.records import Record

PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "isc"}

HUB_LICENCES = PERMISSIVE | {
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0",
    "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "bigscience-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "gemma", "other",
}
"""Ids that a Hugging Face card accepts (huggingface.co/docs/hub/repositories-licenses); `other` needs a name."""

UNDECIDED_NAME = "no-licence-chosen"


class Licence(Record):
    """The licence of a published model: `id` as a model hub spells it, `name` when the id is `other`."""

    id: str
    name: str = ""

    @property
    def is_chosen(self) -> bool:
        """False when nobody has said under which terms the weights may be used."""
        return self.id != "other" or self.name != UNDECIDED_NAME

    @property
    def label(self) -> str:
        """What people read."""
        return self.id if self.id != "other" else self.name


def choose_licence(wanted: str, base: str, base_licence: str) -> Licence:
    """The model's licence: the one asked for, else the base's; a base from scratch has only what its owner chose."""
    known = base_licence.lower() if base_licence.lower() in HUB_LICENCES - {"other"} else ""
    name = (wanted or known or (UNDECIDED_NAME if base == "scratch" else base_licence or UNDECIDED_NAME)).lower()
    return Licence(id=name) if name in HUB_LICENCES - {"other"} else Licence(id="other", name=name)


def licence_problems(licence: Licence, base: str, base_licence: str, name: str) -> list[str]:
    """Why this model may not carry this licence; empty when it may."""
    problems = []
    inherited = base_licence.lower()
    if base != "scratch" and inherited not in PERMISSIVE and licence.label != inherited:
        terms = base_licence or "an unknown licence"
        problems.append(f"the base {base} is under {terms}; the model says {licence.label}")
    if base != "scratch" and not inherited:
        problems.append(f"the licence of the base {base} is not known")
    if inherited.startswith("llama") and base != "scratch" and not name.lower().startswith("llama"):
        problems.append(f'a model derived from {base} must have a name that begins with "Llama"')
    return problems


def restrictive(document_licences: Mapping[str, int]) -> list[str]:
    """Licences of documents that limit commercial use, derivatives or the terms of what is made from them."""
    limits = re.compile(r"(?i)\b(?:nc|nd|sa|l?gpl|agpl|all rights reserved|proprietary)\b")
    return sorted(name for name in document_licences if limits.search(name.replace("-", " ")))


def licence_files(licence: Licence, base: str, base_licence: str, document_licences: Mapping[str, int]) -> dict[str, str]:
    """The files that state the terms: always a NOTICE, and the full text where we carry it. name -> text."""
    texts = {"NOTICE": _notice(licence, base, base_licence, document_licences)}
    if licence.id == "apache-2.0":
        texts["LICENSE"] = (files("forge.phases.publish") / "apache-2.0.txt").read_text(encoding="utf-8")
    return texts


def _notice(licence: Licence, base: str, base_licence: str, document_licences: Mapping[str, int]) -> str:
    lines = ["Terms of this model", ""]
    if licence.is_chosen:
        lines.append(f"The weights are under the licence: {licence.label}")
    else:
        lines += ["No licence has been chosen for these weights. Ask their owner before you use or pass them on.",
                  "(The owner chooses one with: forge resume --set publish.license=ID)"]
    if base != "scratch":
        lines += ["", f"They are derived from {base}, which is under: {base_licence or 'unknown'}"]
    if base_licence.lower().startswith("llama"):
        lines.append("Built with Llama.")
    if base_licence.lower() == "gemma":
        lines.append("Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms")
    lines += ["", "Licences that the documents of the training corpus state (documents):"]
    lines += [f"  {name}: {count:,}" for name, count in sorted(document_licences.items())] or ["  none was read"]
    return "\n".join(lines) + "\n"
