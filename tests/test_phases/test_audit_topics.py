"""audit: subtopics are found from the passages' own words, in any order, and documents that speak of something else stand out."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from forge.phases.audit.outliers import Outliers, find_outliers
from forge.phases.audit.settings import AuditSettings
from forge.phases.audit.spotcheck import Check
from forge.phases.audit.terms import Terms, words
from forge.phases.audit.topics import OTHER, counts, fit_terms, name_subtopics
from forge.records import Passage, Source, read_jsonl
from tests.test_phases.test_audit import REPETITIVE, audit, clean, drops, others, prose, summary

SUBJECTS = {
    "bread": [f"{first}{second}" for first in ("dough", "oven", "yeast", "flour", "crust", "loaf", "bak", "ry") for second in ("en", "or", "ish", "al", "um", "ix", "ot", "ay")],
    "ships": [f"{first}{second}" for first in ("keel", "mast", "sail", "anch", "hull", "tid", "deck", "rop") for second in ("en", "or", "ish", "al", "um", "ix", "ot", "ay")],
    "bees": [f"{first}{second}" for first in ("hiv", "queen", "hon", "poll", "swarm", "dron", "brood", "wax") for second in ("en", "or", "ish", "al", "um", "ix", "ot", "ay")],
}
"""Made-up terms, 64 for each subject."""
COMMON_TEXT = "the of and a to in is that it was for on with as his they at be this from have or by one had not but what all were when we there can"
COMMON = tuple(COMMON_TEXT.split())


def passages(per_subject: int, seed: int = 0) -> list[Passage]:
    """Sentences of common words around the words of one subject; the subject is the source's path."""
    rng = random.Random(seed)
    found = []
    for subject, terms in SUBJECTS.items():
        for number in range(per_subject):
            some = rng.sample(terms, 16)
            text = " ".join(rng.choice([rng.choice(COMMON), rng.choice(COMMON), rng.choice(some)]) for _ in range(140))
            found.append(Passage(id=f"{rng.random():.9f}", source=Source(path=subject, sha256="0"), group=f"{subject}{number % 9}", text=text))
    return sorted(found, key=lambda one: one.id)


def test_passages_get_the_subtopic_of_their_subject_named_by_its_own_terms() -> None:
    corpus = passages(60)
    named = name_subtopics(corpus, wanted=3)
    by_subject = {subject: Counter(named[one.id] for one in corpus if one.source.path == subject) for subject in SUBJECTS}
    main = {subject: found.most_common(1)[0] for subject, found in by_subject.items()}
    assert len({name for name, _ in main.values()}) == 3
    assert all(count >= 57 for _, count in main.values()), by_subject
    assert all(term in SUBJECTS[subject] for subject, (name, _) in main.items() for term in name.split(", ")), main
    assert counts(named) == dict(sorted(Counter(named.values()).items()))


def test_subtopics_do_not_depend_on_chance_and_a_few_more_passages_move_few() -> None:
    corpus = passages(60)
    assert name_subtopics(corpus, wanted=3) == name_subtopics(list(corpus), wanted=3)
    more = sorted([*corpus, *passages(2, seed=9)], key=lambda one: one.id)
    before, after = name_subtopics(corpus, wanted=3), name_subtopics(more, wanted=3)
    moved = Counter((before[id], after[id]) for id in before)
    assert sum(count for _, count in moved.most_common(3)) >= 0.95 * len(before), moved


def test_a_small_corpus_one_without_subjects_and_one_without_words_have_no_subtopics() -> None:
    assert name_subtopics([]) == {}
    assert name_subtopics(passages(10)) == {}
    assert name_subtopics(passages(60), wanted=1) == {}
    source = Source(path="a", sha256="0")
    assert name_subtopics([Passage(id=f"{n:03}", source=source, group="a", text="1 2 3 4") for n in range(90)]) == {}
    assert name_subtopics([Passage(id=f"{n:03}", source=source, group="a", text="the same words again") for n in range(90)]) == {}


def test_a_passage_without_any_of_the_terms_is_other() -> None:
    corpus = [*passages(60), Passage(id="z", source=Source(path="x", sha256="0"), group="x", text="12 + 30 = 42")]
    assert name_subtopics(corpus, wanted=3)["z"] == OTHER


def test_masked_places_are_no_terms_and_scripts_without_spaces_have_some() -> None:
    assert words("Write to [email] or [private-key], Ann.") == ["write", "ann"]
    assert words("東京駅") == ["東京", "京駅"]
    terms = Terms(["borrow borrows", "borrow borrow checker", *["the checker rests"] * 2, *["rest"] * 9])
    assert "borrow" in terms.names
    assert "borrows" not in terms.names


def test_clean_passages_carry_their_subtopic_and_audit_counts_them(tmp_path: Path) -> None:
    texts: dict[str, list[str]] = {}
    for one in passages(40):
        texts.setdefault(f"{one.group}.md", []).append(one.text)
    run = audit(tmp_path, texts, AuditSettings(subtopics=3, languages=("any",), quality_signals=0))
    found = Counter(passage.meta["subtopic"] for passage in clean(run).values())
    assert summary(run)["subtopics"] == dict(sorted(found.items()))
    assert len(found) == 3
    again = audit(tmp_path / "b", texts, AuditSettings(subtopics=3, languages=("any",), quality_signals=0), order=5)
    assert (again.out / "clean.jsonl").read_bytes() == (run.out / "clean.jsonl").read_bytes()
    off = audit(tmp_path / "c", texts, AuditSettings(subtopics=1, languages=("any",), quality_signals=0))
    assert summary(off)["subtopics"] == {}
    assert all("subtopic" not in passage.meta for passage in clean(off).values())


