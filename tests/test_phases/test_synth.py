"""synth with the offline teacher: what is let through, what is refused and why, and the questions to abstain from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from forge.errors import ForgeError
from forge.phases.synth import SynthSettings, phase
from forge.phases.synth.filters import exact_span, invented, sift
from forge.phases.synth.names import Names
from forge.phases.synth.unanswerable import Corpus, sift_unanswerable
from forge.records import Pair, Passage, Rejected, read_jsonl
from forge.testing import PhaseRun, run_phase

from .clock_world import clock_passages, write_clean

TEXT = "The Harlow gauge has 14 teeth and weighs 3 kg.\nA `MutexGuard` keeps\nthe SQL door shut while the RefCell is open."


def item(text: str = TEXT) -> Passage:
    return clock_passages(1)[0].model_copy(update={"id": "p1", "text": text})


def pair(**changes: object) -> Pair:
    fields: dict[str, object] = {
        "id": "x1", "bucket": "definition", "question": "How many teeth does the Harlow gauge have?",
        "answer": "The Harlow gauge has 14 teeth and weighs 3 kg.", "evidence": "The Harlow gauge has 14 teeth and weighs 3 kg.",
        "passage": "p1", "group": "g", "fact": "f1",
    }
    return Pair.model_validate({**fields, **changes})


def reasons(*pairs: Pair, similarity: float = 0.7) -> dict[str, str]:
    _, rejected = sift(pairs, {"p1": item()}, similarity=similarity, answer_chars_max=120)
    return {entry.pair.id: entry.reason for entry in rejected}


def run(folder: Path, *, documents: int = 8, dry_run: bool = False, **settings: object) -> PhaseRun:
    clean = write_clean(folder / "clean.jsonl", clock_passages(documents))
    return run_phase(phase, folder, settings=SynthSettings.model_validate(settings), inputs={"clean": clean}, dry_run=dry_run)


def pairs_of(result: PhaseRun) -> list[Pair]:
    return list(read_jsonl(result.out / "pairs.jsonl", Pair))


def test_a_good_pair_passes() -> None:
    assert reasons(pair()) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": ""}, "incomplete"),
        ({"answer": " "}, "incomplete"),
        ({"question": "Teeth?"}, "question_length"),
        ({"answer": "Yes, 14.", "bucket": "summary"}, "answer_length"),
        ({"answer": "The Harlow gauge has 14 teeth. " * 9}, "answer_length"),
        ({"answer": "The Harlow gauge <|im_end|> has 14 teeth."}, "special_token"),
        ({"question": "What does this passage say about teeth?"}, "leaning_question"),
        ({"question": "What does the author think of the gauge?"}, "leaning_question"),
        ({"question": "What is shown in Figure 3?"}, "leaning_question"),
        ({"question": "What is it and why is this?"}, "leaning_question"),
        ({"answer": "As shown above, the Harlow gauge has 14 teeth."}, "leaning_answer"),
        ({"answer": "How many teeth does the gauge have?"}, "answer_is_question"),
        ({"evidence": "The Harlow gauge has fourteen teeth."}, "evidence_not_in_passage"),
        ({"answer": "The Harlow gauge has 15 teeth and weighs 3 kg."}, "number_or_name_not_in_passage"),
        ({"answer": "The Harlow gauge weighs 3 km in all."}, "number_or_name_not_in_passage"),
        ({"answer": "The Harlow gauge is a MutexGard with 14 teeth."}, "number_or_name_not_in_passage"),
        ({"answer": "The NASA gauge has 14 teeth."}, "number_or_name_not_in_passage"),
        ({"answer": "The Harlow gauge at the SQL door has 14 teeth."}, "number_or_name_not_in_evidence"),
    ],
)
def test_each_filter_refuses_its_bad_pair(changes: dict[str, object], reason: str) -> None:
    assert reasons(pair(**changes)) == {"x1": reason}


def test_a_question_repeated_word_for_word_is_refused_even_for_the_same_fact() -> None:
    assert reasons(pair(), pair(id="x2", form=1, question="how many teeth does a Harlow gauge have")) == {"x2": "repeated_question"}


def test_near_duplicates_are_refused_for_different_facts_and_allowed_as_forms_of_one() -> None:
    similar = "How many teeth has the Harlow gauge?"
    assert reasons(pair(), pair(id="x2", fact="f2", question=similar), similarity=0.6) == {"x2": "near_duplicate_question"}
    assert reasons(pair(), pair(id="x2", form=1, question=similar), similarity=0.6) == {}


def test_questions_of_one_wording_on_different_subjects_are_no_near_duplicates() -> None:
    first, second = pair(question="What does the mainspring do?"), pair(id="x2", fact="f2", question="What does the escapement do?")
    assert reasons(first, second) == {}


def test_an_answer_may_not_serve_many_facts() -> None:
    asked = ("How many teeth has the Harlow gauge?", "What does Harlow weigh?", "Which gauge weighs 3 kg?", "Describe Harlow's bite.", "Name a heavy gauge.")
    many = [pair(id=f"x{i}", fact=f"f{i}", question=text) for i, text in enumerate(asked)]
    assert reasons(*many) == {"x3": "overused_answer", "x4": "overused_answer"}


def test_evidence_is_found_across_line_breaks_and_stored_as_it_stands_in_the_passage() -> None:
    assert exact_span("A `MutexGuard` keeps the SQL door shut", TEXT) == "A `MutexGuard` keeps\nthe SQL door shut"
    assert exact_span("never said", TEXT) == ""


def test_made_up_numbers_units_and_names_are_found() -> None:
    assert invented("It has 14 teeth.", TEXT) == []
    assert invented("It has 41 teeth, 3 kg, SQL and a RefCell, but no TLS and no BoxCell.", TEXT) == ["41", "TLS", "BoxCell"]


def test_protected_names_are_frequent_spellings_and_code() -> None:
    names = Names([item("MeshSegNet and SHA-256 run."), item("MeshSegNet runs on SHA-256."), item("MeshSegNet, SHA-256 and OnceOnly.")])
    assert names.of("MeshSegNet uses SHA-256, OnceOnly and `--force` with max_length.") == ("--force", "MeshSegNet", "SHA-256", "max_length")


def test_every_pair_carries_its_group_source_fact_and_an_exact_evidence(tmp_path: Path) -> None:
    passages = {passage.id: passage for passage in clock_passages()}
    pairs = [pair for pair in pairs_of(run(tmp_path)) if pair.passage]
    assert len(pairs) > 60
    for found in pairs:
        passage = passages[found.passage]
        assert (found.group, found.source) == (passage.group, passage.source)
        assert found.evidence in passage.text
    assert len({found.id for found in pairs}) == len(pairs)
    assert max(Counter(found.fact for found in pairs).values()) >= 3


def test_abstention_pairs_have_the_one_sentence_no_passage_and_no_evidence(tmp_path: Path) -> None:
    result = run(tmp_path, abstention="I do not know that.")
    found = [pair for pair in pairs_of(result) if not pair.passage]
    assert {pair.answer for pair in found} == {"I do not know that."}
    assert {pair.bucket for pair in found} == {"abstain_near", "abstain_document", "abstain_far"}
    assert not any(pair.evidence or pair.group for pair in found)
    assert len(found) >= 100


def test_abstention_can_be_turned_off_and_says_what_that_means(tmp_path: Path) -> None:
    result = run(tmp_path, abstention_share=0)
    assert all(pair.passage for pair in pairs_of(result))
    assert any("abstention_share is 0" in str(fields.get("text")) for _, fields in result.events)


def test_a_thing_that_the_corpus_has_is_no_abstention_question() -> None:
    corpus = Corpus(clock_passages())
    assert corpus.mentions("winding crown")
    assert corpus.mentions("crowns winding")
    assert not corpus.mentions("winding pendulum dial")
    near = pair(id="n1", bucket="abstain_near", question="What is the gear train?", evidence="gear train", passage="", answer="no")
    unnamed = near.model_copy(update={"id": "n2", "question": "Who painted the cellar?", "evidence": ""})
    far = near.model_copy(update={"id": "f1", "bucket": "abstain_far", "question": "Who hardened the brittle pendulum?", "evidence": ""})
    good, refused = sift_unanswerable([near, unnamed, far], [], corpus)
    assert good == []
    assert {entry.pair.id: entry.reason for entry in refused} == {"n1": "not_absent", "n2": "absence_not_named", "f1": "might_be_answerable"}


def test_an_abstention_question_like_an_answerable_one_is_refused() -> None:
    near = pair(id="n1", bucket="abstain_near", question="How many teeth does a Harlow gauge have now?", evidence="zebra", passage="", answer="no")
    _, refused = sift_unanswerable([near], [pair()], Corpus([item("Nothing here.")]))
    assert [entry.reason for entry in refused] == ["resembles_answerable"]


def test_refused_pairs_are_written_with_their_reason(tmp_path: Path) -> None:
    result = run(tmp_path, answer_chars_max=70)
    rejected = list(read_jsonl(result.out / "rejected.jsonl", Rejected))
    assert "answer_length" in {entry.reason for entry in rejected}
    assert result.metrics["rejected"] == len(rejected)


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    for name in ("pairs.jsonl", "rejected.jsonl"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()


def test_a_dry_run_makes_a_small_set_from_several_documents(tmp_path: Path) -> None:
    pairs = pairs_of(run(tmp_path, dry_run=True))
    assert 60 <= len(pairs) <= 140
    assert len({pair.group for pair in pairs if pair.passage}) >= 4


def test_a_corpus_without_a_question_fails_and_says_why(tmp_path: Path) -> None:
    clean = write_clean(tmp_path / "clean.jsonl", [item("0x00 0x01 0x02 0x03")])
    with pytest.raises(ForgeError, match="proposed no pair") as caught:
        run_phase(phase, tmp_path, inputs={"clean": clean})
    assert "1 passages" in caught.value.why


def test_the_estimate_of_a_free_teacher_costs_nothing(tmp_path: Path) -> None:
    from forge.context import FolderContext, InputFile
    from forge.registry import Registry
    from forge.testing import CountingMoney

    clean = write_clean(tmp_path / "clean.jsonl", clock_passages())
    ctx = FolderContext(
        tmp_path, run_id="t", seed=7, dry_run=False, inputs={"clean": InputFile(path=str(clean), sha256="")}, writes=phase.writes,
        registry=Registry(), money=CountingMoney(), emit=lambda kind, fields: None,
    )
    estimate = phase.estimate(SynthSettings(), ctx)
    assert estimate.usd_p90 == 0
    assert 0 < estimate.seconds_p50 <= estimate.seconds_p90
