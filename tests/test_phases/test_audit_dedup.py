"""The near-duplicate kernel against brute force, its boundary, and the `forge dedup` tool."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forge.errors import UsageError
from forge.phases.audit import datasketch_engine, dedup, tool
from forge.phases.audit.shingles import WORDS_PER_SHINGLE, shingle_batch, unique_shingles, words

Engine = Callable[[Iterable[str], float], Iterator[dedup.Match]]
ENGINES: list[Engine] = [dedup.find_near_duplicates, datasketch_engine.find_near_duplicates]


def shingle_set(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    if len(found) < WORDS_PER_SHINGLE:
        return {tuple(found)} if found else set()
    return {tuple(found[i : i + WORDS_PER_SHINGLE]) for i in range(len(found) - WORDS_PER_SHINGLE + 1)}


def brute_force(texts: Sequence[str], threshold: float) -> list[tuple[int | None, float | None]]:
    """Keep-first with sets of words: the definition, without hashes or sketches."""
    kept: list[tuple[int, set[tuple[str, ...]]]] = []
    answer: list[tuple[int | None, float | None]] = []
    for number, text in enumerate(texts):
        own = shingle_set(text)
        scored = [(len(own & other) / len(own | other), -at) for at, other in kept if own]
        best = max(scored, default=(0.0, 0))
        if best[0] >= threshold:
            answer.append((-best[1], best[0]))
        else:
            answer.append((None, None))
            if own:
                kept.append((number, own))
    return answer


def passage_and_copy(n_words: int, exchanged: int) -> tuple[str, str]:
    """Two texts of distinct words; exchanging the last words removes exactly as many of the n-4 shingles."""
    one = [f"w{i}" for i in range(n_words)]
    return " ".join(one), " ".join(one[:-exchanged] + [f"x{i}" for i in range(exchanged)])


@pytest.mark.parametrize("find", ENGINES)
def test_a_pair_exactly_at_the_threshold_is_dropped_and_one_just_below_is_kept(find: Engine) -> None:
    at = passage_and_copy(41, 3)  # 37 shingles each, 34 shared: 34 / 40 = 0.85
    below = passage_and_copy(40, 3)  # 36 each, 33 shared: 33 / 39 = 0.846
    assert list(find(at, 0.85)) == [dedup.Match(0), dedup.Match(1, 0, 0.85)]
    assert list(find(below, 0.85)) == [dedup.Match(0), dedup.Match(1)]


@pytest.mark.parametrize("find", ENGINES)
def test_near_duplicates_equal_brute_force_on_altered_copies(find: Engine) -> None:
    rng = random.Random(3)
    vocabulary = ["".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(400)]
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(3, 120))) for _ in range(150)]
    for text in rng.sample(texts, 120):
        copy = text.split()
        for at in rng.sample(range(len(copy)), rng.randint(0, min(4, len(copy)))):
            copy[at] = rng.choice(vocabulary)
        texts.insert(rng.randrange(len(texts)), " ".join(copy))
    for threshold in (0.5, 0.7, 0.85, 0.95):
        found = [(match.duplicate_of, match.similarity) for match in find(texts, threshold)]
        assert found == brute_force(texts, threshold)
        assert any(of is not None for of, _ in found)


small_texts = st.lists(st.lists(st.sampled_from("abcdefg"), max_size=14).map(" ".join), max_size=12)


@settings(max_examples=200, deadline=None)
@example(texts=["b d b d b b", "b d b d b b", ""], threshold=0.85)   # an empty last text cut a shingle off the one before it
@given(texts=small_texts, threshold=st.sampled_from((0.5, 0.6, 0.75, 0.85, 1.0)))
def test_near_duplicates_equal_brute_force_on_any_small_corpus(texts: list[str], threshold: float) -> None:
    found = [(match.duplicate_of, match.similarity) for match in dedup.find_near_duplicates(texts, threshold)]
    assert found == brute_force(texts, threshold)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_shingles_of_any_unicode_text_are_its_words_in_fives(texts: list[str]) -> None:
    hashes, offsets = shingle_batch(texts)
    sets = [set(hashes[start:end].tolist()) for start, end in pairwise(offsets)]
    assert [len(own) for own in sets] == [len(shingle_set(text)) for text in texts]
    for i, one in enumerate(texts):
        for j, two in enumerate(texts):
            assert len(sets[i] & sets[j]) == len(shingle_set(one) & shingle_set(two))


def test_a_text_has_the_same_shingles_alone_and_in_any_batch() -> None:
    texts = [
        "The quick brown fox jumps over the lazy dog",
        "Ünïcode wörds: naïve café, ΣΊΣΥΦΟΣ und mehr",
        "two words",
        "",
        "日本語 の 文章 です ね",
    ]
    hashes, offsets = shingle_batch(texts)
    for number, text in enumerate(texts):
        assert sorted(set(hashes[offsets[number] : offsets[number + 1]].tolist())) == unique_shingles(text).tolist()


def test_texts_without_words_are_never_duplicates() -> None:
    assert all(match.duplicate_of is None for match in dedup.find_near_duplicates(["", "", "...", "--"]))
    assert list(dedup.find_near_duplicates([])) == []


@pytest.mark.parametrize("threshold", [0.0, 0.1, 1.01, -1.0, float("nan")])
def test_a_threshold_that_cannot_be_kept_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError):
        dedup.NearDuplicates(threshold)


@given(threshold=st.floats(0.2, 1.0))
def test_bands_miss_a_pair_at_the_threshold_less_than_once_in_a_hundred_thousand(threshold: float) -> None:
    bands, rows = dedup.choose_sketch(threshold)
    assert bands * rows <= (dedup.PERMUTATIONS if threshold >= 0.55 else dedup.MORE_PERMUTATIONS[-1])
    assert (1 - threshold**rows) ** bands <= 1e-5


def test_documents_that_share_little_are_not_compared_at_half_similarity(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    common = " ".join(f"c{number}" for number in range(12))
    texts = [f"{common} " + " ".join(f"w{rng.randrange(10**6)}" for _ in range(180)) for _ in range(200)]
    compared: list[float] = []

    def counted(one: object, two: object) -> float:
        compared.append(0.0)
        return compared[-1]

    monkeypatch.setattr(dedup, "jaccard", counted)
    assert all(match.duplicate_of is None for match in dedup.find_near_duplicates(texts, 0.5))
    assert len(compared) < 0.2 * 200 * 199 / 2   # bands of one row compare nine tenths of all pairs


# --- forge dedup -----------------------------------------------------------------------------------------------


def ignore(read: int) -> None:
    """Progress that nobody looks at."""


def test_dedup_copies_kept_lines_byte_for_byte_and_in_order(tmp_path: Path) -> None:
    one, copy = passage_and_copy(41, 3)
    lines = [
        json.dumps({"text": "Schöne  Wörter", "id": 7, "extra": [1]}, ensure_ascii=False) + "\r\n",
        "\n",
        json.dumps({"id": "a", "text": one}) + "\n",
        json.dumps({"id": "b", "text": copy}) + "\n",
        '{"id":"c",   "text":"last line without an end"}',
    ]
    source = tmp_path / "in.jsonl"
    source.write_bytes("".join(lines).encode())
    seen: list[int] = []
    counts = tool.dedup(source, tmp_path / "out.jsonl", threshold=0.85, on_progress=seen.append)
    assert counts == {"read": 4, "kept": 3, "dropped": 1}
    assert (tmp_path / "out.jsonl").read_bytes() == "".join([lines[0], lines[2], lines[4], "\n"]).encode()
    assert seen[-1] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"{broken", "in.jsonl:2 is not JSON"),
        (b'"text"', "in.jsonl:2 is no record"),
        (b'{"text": "t"}', "in.jsonl:2 has no id"),
        (b'{"id": "b"}', "in.jsonl:2 has no text"),
        (b'{"id": "b", "text": 5}', "in.jsonl:2 has no text"),
        (b'{"id": "a", "text": "t"}', "in.jsonl:2 has the id 'a' of line 1"),
        (b'{"id": "b", "text": "\xff"}', "in.jsonl:2 is not UTF-8"),
        (b"[" * 100_000, "in.jsonl:2 is not JSON"),
    ],
)
def test_dedup_names_the_line_that_is_wrong_and_leaves_the_old_output(tmp_path: Path, line: bytes, says: str) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"id": "a", "text": "fine"}\n' + line + b"\n")
    out.write_text("old", encoding="utf-8")
    with pytest.raises(UsageError) as error:
        tool.dedup(source, out, threshold=0.85, on_progress=ignore)
    assert error.value.fact == says
    assert out.read_text(encoding="utf-8") == "old"


def test_dedup_refuses_paths_that_cannot_work(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    with pytest.raises(UsageError, match="there is no file"):
        tool.dedup(source, tmp_path / "out", threshold=0.85, on_progress=ignore)
    source.write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="it is a folder"):
        tool.dedup(source, tmp_path, threshold=0.85, on_progress=ignore)
    with pytest.raises(UsageError, match="there is no folder"):
        tool.dedup(source, tmp_path / "no" / "out", threshold=0.85, on_progress=ignore)


def test_dedup_of_an_empty_file_is_an_empty_file(tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("", encoding="utf-8")
    assert tool.dedup(source, out, threshold=0.85, on_progress=ignore) == {"read": 0, "kept": 0, "dropped": 0}
    assert out.read_bytes() == b""


def test_dedup_may_write_over_its_input(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"id":1,"text":"a b c d e f"}\n{"id":2,"text":"a b c d e f"}\n', encoding="utf-8")
    assert tool.dedup(source, source, threshold=0.85, on_progress=ignore)["dropped"] == 1
    assert source.read_text(encoding="utf-8") == '{"id":1,"text":"a b c d e f"}\n'