# --- documents that speak of something else --------------------------------------------------------------------


def library(bread: int, ships: int, seed: int = 0) -> list[Passage]:
    """Documents of three passages each: so many about bread, so many about ships."""
    found = []
    for subject, count in (("bread", bread), ("ships", ships)):
        about = [one for one in passages(3 * count, seed) if one.source.path == subject]
        for number, one in enumerate(about):
            path = f"{subject}{number // 3:02}.md"
            found.append(one.model_copy(update={"source": Source(path=path, sha256="0"), "group": path, "id": f"{path}-{number % 3}"}))
    return sorted(found, key=lambda one: one.id)


def strange(corpus: list[Passage]) -> Outliers:
    return find_outliers(corpus, fit_terms(corpus))


@pytest.mark.parametrize("ships", [1, 3, 8])
def test_documents_about_something_else_stand_out_and_the_clean_twin_has_none(ships: int) -> None:
    found = strange(library(30, ships))
    assert {one.path for one in found.found} == {f"ships{n:02}.md" for n in range(ships)}
    assert all(one.likeness < 0.7 for one in found.found)
    assert found.judged == 30 + ships
    assert len(strange(library(30 + ships, 0)).found) <= 1
    assert any(term in SUBJECTS["ships"] for term in found.found[0].terms)


def test_two_subjects_of_one_size_are_both_the_corpus() -> None:
    assert strange(library(20, 20)).found == ()


@pytest.mark.parametrize("corpus", [[], library(6, 2)])
def test_too_few_documents_are_undecided_not_clean(corpus: list[Passage]) -> None:
    found = strange(corpus)
    assert (found.found, found.judged) == ((), 0)
    assert "at least 12 are needed" in found.undecided
    assert found.told("flag")["undecided"] == found.undecided


def documents_of(corpus: list[Passage]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for one in corpus:
        texts.setdefault(one.source.path, []).append(one.text)
    return texts


LOOSE = {"languages": ("any",), "quality_signals": 0}


def test_outliers_are_flagged_listed_and_left_out_only_when_asked(tmp_path: Path) -> None:
    texts = documents_of(library(30, 2))
    flagged = audit(tmp_path / "a", texts, AuditSettings(**LOOSE))
    assert drops(flagged) == {}
    assert {one["path"] for one in summary(flagged)["outliers"]["found"]} == {"ships00.md", "ships01.md"}
    dropped = audit(tmp_path / "b", texts, AuditSettings(outliers="drop", **LOOSE))
    assert {(one.source.path, one.reason) for one in drops(dropped).values()} == {("ships00.md", "off_topic"), ("ships01.md", "off_topic")}
    assert len(drops(dropped)) == 6
    off = audit(tmp_path / "c", texts, AuditSettings.model_validate({"outliers": False, **LOOSE}))
    assert summary(off)["outliers"]["undecided"] == "switched off"


# --- the spot check --------------------------------------------------------------------------------------------


def checks(run: object) -> list[Check]:
    return list(read_jsonl(run.out / "spotcheck.jsonl", Check))  # type: ignore[attr-defined]


def test_the_spot_check_holds_a_sample_of_every_decision_and_no_secret(tmp_path: Path) -> None:
    texts = documents_of(library(30, 2)) | {"poor.md": [REPETITIVE, "too short", f"{prose(5)} token: ghp_{'aB3dE5gH7j' * 4}"]}
    run = audit(tmp_path, texts, AuditSettings(languages=("any",)))
    found = checks(run)
    assert {(one.decision, one.reason) for one in found} >= {
        ("kept", ""), ("dropped", "low_quality"), ("dropped", "too_short"), ("off_topic", "its document stands out")
    }
    assert sum(one.decision == "off_topic" for one in found) == len(summary(run)["outliers"]["found"])
    assert len({one.id for one in found}) == len(found)
    assert all(len(one.text) <= 300 for one in found)
    assert "aB3dE5gH7j" not in (run.out / "spotcheck.jsonl").read_text(encoding="utf-8")


def test_the_spot_check_of_a_large_corpus_stays_small_and_spread(tmp_path: Path) -> None:
    texts = documents_of(library(60, 30)) | others(9) | {"short.md": [f"short {n}" for n in range(100)]}
    run = audit(tmp_path, texts, AuditSettings(subtopics=2, **LOOSE))
    found = checks(run)
    kept = Counter(one.subtopic for one in found if one.decision == "kept")
    assert set(kept) == set(summary(run)["subtopics"])
    assert max(kept.values()) <= 5
    assert sum(one.reason == "too_short" for one in found) == 8
    again = audit(tmp_path / "again", texts, AuditSettings(subtopics=2, **LOOSE), order=3)
    assert checks(again) == found
