"""Near-duplicate questions: the fast search finds exactly what comparing all pairs finds."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from forge.questions import clusters, near_duplicates, normalize, same_subject, similarity, subject

PHRASES = st.lists(st.sampled_from(["what", "is", "the", "lease", "gate", "ledger", "split", "of", "a", "run", "how", "why", "does", "hold", "open", "pair", "model"]), min_size=1, max_size=7).map(" ".join)


@given(st.lists(PHRASES, max_size=12), st.lists(PHRASES, max_size=12), st.sampled_from([0.5, 0.7, 0.9]))
def test_the_search_finds_what_comparing_all_pairs_finds(left: list[str], right: list[str], at_least: float) -> None:
    found = {(i, j) for i, j, _ in near_duplicates(left, right, at_least)}
    truth = {(i, j) for i, a in enumerate(left) for j, b in enumerate(right) if similarity(a, b) >= at_least}
    assert found == truth


def test_case_punctuation_and_articles_do_not_make_a_new_question() -> None:
    assert normalize("What is a Lease?") == normalize("what is THE lease") == "what is lease"


def test_the_subject_is_what_is_left_without_framing() -> None:
    assert subject("What does the skip rule say about a fingerprint?") == {"skip", "rule", "fingerprint"}


def test_one_wording_on_two_subjects_is_not_the_same_question() -> None:
    texts = ["What do the documents say about the mainspring?", "What do the documents say about the escapement?", "What do documents say about a mainspring?"]
    assert same_subject(texts, texts) == [(0, 2)]


def test_clusters_are_transitive_and_named_by_their_first_question() -> None:
    texts = ["Who painted the red gate today?", "How long is a day?", "Who painted the old gate today?", "Who painted the old gate then?"]
    assert clusters(texts) == [0, 1, 0, 0]


def test_a_thousand_templated_questions_are_searched_in_seconds() -> None:
    generator = random.Random(7)
    nouns = [f"{a}{b}" for a in ("moon", "clock", "tower", "winder", "strike") for b in ("dial", "wheel", "train", "spring")]
    texts = [f"What is the {generator.choice(nouns)} {generator.choice(nouns)}?" for _ in range(1000)]
    assert len(near_duplicates(texts, texts, 0.95)) > 0
