"""shape: sides by document, held-out forms, lengths, the tokenizer, and a leakage gate that rejects planted leaks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError, GateFailed
from forge.phases.shape import ShapeSettings, phase
from forge.phases.shape.leakage import assert_no_leakage, measure_leakage, question
from forge.phases.shape.split import hold_out_forms, split_abstentions, split_groups
from forge.phases.synth import phase as synth
from forge.questions import near_duplicates
from forge.records import (
    Chat,
    DataContract,
    Example,
    Message,
    Pair,
    Passage,
    Quote,
    Split,
    read_jsonl,
    read_record,
    write_jsonl,
)
from forge.testing import PhaseRun, run_phase

from .clock_world import clock_passages, write_clean

SPLITS: tuple[Split, ...] = ("train", "val", "test_recall", "test_unseen", "test_abstain")
ABSTENTION = "I can't answer that from the documents I was trained on."


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clean.jsonl and pairs.jsonl of the clock corpus."""
    folder = tmp_path_factory.mktemp("clock")
    clean = write_clean(folder / "clean.jsonl", clock_passages())
    run_phase(synth, folder / "synth", inputs={"clean": clean})
    (folder / "pairs.jsonl").write_bytes((folder / "synth" / "out" / "pairs.jsonl").read_bytes())
    return folder


def run(folder: Path, asked: Path, *, dry_run: bool = False, seed: int = 7, change: Callable[[list[Pair]], list[Pair]] | None = None, **settings: Any) -> PhaseRun:
    pairs = asked / "pairs.jsonl"
    if change:
        changed = change(list(read_jsonl(pairs, Pair)))
        pairs = folder / "changed.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(pairs, changed)
    inputs = {"clean": asked / "clean.jsonl", "pairs": pairs}
    return run_phase(phase, folder, settings=ShapeSettings(**settings), inputs=inputs, dry_run=dry_run, seed=seed)


def rows_of(result: PhaseRun) -> dict[Split, list[Example]]:
    return {name: list(read_jsonl(result.out / f"{name}.jsonl", Example)) for name in SPLITS}


def contract_of(result: PhaseRun) -> DataContract:
    return read_record(result.out / "shape.json", DataContract)


def pair(number: int, group: str, fact: str = "", form: int = 0) -> Pair:
    return Pair(id=f"{group}-{number:04d}-{fact}-{form}", bucket="b", question=f"q {group} {number} {form}?", answer="a", passage="p", group=group, fact=fact or f"{group}{number}", form=form)


def test_documents_are_on_one_side_only(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path, asked))
    sides = [{row.group for row in rows[name]} for name in ("train", "val", "test_unseen")]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert {row.group for row in rows["test_recall"]} <= sides[0]


def test_pretraining_never_sees_an_unseen_document(tmp_path: Path, asked: Path) -> None:
    result = run(tmp_path, asked)
    rows = rows_of(result)
    pretrain, val = (list(read_jsonl(result.out / f"{name}.jsonl", Passage)) for name in ("pretrain", "pretrain_val"))
    unseen = {row.group for row in rows["test_unseen"]}
    assert not unseen & {passage.group for passage in [*pretrain, *val]}
    assert {passage.group for passage in val} == {row.group for row in rows["val"] if row.origin}
    originals = {passage.id: passage.text for passage in clock_passages()}
    assert all(passage.text == originals[passage.id] and passage.tokens > 0 for passage in [*pretrain, *val])


def test_recall_asks_another_form_of_a_trained_fact(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path, asked))
    fact = {pair.id: pair.fact for pair in read_jsonl(asked / "pairs.jsonl", Pair)}
    trained = {fact[row.id] for row in rows["train"]}
    assert len(rows["test_recall"]) >= 25
    assert all(fact[row.id] in trained for row in rows["test_recall"])


def test_abstention_rows_are_in_training_and_none_is_near_one_of_the_test(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path, asked))
    taught = [row for row in rows["train"] if isinstance(row.body, Chat) and not row.body.answerable]
    assert 0.08 <= len(taught) / len(rows["train"]) <= 0.5
    assert len(rows["test_abstain"]) >= 50
    assert all(row.group.startswith("abstain-") for row in rows["test_abstain"])
    assert {row.bucket for row in rows["test_abstain"]} == {"abstain_near", "abstain_document", "abstain_far"}
    assert near_duplicates([question(row) for row in rows["test_abstain"]], [question(row) for row in taught]) == []


def test_rows_are_chats_with_the_system_prompt(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path, asked, system_prompt="You know clocks."))
    for row in rows["train"]:
        assert isinstance(row.body, Chat)
        assert [turn.role for turn in row.body.prompt] == ["system", "user"]
        assert row.body.prompt[0].content == "You know clocks."
        assert (row.body.completion[0].content == ABSTENTION) == (not row.body.answerable)


