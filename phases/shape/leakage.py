"""The integrity gate of the data set: nothing that is tested may have been trained on. Measured on the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from forge.errors import GateFailed
from forge.questions import near_duplicates, normalize, words
from forge.records import Chat, Example, Pair, Passage, Split

NEAR_IDENTICAL = 0.9
"""Two questions this similar differ in an article or an ending. Forms of one fact lie well below (0.3 to 0.8)."""
GRAM = 13
"""Words in a row that two texts do not share by chance (GPT-3, arXiv:2005.14165, appendix C)."""

Rows = Mapping[Split, Sequence[Example]]


def measure_leakage(rows: Rows, pretrain: Sequence[Passage], pairs: Mapping[str, Pair]) -> dict[str, float]:
    """What training and the tests share, by name of the figure. pairs: by id, for the facts and the evidence of the rows."""
    train, val, unseen, abstain = rows["train"], rows["val"], rows["test_unseen"], rows["test_abstain"]
    fitted, tested = [*train, *val], [*rows["test_recall"], *unseen, *abstain]
    known, asked = [question(row) for row in fitted], [question(row) for row in tested]
    groups = {row.group for row in train} | {passage.group for passage in pretrain}
    taught_abstentions = [question(row) for row in fitted if not answerable(row)]
    trained_facts = {pairs[row.id].fact for row in train}
    return {
        "shared_groups_val": float(len(groups & {row.group for row in val})),
        "shared_groups_unseen": float(len((groups | {row.group for row in val}) & {row.group for row in unseen})),
        "shared_groups_abstain": float(len({row.group for row in fitted} & {row.group for row in abstain})),
        "identical_questions": float(len(identical(asked, known))),
        "near_identical_questions": float(len(near_identical(asked, known))),
        "near_duplicate_abstentions": float(len(near_duplicates([question(row) for row in abstain], taught_abstentions))),
        "untrained_recall_facts": float(sum(pairs[row.id].fact not in trained_facts for row in rows["test_recall"])),
        "unseen_13gram_share": overlap_share([_evidence(pairs[row.id]) for row in unseen], [passage.text for passage in pretrain]),
    }


REPORTED = {"unseen_13gram_share"}
"""Figures that are reported and may be above zero: quotations and boilerplate that two documents share."""


def assert_no_leakage(leakage: Mapping[str, float]) -> None:
    """Raise GateFailed naming every figure that is not zero."""
    found = {name: value for name, value in sorted(leakage.items()) if value and name not in REPORTED}
    if found:
        raise GateFailed(
            "the test sets leak into training",
            why="; ".join(f"{name} {value:g}" for name, value in found.items()),
            next="forge resume --from shape; if it stays, forge show shape and report the rows",
        )


def question(row: Example) -> str:
    """What the user says in a chat row, one turn a line: "And why?" is no question without the one before it."""
    assert isinstance(row.body, Chat)
    return "\n".join(turn.content for turn in row.body.prompt if turn.role == "user")


def _evidence(pair: Pair) -> str:
    return "\n".join([pair.evidence, *(quote.evidence for quote in pair.also)])


def answerable(row: Example) -> bool:
    """False for abstention rows."""
    return isinstance(row.body, Chat) and row.body.answerable


def identical(tested: Sequence[str], known: Sequence[str]) -> set[int]:
    """Positions in `tested` whose normal form is also in `known`."""
    forms = {normalize(text) for text in known}
    return {number for number, text in enumerate(tested) if normalize(text) in forms}


def near_identical(tested: Sequence[str], known: Sequence[str]) -> set[int]:
    """Positions in `tested` that are near-identical to something in `known`."""
    return {i for i, _, _ in near_duplicates(tested, known, NEAR_IDENTICAL)}


def overlap_share(tested: Sequence[str], trained: Iterable[str]) -> float:
    """Share of tested texts with a run of GRAM words, or with all their words in a row, in a trained text."""
    if not tested:
        return 0.0
    wanted = [(number, gram) for number, text in enumerate(tested) for gram in _grams(words(text), len(words(text)))]
    sizes = sorted({len(gram) for _, gram in wanted})
    seen = {gram for text in map(words, trained) for size in sizes for gram in _grams(text, size)}
    return len({number for number, gram in wanted if gram in seen}) / len(tested)


def _grams(text: Sequence[str], size: int) -> set[tuple[str, ...]]:
    size = min(size, GRAM)
    return {tuple(text[i : i + size]) for i in range(len(text) - size + 1)} if size else set()
