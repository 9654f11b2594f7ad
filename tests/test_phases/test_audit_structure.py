"""audit takes structure out of the text: labels of speakers, marks of citations, lists of references at the end; each has a twin that stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forge.phases.audit.settings import AuditSettings
from forge.phases.audit.speakers import find_transcripts, without_labels
from forge.records import Passage, Source
from tests.test_phases.test_audit import (
    FRENCH,
    REFERENCES,
    REPETITIVE,
    audit,
    clean,
    drops,
    others,
    prose,
    summary,
)

SAID = (
    "Well, I think the mill was built before the flood.", "Do you remember who paid for it?", "My grandfather did, with what he got for the boat.",
    "And what did your grandmother say to that?", "She never told us, but we saw the letters.", "I would like to see those letters one day.",
)


def transcript(one: str, two: str, form: str = "{}: {}", gap: str = "\n") -> str:
    return gap.join(form.format((one, two)[n % 2], line) for n, line in enumerate(SAID))


TRANSCRIPTS = {
    "roles": transcript("Interviewer", "Interviewee"),
    "numbered speakers": transcript("Speaker 1", "Speaker 2", gap="\n\n"),
    "names": transcript("Ann Lee", "Tom"),
    "times before": transcript("Host", "Guest", "[00:12:04] {}: {}"),
    "times behind": transcript("Mara", "Jon", "{} (01:15): {}"),
    "markdown": transcript("Mara", "Jon", "**{}:** {}"),
    "questions": transcript("Q", "A"),
    "accents": transcript("Zoë", "Łukasz").replace("Łukasz", "Éric"),
}
NO_TRANSCRIPTS = {
    "fields": "\n".join(f"Name: valve {n}\nMaterial: bronze and steel\nDefault: shut until you open it" for n in range(4)),
    "changes": "\n".join(f"{kind}: the parser of part {n} reads long lines" for n, kind in enumerate(["Added", "Fixed"] * 4)),
    "notes": f"{prose(3)}\nNote: you can skip this.\n{prose(4)}\nWarning: your files are lost.\n{prose(5)}\nNote: ask us.\nWarning: do you agree?",
    "one voice": "\n".join(f"Tip: you should oil wheel {n} before you start" for n in range(6)),
    "definitions": "\n".join(f"{word}: a part that you turn by hand" for word in ("Lever", "Wheel", "Crank", "Knob", "Pedal", "Handle")),
    "addresses": "See https: //example.org\nFrom: the office\nTo: the plant\n" * 3,
}


def passage(text: str, path: str = "talk.md", kind: str = "prose") -> Passage:
    return Passage(id=path, source=Source(path=path, sha256="0"), group=path, text=text, meta={"kind": kind})


@pytest.mark.parametrize("form", TRANSCRIPTS)
def test_labels_of_speakers_leave_the_text_and_the_turns_stay_apart(form: str) -> None:
    labels = find_transcripts([passage(TRANSCRIPTS[form])])
    assert len(labels["talk.md"]) == 2, labels
    text, order = without_labels(TRANSCRIPTS[form], labels["talk.md"])
    assert text == "\n\n".join(SAID)
    assert len(order) == 6
    assert set(order) == labels["talk.md"]
    assert order[0] != order[1]


@pytest.mark.parametrize("form", NO_TRANSCRIPTS)
def test_fields_notes_changes_and_definitions_are_no_transcripts(form: str) -> None:
    assert find_transcripts([passage(NO_TRANSCRIPTS[form])]) == {}


def test_code_tables_and_records_are_never_transcripts() -> None:
    for kind in ("code", "table", "record", "list"):
        assert find_transcripts([passage(TRANSCRIPTS["names"], kind=kind)]) == {}


def test_speakers_are_kept_in_order_in_the_meta_and_counted(tmp_path: Path) -> None:
    run = audit(tmp_path, {**others(), "talk.md": [TRANSCRIPTS["names"]]})
    kept = clean(run)["talk.md-000"]
    assert kept.text == "\n\n".join(SAID)
    assert kept.meta["speakers"] == "Ann Lee; Tom; Ann Lee; Tom; Ann Lee; Tom"
    drop = drops(run)["talk.md-000#cut"]
    assert (drop.reason, drop.chars) == ("speaker_labels", len(TRANSCRIPTS["names"]) - len(kept.text))
    assert summary(run)["dropped_by_reason"] == {}


# --- citations -------------------------------------------------------------------------------------------------


CITED = prose(4) + " The gear has 14 teeth [12], as measured (Smith et al., 2020; Jones, 2019) twice. It turns slowly.[3][4] The data are open (doi:10.1000/xyz.9)."
UNCITED = prose(4) + " The gear has 14 teeth, as measured twice. It turns slowly. The data are open."
KEPT = prose(5) + " It was shut (during 1996), costs [1,306] coins, lies in the range [1, 5], and `a[0]` is the first; see Lee (2018)."


def test_marks_of_citations_leave_running_text_and_their_lookalikes_stay(tmp_path: Path) -> None:
    run = audit(tmp_path, {**others(), "cited.md": [CITED, KEPT]})
    assert clean(run)["cited.md-000"].text == UNCITED
    assert clean(run)["cited.md-001"].text == KEPT
    drop = drops(run)["cited.md-000#cut"]
    assert (drop.reason, drop.chars) == ("citations", len(CITED) - len(UNCITED))
    assert "[12]" in drop.sample
    assert "Smith" in drop.sample
    assert len(drops(run)) == 1


def test_marks_of_citations_stay_on_demand_and_in_code(tmp_path: Path) -> None:
    kept = audit(tmp_path / "a", {**others(), "cited.md": [CITED]}, AuditSettings(citations="keep"))
    assert clean(kept)["cited.md-000"].text == CITED
    code = audit(tmp_path / "b", {**others(), "cited.md": [CITED]}, kinds={"cited.md": "code"})
    assert clean(code)["cited.md-000"].text == CITED


# --- lists of references ---------------------------------------------------------------------------------------


def test_a_list_of_references_at_the_end_goes_and_the_text_and_an_appendix_stay(tmp_path: Path) -> None:
    documents = {
        **others(),
        "end.md": [f"{prose(6)}\n\nReferences\n{REFERENCES}"],
        "between.md": [f"{prose(7)}\n\nREFERENCES\n{REFERENCES}\nAppendix A\n{prose(8)}"],
        "word.md": [f"{prose(9)}\n\nReferences\n\n{prose(10)}"],
    }
    run = audit(tmp_path, documents)
    texts = {id: passage.text for id, passage in clean(run).items()}
    assert texts["end.md-000"] == prose(6)
    assert texts["between.md-000"] == f"{prose(7)}\n\nAppendix A\n{prose(8)}"
    assert texts["word.md-000"] == documents["word.md"][0]
    assert {id: drop.reason for id, drop in drops(run).items()} == {"end.md-000#cut": "references", "between.md-000#cut": "references"}


def test_a_passage_that_loses_two_parts_has_two_drops(tmp_path: Path) -> None:
    run = audit(tmp_path, {**others(), "both.md": [f"{CITED}\n\nReferences\n{REFERENCES}"]})
    assert clean(run)["both.md-000"].text == UNCITED
    assert {id: drop.reason for id, drop in drops(run).items()} == {"both.md-000#cut": "references", "both.md-000#cut2": "citations"}
    assert summary(run)["shortened"] == 1


# --- the balance, whatever comes -------------------------------------------------------------------------------

PARTS = (CITED, KEPT, FRENCH, REFERENCES, REPETITIVE, *TRANSCRIPTS.values(), *NO_TRANSCRIPTS.values(), "short", "Mail ann@uni-jena.de [12].", "", "\u0000\ufffd" * 9)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_every_passage_is_kept_or_dropped_once_and_no_character_is_lost(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    documents = {f"d{n}.md": ["\n\n".join(rng.choices(PARTS, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4))] for n in range(rng.randint(2, 16))}
    folder = tmp_path_factory.mktemp("balance")
    (folder / "quiz.txt").write_text("The gear has 14 teeth as measured twice.\n", encoding="utf-8")
    chosen = AuditSettings(
        evaluation_sets=(str(folder / "quiz.txt"),), outliers=rng.choice(["flag", "drop", "off"]), citations=rng.choice(["cut", "keep"]), min_passages=1
    )
    run = audit(folder / "run", {**others(4), **documents}, chosen)
    ids = {f"{path}-{n:03}" for path, texts in [*documents.items(), *others(4).items()] for n in range(len(texts))}
    gone = {id for id in drops(run) if "#cut" not in id}
    assert set(clean(run)) | gone == ids
    assert not set(clean(run)) & gone
    assert {id.split("#")[0] for id in drops(run) if "#cut" in id} <= ids
    chars = summary(run)["chars"]
    assert chars["read"] == chars["kept"] + chars["dropped"] + chars["masked"]
    assert chars["kept"] == sum(len(one.text) for one in clean(run).values())
