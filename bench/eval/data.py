"""Data sets for the two demonstrations, made from files of PubMedQA and ADE that lie outside of this repository."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

ROLES = {
    "METHODS": ("METHOD", "DESIGN", "PARTICIPANT", "PATIENT", "SETTING", "INTERVENTION", "MATERIAL", "SUBJECT", "PROCEDURE"),
    "RESULTS": ("RESULT", "FINDING"),
    "BACKGROUND": ("BACKGROUND", "OBJECTIVE", "AIM", "PURPOSE", "INTRODUCTION", "HYPOTHESIS"),
}
"""Role -> words in the section labels of PubMedQA that stand for it; other sections ("MAIN OUTCOME") are left out."""
DRUGS = 60
MAX_WORDS = 40
MAX_PARAGRAPH_WORDS = 60


def write_roles(pubmedqa: Path, target: Path) -> int:
    """One line a paragraph: its first words, its role, its article. Returns how many."""
    rows = []
    for pmid, record in json.loads(pubmedqa.read_text(encoding="utf-8")).items():
        for text, label in zip(record["CONTEXTS"], record["LABELS"], strict=True):
            role = next((role for role, words in ROLES.items() if any(word in label.upper() for word in words)), "")
            if role:
                rows.append({"text": " ".join(text.split()[:MAX_PARAGRAPH_WORDS]), "label": role, "pmid": pmid})
    return _write(target, rows)


def write_drugs(drug_ae: Path, target: Path) -> int:
    """One line a sentence, as written, that names exactly one of the 60 commonest drugs, with its place. Returns how many.

    "Gemcitabine" at the beginning of a sentence is another token than "gemcitabine"; training reads both (phases/train/variants.py).
    """
    found: dict[tuple[str, str], set[str]] = {}
    for line in drug_ae.read_text(encoding="utf-8").splitlines():
        pmid, sentence, _, _, _, drug, _, _ = line.split("|")
        found.setdefault((pmid, sentence.strip()), set()).add(drug.casefold())
    single = {key: next(iter(drugs)) for key, drugs in found.items() if len(drugs) == 1}
    common = {drug for drug, _ in Counter(single.values()).most_common(DRUGS)}
    rows = []
    for (pmid, sentence), drug in sorted(single.items()):
        start = sentence.lower().find(drug)
        if drug in common and start >= 0 and len(sentence.split()) <= MAX_WORDS:
            entity = {"type": "Drug", "start": start, "end": start + len(drug), "text": sentence[start : start + len(drug)]}
            rows.append({"text": sentence, "entities": [entity], "pmid": pmid})
    return _write(target, rows)


def _write(target: Path, rows: list[dict[str, Any]]) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return len(rows)
