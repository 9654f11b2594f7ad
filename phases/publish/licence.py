"""Which licence a model may carry: never a laxer one than its base. Texts checked 2026-11; not legal advice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

from forge.records import Record

PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense", "isc"}

HUB_LICENCES = PERMISSIVE | {
    "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0",
    "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "bigscience-openrail-m", "llama2", "llama3", "llama3.1", "llama3.2",
    "llama3.3", "llama4", "gemma", "other",
}
"""Ids that a Hugging Face card accepts (huggingface.co/docs/hub/repositories-licenses); `other` needs a name."""

UNDECIDED_NAME = "no-licence-chosen"


class Terms(Record):
    """What a family of licences asks of a model that is made from one of theirs. `says`: sentences for NOTICE."""

    prefix: str = ""
    says: tuple[str, ...] = ()
    agreement: bool = False


FAMILIES: tuple[tuple[str, Terms], ...] = (
    (r"llama\d?[\d.]*", Terms(prefix="Llama", agreement=True, says=(
        "Built with Llama.",
        "{title} is licensed under the {title} Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.",
        "Its acceptable use policy applies to this model as well."))),
    (r"gemma", Terms(agreement=True, says=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
        "The use restrictions of those terms (ai.google.dev/gemma/prohibited_use_policy) apply to this model as well.",
        "The weight files were modified by fine-tuning."))),
    (r"qwen-research", Terms(agreement=True, says=(
        "Built with Qwen.",
        "Qwen is licensed under the Qwen RESEARCH LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved.",
        "Not for commercial use."))),
    (r"qwen", Terms(agreement=True, says=(
        "Built with Qwen.", "Qwen is licensed under the Qwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. All Rights Reserved."))),
)
"""By the base's licence id (a pattern for all of it). agreement: a copy of the licence must lie beside the weights. Llama 3.x and 4
Community Licence section 1.b, Gemma Terms of Use section 3.1, Qwen Research Licence section 3 (2026-11)."""

FREE_TEACHERS = {"", "offline"}
TEACHERS = {
    "anthropic": "Anthropic's commercial terms (anthropic.com/legal/commercial-terms)",
    "openai_compatible": 'the terms of that server\'s operator and the licence of its model (Llama asks for a name that begins with "Llama")',
}
"""Whose terms rule what may be trained on a teacher's answers. Nobody here has decided what they allow."""

LEGAL_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "USE_POLICY.md", "NOTICE", "NOTICE.txt")
"""Files of a base that go along with what is made from it."""


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
    inherited, prefix = base_licence.lower(), terms_of(base_licence).prefix
    if base != "scratch" and inherited not in PERMISSIVE and licence.label != inherited:
        terms = base_licence or "an unknown licence"
        problems.append(f"the base {base} is under {terms}; the model says {licence.label}")
    if base != "scratch" and not inherited:
        problems.append(f"the licence of the base {base} is not known")
    if prefix and base != "scratch" and not name.lower().startswith(prefix.lower()):
        problems.append(f'a model derived from {base} must have a name that begins with "{prefix}"')
    return problems


def terms_of(base_licence: str) -> Terms:
    """What the base's licence asks for; nothing for one that is not in FAMILIES."""
    return next((terms for pattern, terms in FAMILIES if re.fullmatch(pattern, base_licence.lower())), Terms())


def open_terms(teachers: str, document_licences: Mapping[str, int]) -> list[str]:
    """What no program can decide about the terms, and a person has to before the model leaves the machine (publish.terms)."""
    names = [name.strip() for name in teachers.split(",")]
    found = [f"{name} wrote the training answers: {TEACHERS.get(name, 'its terms are not known')}" for name in names if name not in FREE_TEACHERS]
    return found + [f"documents state {name}: is a model trained on them bound by it?" for name in restrictive(document_licences)]


def missing_agreement(base: str, base_licence: str, legal: Mapping[str, str]) -> str:
    """Why a copy of the base's licence is still needed; empty when it is there or not asked for."""
    if base == "scratch" or not terms_of(base_licence).agreement or any(name.startswith("LICENSE") for name in legal):
        return ""
    return f"{base_licence} asks for a copy of its text beside the weights; none came with {base}"


def restrictive(document_licences: Mapping[str, int]) -> list[str]:
    """Licences of documents that limit commercial use, derivatives or the terms of what is made from them."""
    limits = re.compile(r"(?i)\b(?:nc|nd|sa|l?gpl|agpl|all rights reserved|proprietary)\b")
    return sorted(name for name in document_licences if limits.search(name.replace("-", " ")))


def licence_files(
    licence: Licence, base: str, base_licence: str, document_licences: Mapping[str, int], legal: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """The files that state the terms: always a NOTICE, the base's own, and the full text where we carry it. name -> text."""
    texts = {("NOTICE.base" if name.startswith("NOTICE") else name): text for name, text in legal.items()}
    texts["NOTICE"] = _notice(licence, base, base_licence, document_licences)
    if licence.id == "apache-2.0":
        texts.setdefault("LICENSE", (files("forge.phases.publish") / "apache-2.0.txt").read_text(encoding="utf-8"))
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
        title = re.sub(r"^llama(?=\d)", "Llama ", base_licence, flags=re.IGNORECASE)
        lines += [sentence.format(title=title) for sentence in terms_of(base_licence).says]
    lines += ["", "Licences that the documents of the training corpus state (documents):"]
    lines += [f"  {name}: {count:,}" for name, count in sorted(document_licences.items())] or ["  none was read"]
    return "\n".join(lines) + "\n"