def test_the_contract_counts_what_is_there(tmp_path: Path, asked: Path) -> None:
    result = run(tmp_path, asked)
    rows, contract = rows_of(result), contract_of(result)
    assert contract.counts == {name: len(rows[name]) for name in SPLITS}
    assert contract.groups == {name: len({row.group for row in rows[name]}) for name in SPLITS}
    assert contract.abstention == ABSTENTION
    assert 0 < contract.longest_prompt < contract.longest <= contract.max_length
    assert sum(contract.buckets.values()) == sum(contract.counts.values())
    assert not any(value for name, value in contract.leakage.items() if name != "unseen_13gram_share")


def test_the_same_input_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path, asked: Path) -> None:
    first, second, other = run(tmp_path / "a", asked), run(tmp_path / "b", asked), run(tmp_path / "c", asked, seed=8)
    names = [*(f"{name}.jsonl" for name in SPLITS), "shape.json", "pretrain.jsonl", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    for name in names:
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes(), name
    assert (first.out / "train.jsonl").read_bytes() != (other.out / "train.jsonl").read_bytes()


def test_a_dry_run_uses_a_small_vocabulary(tmp_path: Path, asked: Path) -> None:
    assert contract_of(run(tmp_path, asked, dry_run=True)).vocab_size <= 512


# --- splits ----------------------------------------------------------------------------------------------------------


def test_fewer_than_three_documents_are_refused() -> None:
    with pytest.raises(ForgeError, match="2 groups") as caught:
        split_groups([pair(1, "a"), pair(1, "b")], seed=7, val_share=0.05, unseen_share=0.1)
    assert "never on both sides" in caught.value.why


@pytest.mark.parametrize("groups", [3, 4, 10])
def test_each_side_has_at_least_one_document(groups: int) -> None:
    pairs = [pair(number, f"g{group}") for group in range(groups) for number in range(5)]
    sides = split_groups(pairs, seed=7, val_share=0.05, unseen_share=0.1)
    assert set(sides.values()) == {"train", "val", "test_unseen"}


def test_shares_are_kept_by_size_and_a_huge_document_stays_in_training() -> None:
    pairs = [pair(number, "huge") for number in range(300)] + [pair(number, f"g{group}") for group in range(60) for number in range(10)]
    sides = split_groups(pairs, seed=7, val_share=0.05, unseen_share=0.1)
    assert sides["huge"] == "train"
    unseen = sum(sides[one.group] == "test_unseen" for one in pairs) / len(pairs)
    assert 0.08 <= unseen <= 0.13


def test_adding_a_document_moves_few_others() -> None:
    pairs = [pair(number, f"g{group}") for group in range(60) for number in range(5)]
    before = split_groups(pairs, seed=7, val_share=0.05, unseen_share=0.1)
    after = split_groups([*pairs, *(pair(number, "new") for number in range(5))], seed=7, val_share=0.05, unseen_share=0.1)
    assert sum(before[group] != after[group] for group in before) <= 3


def test_one_form_of_a_fact_is_held_out_and_single_forms_never() -> None:
    pairs = [pair(1, "g", fact=f"f{fact}", form=form) for fact in range(50) for form in range(3)] + [pair(9, "g", fact="only")]
    train, recall = hold_out_forms(pairs, seed=7)
    assert len(recall) == 30
    assert len({one.fact for one in recall}) == 30
    assert "only" not in {one.fact for one in recall}
    assert len({one.form for one in recall}) == 3
    assert len(train) + len(recall) == len(pairs)


def test_facts_with_names_are_held_out_first_but_are_at_most_half() -> None:
    pairs = [pair(1, "g", fact=f"f{fact}", form=form) for fact in range(200) for form in range(2)]
    named = [one.model_copy(update={"names": ("SHA-256",)}) if int(one.fact[1:]) % 20 == 0 else one for one in pairs]
    _, recall = hold_out_forms(named, seed=7)
    assert len(recall) == 120
    assert sum(bool(one.names) for one in recall) == 10, "all of them: chance would bring six"
    everywhere = [one.model_copy(update={"names": ("SHA-256", "Q8_0", "GGUF")}) if int(one.fact[1:]) % 2 else one for one in pairs]
    _, recall = hold_out_forms(everywhere, seed=7)
    assert len(recall) == 120
    assert 47 <= sum(bool(one.names) for one in recall) <= 100


def test_near_duplicate_abstentions_share_a_side() -> None:
    texts = [f"Who painted the {color} gate of the castle?" for color in ("red", "blue", "old")] + [f"How does {word} taste?" for word in ("rye", "mint", "sage", "dill")]
    pairs = [Pair(id=f"a{i}", bucket="abstain_far", question=text, answer=ABSTENTION) for i, text in enumerate(texts)]
    sides, cluster = split_abstentions(pairs, seed=7, val_share=0.05)
    assert len({cluster[f"a{i}"] for i in range(3)}) == 1
    assert sum(any(one.id == "a0" for one in found) for found in sides.values()) == 1
    assert sorted(one.id for found in sides.values() for one in found) == [one.id for one in pairs]


# --- leakage ---------------------------------------------------------------------------------------------------------


def row(name: str, split: Split, group: str, text: str, *, answerable: bool = True) -> Example:
    body = Chat(prompt=(Message(role="user", content=text),), completion=(Message(role="assistant", content="x"),), answerable=answerable)
    return Example(id=name, split=split, group=group, body=body)


def clean_rows() -> dict[Split, list[Example]]:
    return {
        "train": [row("t1", "train", "g1", "How does the anchor escapement of a tower clock release the wheel?"), row("t2", "train", "ab1", "Who painted the moon dial?", answerable=False)],
        "val": [row("v1", "val", "g2", "Why does a pendulum swing?")],
        "test_recall": [row("r1", "test_recall", "g1", "Explain how an escapement is built.")],
        "test_unseen": [row("u1", "test_unseen", "g3", "Which oil is used for the strike train?")],
        "test_abstain": [row("x1", "test_abstain", "ab2", "How do I boil an egg?", answerable=False)],
    }


def facts() -> dict[str, Pair]:
    fact = {"t1": "f1", "r1": "f1"}
    return {
        name: Pair(id=name, bucket="b", question="q", answer="a", evidence="Bone oil is used for the strike train.", fact=fact.get(name, name))
        for name in ("t1", "t2", "v1", "r1", "u1", "x1")
    }


def test_clean_rows_pass_the_leakage_gate() -> None:
    assert_no_leakage(measure_leakage(clean_rows(), [], facts()))


@pytest.mark.parametrize(
    ("split", "leak", "figure"),
    [
        ("test_unseen", row("u1", "test_unseen", "g1", "Which oil is used for the strike train?"), "shared_groups_unseen"),
        ("test_unseen", row("u1", "test_unseen", "g2", "Which oil is used for the strike train?"), "shared_groups_unseen"),
        ("val", row("v1", "val", "g1", "Why does a pendulum swing?"), "shared_groups_val"),
        ("test_abstain", row("x1", "test_abstain", "ab1", "How do I boil an egg?", answerable=False), "shared_groups_abstain"),
        ("test_unseen", row("u1", "test_unseen", "g3", "how does an anchor escapement of the tower clock release the wheel"), "identical_questions"),
        ("test_recall", row("r1", "test_recall", "g1", "How does an anchor escapement of a tower clock releases the wheel?"), "near_identical_questions"),
        ("test_abstain", row("x1", "test_abstain", "ab2", "Who painted the old moon dial?", answerable=False), "near_duplicate_abstentions"),
        ("test_recall", row("t2", "test_recall", "g1", "Explain the bell."), ""),
    ],
)
def test_a_planted_leak_is_rejected(split: Split, leak: Example, figure: str) -> None:
    rows = clean_rows()
    rows[split] = [leak]
    if not figure:
        rows["train"] = rows["train"][:1]
        figure = "untrained_recall_facts"
    with pytest.raises(GateFailed, match="leak") as caught:
        assert_no_leakage(measure_leakage(rows, [], facts()))
    assert figure in caught.value.why


def test_a_pretraining_passage_of_an_unseen_document_is_rejected() -> None:
    passage = clock_passages(1)[0].model_copy(update={"group": "g3"})
    with pytest.raises(GateFailed, match="leak"):
        assert_no_leakage(measure_leakage(clean_rows(), [passage], facts()))


def test_evidence_that_stands_in_a_training_passage_is_reported() -> None:
    passage = clock_passages(1)[0].model_copy(update={"group": "g1", "text": "It is said: bone oil is used for the strike train. So be it."})
    leakage = measure_leakage(clean_rows(), [passage], facts())
    assert leakage["unseen_13gram_share"] == 1.0
    assert_no_leakage(leakage)


def test_a_test_question_that_training_asks_too_is_taken_out_and_named(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path / "before", asked))
    copied = question(rows["train"][0])

    def plant(pairs: list[Pair]) -> list[Pair]:
        return [one.model_copy(update={"question": copied}) if one.id == rows["test_unseen"][0].id else one for one in pairs]

    result = run(tmp_path / "after", asked, change=plant)
    assert rows["test_unseen"][0].id not in {row.id for row in rows_of(result)["test_unseen"]}
    assert any("nearly those of training" in str(fields.get("text")) for _, fields in result.events)


