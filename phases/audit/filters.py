"""The filters that look at one passage, its document's language, or lines that many documents share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError, UsageError
from forge.phases.audit.apart import Looks, Spread, here
from forge.phases.audit.boilerplate import find_boilerplate, without_lines
from forge.phases.audit.classify import Decision
from forge.phases.audit.contamination import MIN_WORDS, EvaluationIndex, Found, describe_contamination, search
from forge.phases.audit.evaluation_sets import find_files, read_items
from forge.phases.audit.language import UNDETERMINED, Languages, characters_by_language
from forge.phases.audit.outliers import Outliers, find_outliers
from forge.phases.audit.prose import PROSE, has_words, word_list
from forge.phases.audit.quality import describe, is_poor
from forge.phases.audit.references import without_list
from forge.phases.audit.sieve import Sieve
from forge.phases.audit.speakers import find_transcripts, without_labels
from forge.records import read_jsonl

if TYPE_CHECKING:
    from forge.phases.audit.settings import AuditSettings
    from forge.phases.audit.terms import Counts, Terms

Tick = Callable[[], None]


def cut_boilerplate(sieve: Sieve, tick: Tick) -> None:
    """Take lines that many documents repeat out of all passages; a passage of nothing else goes."""
    boilerplate = find_boilerplate(sieve.kept.values())
    if not boilerplate:
        return
    for id, passage in list(sieve.kept.items()):
        tick()
        text, gone = without_lines(passage.text, boilerplate)
        if not gone:
            continue
        detail = f"{len(gone)} line{'s'[: len(gone) != 1]} that other documents repeat"
        if text.strip():
            sieve.shorten(id, text, "\n".join(gone), "boilerplate", detail)
        else:
            sieve.drop(id, "boilerplate", detail)


def cut_citations(sieve: Sieve, tick: Tick, looks: Looks) -> None:
    """Take the marks of citations out of running text; after lists of references are gone, which consist of them."""
    for id, passage in list(sieve.kept.items()):
        tick()
        if (text := looks.uncited(passage)) is not None:
            _shorten(sieve, id, text, _lost(passage.text, text), "citations", "marks of citations in running text")


def cut_structure(sieve: Sieve, tick: Tick) -> None:
    """Take what belongs to the page and not to its content out of the text: labels of speakers, and lists of references at its end."""
    transcripts = find_transcripts(sieve.kept.values())
    for id, passage in list(sieve.kept.items()):
        tick()
        if passage.meta.get("kind", "prose") not in PROSE:
            continue
        if labels := transcripts.get(passage.source.path):
            text, order = without_labels(passage.text, labels)
            if order:
                _shorten(sieve, id, text, ", ".join(order), "speaker_labels", f"{len(order)} labels of speakers, kept in order in its meta")
                sieve.label("speakers", {id: "; ".join(order)})
        text, gone = without_list(sieve.kept[id].text)
        if gone:
            _shorten(sieve, id, text, gone, "references", "a list of references at its end")


def _shorten(sieve: Sieve, id: str, text: str, gone: str, reason: str, detail: str) -> None:
    if text.strip():
        sieve.shorten(id, text, gone, reason, detail)


def _lost(before: str, after: str) -> str:
    """The words that are in `before` only."""
    words = before.split()
    steps = SequenceMatcher(None, words, after.split(), autojunk=False).get_opcodes()
    return " ".join(" ".join(words[first:last]) for step, first, last, _, _ in steps if step in {"delete", "replace"})


def drop_unfit(sieve: Sieve, tick: Tick, settings: AuditSettings, spread: Spread = here) -> tuple[dict[str, int], tuple[str, ...]]:
    """All filters of single passages; returns what drop_foreign() found. spread: looks at them in shards, or gives None."""
    drop_short(sieve, tick, min_words=settings.min_words, min_chars=settings.min_chars)
    looks = Looks(sieve.kept.values(), spread)
    drop_damaged(sieve, tick, looks)
    by_language, allowed = drop_foreign(sieve, tick, settings.languages, looks)
    drop_poor(sieve, tick, looks, least=settings.quality_signals, english=allowed == ("en",))
    drop_references(sieve, tick, looks)
    if settings.citations == "cut":
        cut_citations(sieve, tick, looks)
    return by_language, allowed


def drop_metadata(sieve: Sieve, tick: Tick) -> None:
    """Let passages go that state facts about a file instead of holding its text."""
    for id, passage in list(sieve.kept.items()):
        tick()
        if passage.meta.get("kind") == "metadata":
            sieve.drop(id, "metadata", "facts about a file, not its text")


def drop_short(sieve: Sieve, tick: Tick, *, min_words: int, min_chars: int) -> None:
    """Let passages go that are too short to learn from."""
    for id, passage in list(sieve.kept.items()):
        tick()
        if len(passage.text) < min_chars or not has_words(passage.text, min_words):
            sieve.drop(id, "too_short", f"{len(word_list(passage.text))} words, {len(passage.text)} characters")


def drop_foreign(sieve: Sieve, tick: Tick, wanted: Sequence[str], looks: Looks) -> tuple[dict[str, int], tuple[str, ...]]:
    """Let passages go that are not in the wanted languages ("auto": the corpus' main one; "any": all stay).

    Returns the characters in each language before, and the languages that were let through.
    """
    languages = Languages(sieve.kept.values(), looks.voice, tick)
    allowed = tuple(sorted({languages.main if language == "auto" else language for language in wanted}))
    language_of = languages.of(allowed)
    characters = characters_by_language(sieve.kept.values(), language_of)
    if "any" not in allowed and allowed != (UNDETERMINED,):
        for id, language in language_of.items():
            if language not in (*allowed, UNDETERMINED):
                sieve.drop(id, "language", language)
    return characters, allowed


def drop_damaged(sieve: Sieve, tick: Tick, looks: Looks) -> None:
    """Let damaged and filler text go; before the language is looked at, since it looks like none or like Latin."""
    for id, passage in list(sieve.kept.items()):
        tick()
        if hard := looks.damage(passage):
            sieve.drop(id, "low_quality", hard)


def drop_poor(sieve: Sieve, tick: Tick, looks: Looks, *, least: int, english: bool) -> None:
    """Let passages go that show signals of `least` kinds of poor quality; 0 switches this off."""
    for id, passage in list(sieve.kept.items()) if least else ():
        tick()
        signals = looks.signals(passage, english=english)
        if is_poor(signals, least):
            sieve.drop(id, "low_quality", describe(signals))


def drop_evaluation_items(sieve: Sieve, tick: Tick, settings: AuditSettings) -> dict[str, Any]:
    """Let passages go that hold items of the evaluation sets (or only list them); returns what audit.json tells, {} without sets."""
    if not settings.evaluation_sets:
        return {}
    files = find_files(settings.evaluation_sets)
    indexes = [(name, EvaluationIndex(read_items(name, path))) for name, path in files]
    ids = sorted(sieve.kept)
    texts = [sieve.kept[id].text for id in ids]
    found: dict[int, Found] = {}
    sets = []
    for name, index in indexes:
        here = search(index, texts, tick)
        sets.append({"name": name, "items": index.items, "unchecked": index.unchecked, "passages": len(here)})
        found = {one.text: one for one in here} | found
    if empty := [str(one["name"]) for one in sets if one["items"] == one["unchecked"]]:
        raise ForgeError(
            f"the evaluation set {empty[0]} has no item that can be looked for", why=f"an item needs {MIN_WORDS} words; a set that finds nothing would look clean",
            next="check the file, or leave it out of audit.evaluation_sets",
        )
    hits = [found[number] for number in sorted(found)]
    told = describe_contamination(settings.evaluation_action, sets, hits, [sieve.kept[id] for id in ids])
    for one in hits if settings.evaluation_action == "drop" else ():
        sieve.drop(ids[one.text], "evaluation_item", f"{one.rule} of {one.place}")
    return told


def drop_decided(sieve: Sieve, tick: Tick, settings: AuditSettings) -> dict[str, str]:
    """Follow the decisions of `forge classify`; returns the subtopics that it gave. Raises UsageError when none is about this corpus."""
    if not settings.decisions:
        return {}
    path = Path(settings.decisions).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {settings.decisions}", why="audit.decisions names it", next="forge classify RUN --out FILE")
    subtopics, known = {}, 0
    for one in read_jsonl(path, Decision):
        tick()
        if one.id not in sieve.kept:
            continue
        known += 1
        if one.subtopic:
            subtopics[one.id] = one.subtopic
        if not one.keep:
            sieve.drop(one.id, "classified", f"{one.reason} ({one.by})")
    if not known and sieve.kept:
        raise UsageError(
            f"{path.name} decides about no passage of this corpus", why="its ids are of other passages", next="forge classify RUN --out FILE, for a run over this corpus"
        )
    return subtopics


def drop_outliers(sieve: Sieve, tick: Tick, settings: AuditSettings, terms: Terms, counted: Counts) -> Outliers:
    """Find documents that speak of something else than the rest; let their passages go when the settings say so."""
    if settings.outliers == "off":
        return Outliers((), 0, 0, "switched off")
    outliers = find_outliers(sieve.ordered(), terms, tick, counted)
    strange = {one.path: one for one in outliers.found} if settings.outliers == "drop" else {}
    for passage in sieve.ordered() if strange else ():
        if one := strange.get(passage.source.path):
            sieve.drop(passage.id, "off_topic", f"its document is {one.likeness:.0%} as similar to the others as is usual")
    return outliers


def drop_references(sieve: Sieve, tick: Tick, looks: Looks) -> None:
    """Let lists of references go."""
    for id, passage in list(sieve.kept.items()):
        tick()
        if why := looks.listed(passage):
            sieve.drop(id, "references", why)
