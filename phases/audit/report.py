"""What audit tells: audit.json, and the error when too little is left."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from forge.errors import ForgeError
from forge.phase import Table
from forge.phases.audit.sieve import Sieve
from forge.records import Drop, read_jsonl

SAMPLES_PER_REASON = 5

_FIXES = {
    "too_short": ("{n:,} passages are shorter than {min_words} words or {min_chars} characters", "audit.min_words=3"),
    "low_quality": ("{n:,} passages look like {detail}", "audit.quality_signals=0"),
    "metadata": ("{n:,} passages only state facts about a file", "audit.metadata=true"),
    "references": ("{n:,} passages are lists of references", ""),
    "boilerplate": ("{n:,} passages consist of lines that other documents repeat", ""),
    "evaluation_item": ("{n:,} passages hold items of the evaluation sets", "audit.evaluation_action=flag"),
    "off_topic": ("{n:,} passages are of documents that speak of something else than the rest", "audit.outliers=flag"),
    "classified": ("{n:,} passages go by the decisions of forge classify", ""),
    "exact_duplicate": ("{n:,} passages repeat others", ""),
    "near_duplicate": ("{n:,} passages nearly repeat others", "audit.near_duplicate=0.95"),
    "contained": ("{n:,} passages lie inside other documents", ""),
}


def check_enough(
    sieve: Sieve, *, run_id: str, ready_made: bool = False, least: int, allowed: Sequence[str], min_words: int, min_chars: int
) -> None:
    """Raise ForgeError, naming what took most passages and what to change, when fewer than `least` passages are left."""
    kept, counts = len(sieve.kept), sieve.dropped_by_reason()
    if ready_made:   # shape takes the examples from the files themselves; passages are only more text for the base
        return
    if kept >= least and kept > 0:
        return
    dropped = sieve.read - kept
    fact = f"{f'only {kept:,}' if kept else 'no'} passages survived audit ({sieve.read:,} read, {dropped:,} dropped)"
    if not sieve.read:
        raise ForgeError(fact, why="prep found no text", next=f"forge show {run_id} prep --dropped")
    if not counts or 2 * dropped < least - kept:
        raise ForgeError(
            fact,
            why=f"audit.min_passages asks for {least:,}: the corpus is too small",
            next="add documents, or set audit.min_passages lower",
        )
    reason = max(sorted(counts), key=lambda name: counts[name])
    details = Counter(drop.detail for drop in sieve.drops if drop.reason == reason)
    common = min(details, key=lambda detail: (-details[detail], detail))
    if reason == "language":
        kept_languages = ", ".join(f'"{language}"' for language in allowed)
        why, fix = (
            f'the language filter keeps {kept_languages}; {details[common]:,} passages look like "{common}"',
            f"audit.languages={common}",
        )
    else:
        template, fix = _FIXES[reason]
        why = template.format(n=counts[reason], detail=common, min_words=min_words, min_chars=min_chars)
    raise ForgeError(
        fact, why=why, next=f"forge resume {run_id} --set {fix}" if fix else "add documents with text of their own"
    )


def tables(find: Callable[[str], Path], *, dropped: bool) -> Iterator[Table]:
    """For `forge show`: what went by reason; with `dropped` also every passage that went, in the order of their files."""
    told = json.loads(find("audit").read_text(encoding="utf-8"))
    characters = told["chars"]["dropped_by_reason"]
    counts = told["dropped_by_reason"]
    rows = tuple((reason, counts.get(reason, 0), characters[reason]) for reason in sorted(characters))
    yield Table(name="reasons", head=("reason", "passages", "characters"), rows=rows)
    masked = tuple(sorted(told["secrets_masked"].items(), key=lambda one: (-one[1], one[0])))
    yield Table(name="masked", head=("kind", "times"), rows=masked)
    subtopics = tuple(sorted(told.get("subtopics", {}).items(), key=lambda one: (-one[1], one[0])))
    yield Table(name="subtopics", head=("subtopic", "passages"), rows=subtopics)
    strange = told.get("outliers", {}).get("found", [])
    rows = tuple((one["path"], one["likeness"], ", ".join(one["terms"])) for one in strange)
    yield Table(name="outliers", head=("file", "likeness", "its terms"), rows=rows)
    if dropped:
        gone = sorted(
            (drop.source.path, drop.source.locator, drop.reason, drop.chars, drop.detail, drop.sample)
            for drop in read_jsonl(find("drops"), Drop)
        )
        head = ("file", "place", "reason", "characters", "detail", "sample")
        yield Table(name="passages", head=head, rows=tuple(gone))


def samples(drops: Sequence[Drop]) -> dict[str, list[dict[str, Any]]]:
    """For each reason, evenly spread examples of what went: id, detail, the kept copy, masked text."""
    by_reason: defaultdict[str, list[Drop]] = defaultdict(list)
    for drop in sorted(drops, key=lambda one: one.id):
        by_reason[drop.reason].append(drop)
    return {
        reason: [
            {
                "id": one.id,
                "path": one.source.path,
                "detail": one.detail,
                "dup_of": one.dup_of,
                "similarity": one.similarity,
                "sample": one.sample,
            }
            for one in found[:: max(1, len(found) // SAMPLES_PER_REASON)][:SAMPLES_PER_REASON]
        ]
        for reason, found in sorted(by_reason.items())
    }


def summarize(
    sieve: Sieve,
    *,
    characters_by_language: Mapping[str, int],
    allowed: Sequence[str],
    clusters: Sequence[Sequence[str]],
    groups: tuple[int, int],
    paths: Mapping[str, str],
    engine: str,
    threshold: float,
    subtopics: Mapping[str, int],
    contamination: Mapping[str, Any],
    outliers: Mapping[str, Any],
) -> dict[str, Any]:
    """audit.json. Shares are 0..1 of the characters; `groups`: before and after merging."""
    total = sum(characters_by_language.values())
    copies = [drop for drop in sieve.drops if drop.reason in {"exact_duplicate", "near_duplicate", "contained"}]
    return {
        "read": sieve.read,
        "kept": len(sieve.kept),
        "dropped_by_reason": sieve.dropped_by_reason(),
        "shortened": sieve.shortened(),
        "chars": sieve.characters(),
        "languages": {language: round(count / total, 4) for language, count in characters_by_language.items()}
        if total
        else {},
        "languages_kept": list(allowed),
        "dedup_engine": engine,
        "near_duplicate_threshold": threshold,
        "near_duplicate_clusters": len({drop.dup_of for drop in copies}),
        "groups": {"documents": groups[0], "groups": groups[1]},
        "merged_documents": [[paths.get(group, group) for group in cluster] for cluster in clusters],
        "secrets_masked": dict(sorted(sieve.masked.items())),
        "passages_masked_late": len(sieve.masked_passages),
        "subtopics": dict(subtopics),
        "contamination": dict(contamination),
        "outliers": dict(outliers),
        "samples": samples(sieve.drops),
    }
