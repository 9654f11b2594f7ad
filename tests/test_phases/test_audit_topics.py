"""audit: subtopics are found from the passages' own words, in any order, and documents that speak of something else stand out."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from forge.phases.audit.settings import AuditSettings
from forge.phases.audit.terms import Terms, words
from forge.phases.audit.topics import OTHER, counts, name_subtopics
from forge.records import Passage, Source
from tests.test_phases.test_audit import audit, clean, summary

SUBJECTS = {
    "bread": "dough oven yeast flour crust loaf knead rise bake baker sourdough starter gluten hydration proof",
    "ships": "keel mast sail anchor harbour rudder hull tide crew captain deck voyage compass rope stern",
    "bees": "hive queen honey nectar pollen swarm drone comb brood keeper smoke larva colony wax forager",
}
COMMON_TEXT = "the of and a to in is that it was for on with as his they at be this from have or by one had not but what all were when we there can"
COMMON = tuple(COMMON_TEXT.split())


def passages(per_subject: int, seed: int = 0) -> list[Passage]:
    """Sentences of common words around the words of one subject; the subject is the source's path."""
    rng = random.Random(seed)
    found = []
    for subject, terms in SUBJECTS.items():
        for number in range(per_subject):
            some = rng.sample(terms.split(), 6)
            text = " ".join(rng.choice([rng.choice(COMMON), rng.choice(COMMON), rng.choice(some)]) for _ in range(60))
            found.append(Passage(id=f"{rng.random():.9f}", source=Source(path=subject, sha256="0"), group=f"{subject}{number % 9}", text=text))
    return sorted(found, key=lambda one: one.id)


def test_passages_get_the_subtopic_of_their_subject_named_by_its_own_terms() -> None:
    corpus = passages(60)
    named = name_subtopics(corpus, wanted=3)
    by_subject = {subject: Counter(named[one.id] for one in corpus if one.source.path == subject) for subject in SUBJECTS}
    main = {subject: found.most_common(1)[0] for subject, found in by_subject.items()}
    assert len({name for name, _ in main.values()}) == 3
    assert all(count >= 57 for _, count in main.values()), by_subject
    assert all(term in SUBJECTS[subject].split() for subject, (name, _) in main.items() for term in name.split(", ")), main
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
