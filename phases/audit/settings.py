"""What a user can change about audit."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from forge.phase import Settings


def _split(value: Any) -> Any:
    """ "en, de" as well as a list: what a person types after --set."""
    return tuple(part for part in re.split(r"[,\s]+", value) if part) if isinstance(value, str) else value


def _split_paths(value: Any) -> Any:
    """ "a.jsonl,b" as well as a list; spaces belong to names."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class AuditSettings(Settings):
    """What a passage must be to stay."""

    languages: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        ("auto",),
        description='languages to keep, as ISO 639-1 codes; "auto" = the main language of the corpus, "any" = all',
    )
    min_words: int = Field(
        8, ge=0, description="shortest passage to keep, in words (characters in scripts without spaces)"
    )
    min_chars: int = Field(40, ge=0, description="shortest passage to keep, in characters")
    quality_signals: int = Field(
        2,
        ge=0,
        le=5,
        description="kinds of quality signals that together let a passage go; 0 = only damaged and filler text goes",
    )
    near_duplicate: float = Field(
        0.85, ge=0.2, le=1, description="Jaccard similarity of 5-word shingles from which a passage is a copy, 0.2..1"
    )
    dedup_engine: Literal["exact", "datasketch"] = Field(
        "exact",
        description="what proposes near-duplicates; both are verified exactly, datasketch needs its extra and is slower",
    )
    subtopics: int = Field(
        0, ge=0, le=50, description="subtopics to divide the passages into; 0 = by the size of the corpus (none below 60 passages), 1 = none"
    )
    citations: Literal["cut", "keep"] = Field(
        "cut", description='marks of citations in running text ("[12]", "(Smith et al., 2020)", DOIs): a model that learns them makes some up'
    )
    outliers: Literal["flag", "drop", "off"] = Field(
        "flag", description="documents that speak of something else than the rest: flag lists them for you to judge, drop leaves them out, off does not look"
    )
    evaluation_sets: Annotated[tuple[str, ...], BeforeValidator(_split_paths)] = Field(
        (), description="evaluation sets that the model must not have seen: JSONL, JSON, CSV, TSV or text files, or folders of them, comma-separated"
    )
    evaluation_action: Literal["drop", "flag"] = Field(
        "drop", description="what happens to a passage that holds an item of them; flag keeps it and only lists it in audit.json"
    )
    decisions: str = Field(
        "", description="JSONL file of `forge classify` whose decisions are followed: passages that it drops go, and its subtopics count"
    )
    metadata: bool = Field(
        False, description="also train on passages that only state facts about a file (its shape, its tags)"
    )
    min_passages: int = Field(8, ge=1, description="fewest passages that must be left for the run to go on")

    @field_validator("outliers", mode="before")
    @classmethod
    def _yaml_word(cls, value: object) -> object:
        """YAML reads off as false."""
        return "off" if value is False else value

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [language for language in languages if not re.fullmatch(r"auto|any|[a-z]{2,3}", language)]
        if wrong or not languages:
            raise ValueError(
                f'languages are codes such as "en", or "auto" or "any"; not {", ".join(map(repr, wrong)) or "nothing"}'
            )
        return languages