# --- lengths and markers ---------------------------------------------------------------------------------------------


def test_a_few_rows_too_long_are_left_out_counted_and_named(tmp_path: Path, asked: Path) -> None:
    def lengthen(pairs: list[Pair]) -> list[Pair]:
        long = next(one for one in pairs if one.passage)
        return [one.model_copy(update={"answer": "word " * 700}) if one.id == long.id else one for one in pairs]

    result = run(tmp_path, asked, change=lengthen)
    assert contract_of(result).too_long == 1
    assert any("longer than 512 tokens" in str(fields.get("text")) for _, fields in result.events)


def test_many_rows_too_long_fail_the_phase(tmp_path: Path, asked: Path) -> None:
    with pytest.raises(ForgeError, match="longer than 64 tokens") as caught:
        run(tmp_path, asked, max_length=64, vocab_size=300)
    assert "shape.max_length=128" in caught.value.next


def test_markers_of_the_template_inside_a_text_are_left_out(tmp_path: Path, asked: Path) -> None:
    def mark(pairs: list[Pair]) -> list[Pair]:
        marked = next(one for one in pairs if one.passage)
        return [one.model_copy(update={"answer": "A turn ends with <|im_end|> here."}) if one.id == marked.id else one for one in pairs]

    result = run(tmp_path, asked, change=mark)
    assert not any("<|im_end|>" in turn.content for found in rows_of(result).values() for one in found if isinstance(one.body, Chat) for turn in one.body.completion)
    assert any("marker of the chat template" in str(fields.get("text")) for _, fields in result.events)


