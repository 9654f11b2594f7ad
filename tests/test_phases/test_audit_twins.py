"""Containment and twin documents against their definition, by brute force; and filters against text that is made to be slow."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.phases.audit.boilerplate import find_boilerplate
from forge.phases.audit.prose import prose_of
from forge.phases.audit.quality import hard_signal, soft_signals
from forge.phases.audit.references import reference_share
from forge.phases.audit.shingles import unique_shingles
from forge.phases.audit.twins import find_contained, find_twins, merge
from forge.private import mask
from forge.records import Passage, Source


def passages_of(corpus: list[list[str]]) -> list[Passage]:
    source = Source(path="x", sha256="0")
    return [
        Passage(id=f"d{d:02}-{n:02}", source=source, group=f"d{d:02}", text=text)
        for d, texts in enumerate(corpus)
        for n, text in enumerate(texts)
    ]


def brute_force(passages: list[Passage], worst_first: list[str], threshold: float) -> dict[str, float]:
    left = {passage.id: passage for passage in passages}
    shingles = {passage.id: set(unique_shingles(passage.text).tolist()) for passage in passages}
    found = {}
    for id in worst_first:
        held: defaultdict[str, set[int]] = defaultdict(set)
        for other in left.values():
            if other.group != left[id].group:
                held[other.group] |= shingles[other.id] & shingles[id]
        share = max((len(own) / len(shingles[id]) for own in held.values()), default=0.0) if shingles[id] else 0.0
        if share >= threshold:
            found[id] = share
            del left[id]
    return found


texts = st.lists(st.sampled_from("abc"), max_size=16).map(" ".join)
corpora = st.lists(st.lists(texts, min_size=1, max_size=3), max_size=4)


@settings(max_examples=200, deadline=None)
@given(corpus=corpora, threshold=st.sampled_from((0.5, 0.75, 0.8, 1.0)), order=st.randoms(use_true_random=False))
def test_contained_passages_equal_brute_force(corpus: list[list[str]], threshold: float, order: object) -> None:
    passages = passages_of(corpus)
    worst_first = [passage.id for passage in passages]
    order.shuffle(worst_first)  # type: ignore[attr-defined]
    found = {one.id: one.similarity for one in find_contained(passages, worst_first, threshold)}
    assert found == brute_force(passages, worst_first, threshold)
    assert all(one.holder[:3] != one.id[:3] for one in find_contained(passages, worst_first, threshold))


def test_of_twins_only_the_worse_goes_and_the_text_survives_somewhere() -> None:
    text = " ".join(f"w{i}" for i in range(60))
    passages = passages_of([[text], [text], [text]])
    assert [one.id for one in find_contained(passages, ["d02-00", "d01-00", "d00-00"], 0.8)] == ["d02-00", "d01-00"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), max_size=6))
def test_twins_are_documents_that_share_half_of_the_smaller_one(shares: list[list[int]]) -> None:
    """Documents of blocks of 40 words from a pool of ten: block overlap decides, whatever the passages."""
    blocks = [" ".join(f"b{block}w{i}" for i in range(40)) for block in range(10)]
    passages = passages_of([[blocks[block] for block in own] for own in shares])
    expected = set()
    for (a, one), (b, two) in combinations([(f"d{d:02}", set(own)) for d, own in enumerate(shares)], 2):
        if len(one & two) / min(len(one), len(two)) >= 0.5:
            expected.add((a, b))
    # a similar pair may be reported by way of a third document only, so clusters are compared
    assert merge(find_twins(passages, 0.5)) == merge(sorted(expected))


def test_a_phrase_in_many_documents_makes_no_twins() -> None:
    notice = " ".join(f"notice{i}" for i in range(60))
    corpus = [[" ".join(f"d{d}w{i}" for i in range(50 if d else 200)), notice] for d in range(30)]
    assert find_twins(passages_of(corpus), 0.5) == []


def test_merging_names_a_cluster_after_its_smallest_member() -> None:
    assert merge([("c", "b"), ("x", "y"), ("b", "a")]) == {"a": "a", "b": "a", "c": "a", "x": "x", "y": "x"}


SLOW = {
    "letters": "a" * 100_000,
    "digits": "1" * 100_000,
    "at signs": "a@" * 50_000,
    "dots": "a." * 50_000,
    "brackets": "[" * 100_000,
    "links": "[a](" * 25_000,
    "key begins": "-----BEGIN PRIVATE " + "KEY-----\n" * 5000,
    "key words": "private key abcdefghijklmnop " * 4000,
    "base64": ("Ab3" * 20 + "\n") * 1500,
    "passwords": "password=" * 10_000,
    "fences": "```x\n" * 20_000,
    "backticks": "`" * 100_000,
    "dollars": "$a " * 30_000,
    "tags": "<a" * 50_000,
    "colons": "2a00::" * 15_000,
    "cards": "4444 " * 20_000,
    "years": "(1999) Smith, J. " * 6000,
}


@pytest.mark.parametrize("kind", SLOW)
def test_no_text_makes_a_filter_slow(kind: str) -> None:
    text = SLOW[kind]
    started = time.process_time()
    mask(text)
    soft_signals(text, prose_of(text))
    hard_signal(text)
    reference_share(text)
    find_boilerplate(passages_of([[text]]))
    assert time.process_time() - started < 5
