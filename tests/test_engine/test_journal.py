"""The journal survives a kill at any byte and never returns a damaged record."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge.journal import Journal


def test_finished_items_are_there_after_reopening(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.put("b", {"text": "zwei\n\u2028"})
        journal.put("a", [1, None])
    with Journal(tmp_path / "j") as journal:
        assert list(journal.items()) == [("a", [1, None]), ("b", {"text": "zwei\n\u2028"})]


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 200), flip=st.integers(0, 200))
def test_a_torn_or_damaged_tail_is_cut_off_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    with Journal(path) as journal:
        for number in range(5):
            journal.put(str(number), {"number": number})
    data = bytearray(path.read_bytes())
    data = data[: max(0, len(data) - cut)]
    if data and flip < len(data):
        data[flip] ^= 0x5A
    path.write_bytes(bytes(data))
    with Journal(path) as journal:
        kept = dict(journal.items())
        assert all(value == {"number": int(key)} for key, value in kept.items())
        assert sorted(kept) == [str(number) for number in range(len(kept))]
        journal.put("new", 1)
    with Journal(path) as journal:
        assert journal.get("new") == 1
        assert len(journal) == len(kept) + 1