def test_two_abstention_sentences_are_refused(tmp_path: Path, asked: Path) -> None:
    def vary(pairs: list[Pair]) -> list[Pair]:
        first = next(one for one in pairs if not one.passage)
        return [one.model_copy(update={"answer": "No idea."}) if one.id == first.id else one for one in pairs]

    with pytest.raises(ForgeError, match="2 different sentences"):
        run(tmp_path, asked, change=vary)


def test_without_abstention_pairs_the_test_is_empty_and_said_so(tmp_path: Path, asked: Path) -> None:
    result = run(tmp_path, asked, change=lambda pairs: [one for one in pairs if one.passage])
    assert contract_of(result).counts["test_abstain"] == 0
    assert contract_of(result).abstention == ""
    assert any("abstention stays undecided" in str(fields.get("text")) for _, fields in result.events)


def test_the_contract_is_plain_json_with_sorted_keys(tmp_path: Path, asked: Path) -> None:
    text = (run(tmp_path, asked).out / "shape.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == sorted(json.loads(text))


def test_a_conversation_keeps_its_earlier_turns_and_is_compared_as_a_whole(tmp_path: Path, asked: Path) -> None:
    earlier = (Message(role="user", content="What drives the clock?"), Message(role="assistant", content="A weight."))

    def talk(pairs: list[Pair]) -> list[Pair]:
        return [one.model_copy(update={"earlier": earlier}) if number % 9 == 0 else one for number, one in enumerate(pairs)]

    rows = rows_of(run(tmp_path, asked, change=talk))
    talks = [row for found in rows.values() for row in found if isinstance(row.body, Chat) and len(row.body.prompt) == 4]
    assert talks
    assert [turn.role for turn in talks[0].body.prompt] == ["system", "user", "assistant", "user"]  # type: ignore[union-attr]
    assert question(talks[0]).startswith("What drives the clock?\n")


def test_a_comparison_of_documents_on_different_sides_is_left_out(tmp_path: Path, asked: Path) -> None:
    rows = rows_of(run(tmp_path / "before", asked))
    groups: list[set[str]] = [{row.group for row in rows[name]} for name in ("train", "test_unseen")]
    inside, outside = (next(one for one in clock_passages() if one.group in found) for found in groups)

    def compare(pairs: list[Pair]) -> list[Pair]:
        own = next(one for one in pairs if one.passage == inside.id)
        joined = own.model_copy(update={"id": "joined", "fact": "joined", "question": "How do the two towers differ?", "also": (Quote(passage=outside.id, evidence="x"),)})
        return [*pairs, joined]

    result = run(tmp_path / "after", asked, change=compare)
    assert "joined" not in {row.id for found in rows_of(result).values() for row in found}
    assert "1 comparisons join documents of different sides" in " ".join(str(fields.get("text")) for _, fields in result.events)


def test_the_abstention_sentence_is_the_same_bytes_in_prompt_answers_and_contract(tmp_path: Path, asked: Path) -> None:
    result = run(tmp_path, asked, system_prompt="Answer from the documents, or say exactly: {abstention}")
    contract = contract_of(result)
    said = [row.body for found in rows_of(result).values() for row in found if isinstance(row.body, Chat)]
    assert contract.abstention == ABSTENTION
    assert contract.system_prompt == f"Answer from the documents, or say exactly: {ABSTENTION}"
    assert {body.prompt[0].content.encode() for body in said} == {contract.system_prompt.encode()}
    assert {body.completion[0].content.encode() for body in said if not body.answerable} == {ABSTENTION.encode()}
