"""What presidio adds to the rules of forge/private when prep.pii=presidio asks for it: names of persons, wallets, medical licences.

Names need a spaCy model on this machine (prep.pii_model), found by nobody else than its author to be right: a name that it does not know
stays, and a product that sounds like a person goes. Without a model only the patterns are looked for. Everything else that presidio can
find is found by our rules, faster and with check digits; its recognizers of addresses would ask the network for a list of domains.

Its recognizers are called directly. AnalyzerEngine's context enhancer walks through the whole text for every find: 25 KB with 600 finds take
0.9 s with it and 0.04 s without, and change no score of these three.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from forge import private
from forge.errors import MissingAccess
from forge.phase import Requirement

REQUIRES = (Requirement(module="presidio_analyzer", extra="pii"), Requirement(module="spacy", extra="pii"))
PLACEHOLDERS = {"PERSON": "[person]", "CRYPTO": "[account]", "MEDICAL_LICENSE": "[id-number]"}
RECOGNIZERS = {"SpacyRecognizer", "CryptoRecognizer", "MedicalLicenseRecognizer"}
LEAST_SCORE = 0.6
STRETCH_CHARACTERS = 50_000
"""Text that is looked at together: spaCy takes a gigabyte for each million characters."""

Find = Callable[[str], list[private.Hit]]


def check_model(model: str) -> None:
    """Raise MissingAccess for a model that is not here; nothing is ever downloaded."""
    if model and not Path(model).expanduser().is_dir() and (not model.isidentifier() or find_spec(model) is None):
        raise MissingAccess(
            f"there is no spaCy model {model}", why="prep.pii_model names neither an installed package nor a folder; nothing is downloaded during a run",
            next="pip install the model, or name its folder, or leave prep.pii_model empty: names of persons are then not looked for",
        )


def finder(model: str) -> Find:
    """private.find() and presidio together, as one list without overlaps; what the rules find wins. Loaded on the first call."""

    def find(text: str) -> list[private.Hit]:
        ours = private.find(text)
        return sorted([*ours, *_outside(_found(text, model), ours)]) if text.strip() else ours

    return find


def _found(text: str, model: str) -> Iterator[private.Hit]:
    engine, recognizers = _load(model)
    for start, stretch in _stretches(text):
        artifacts = engine.process_text(stretch, "en")
        for recognizer in recognizers:
            wanted = [entity for entity in recognizer.supported_entities if entity in PLACEHOLDERS]
            for one in recognizer.analyze(stretch, wanted, artifacts) or ():
                if one.score >= LEAST_SCORE and one.entity_type in PLACEHOLDERS and _is_name(stretch[one.start : one.end], one.entity_type):
                    yield private.Hit(start + one.start, start + one.end, one.entity_type.lower(), PLACEHOLDERS[one.entity_type], False)


def _is_name(found: str, kind: str) -> bool:
    """No digits, marks or line breaks, and a capital: what models take for persons in code and tables has one of these."""
    return kind != "PERSON" or (found[:1].isupper() and "\n" not in found and all(one.isalpha() or one in " .'’-" for one in found))


def _outside(found: Iterator[private.Hit], taken: list[private.Hit]) -> list[private.Hit]:
    """The finds that touch none of `taken` nor each other; the longer of two that do."""
    kept: list[private.Hit] = []
    for hit in sorted(found, key=lambda one: (one.start - one.end, one)):
        if not any(hit.start < other.end and other.start < hit.end for other in (*taken, *kept)):
            kept.append(hit)
    return kept


def _stretches(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    while start < len(text):
        end = min(len(text), start + STRETCH_CHARACTERS)
        if end < len(text):
            end = max(text.rfind("\n", start, end) + 1, text.rfind(" ", start, end) + 1, start + 1)
        yield start, text[start:end]
        start = end


@cache
def _load(model: str) -> tuple[Any, list[Any]]:
    """presidio's engine around the model (or around spaCy's empty English pipeline), and the recognizers; 3 s and 300 MB without a model."""
    without_torch = "torch" not in sys.modules
    if without_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # thinc imports it where it can: seconds and 200 MB for nothing
    try:
        import spacy
        from presidio_analyzer import RecognizerRegistry
        from presidio_analyzer.nlp_engine import SpacyNlpEngine

        engine: Any = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": model or "blank"}])
        engine.nlp = {"en": spacy.load(Path(model).expanduser() if Path(model).expanduser().is_dir() else model) if model else spacy.blank("en")}
        registry = RecognizerRegistry()
        registry.load_predefined_recognizers(languages=["en"])
    finally:
        if without_torch:
            sys.modules.pop("torch", None)
    return engine, [one for one in registry.recognizers if type(one).__name__ in RECOGNIZERS]
