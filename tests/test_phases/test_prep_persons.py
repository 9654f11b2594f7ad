"""prep.pii=presidio masks names of persons by a spaCy model of the user's, and only when it is asked for; nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from forge import private
from forge.doctor import examine
from forge.errors import MissingAccess
from forge.phases.audit import phase as audit_phase
from forge.phases.prep import PrepSettings, persons, phase
from forge.phases.prep.balance import Tally
from forge.phases.prep.masking import mask_pieces
from forge.records import Document, Passage, Piece, read_jsonl
from forge.testing import PhaseRun, run_phase, tiny_corpus

spacy = pytest.importorskip("spacy")
pytest.importorskip("presidio_analyzer")

WALLET, LICENCE = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "BB1388568"
LETTER = f"""# Report by Ann Lee

The mill was measured by Ann Lee and Tom Winter in spring. Write to ann@uni-jena.de or pay to the wallet {WALLET}.
The doctor signs with licence {LICENCE}. Winter storms broke the wheel; the Lee side of the hill stayed dry.
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that knows two persons: spaCy's empty English pipeline with a ruler, saved as any trained one is."""
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": name} for name in ("Ann Lee", "Tom Winter", "x_0 = 1")])
    folder = tmp_path_factory.mktemp("model") / "en_two_persons"
    pipeline.to_disk(folder)
    return str(folder)


def prep(folder: Path, **settings: Any) -> PhaseRun:
    corpus = tiny_corpus(folder / "corpus", {"letter.md": LETTER})
    return run_phase(phase, folder / "run", settings=PrepSettings(memory_mib=3000, workers=1, **settings), corpus=corpus)


def text(run: PhaseRun) -> str:
    return "\n".join(passage.text + str(passage.meta) for passage in read_jsonl(run.out / "passages.jsonl", Passage))


def test_names_of_persons_are_masked_in_text_and_headings_and_balanced(tmp_path: Path, model: str) -> None:
    run = prep(tmp_path, pii="presidio", pii_model=model)
    found = text(run)
    assert "Ann Lee" not in found
    assert "Tom Winter" not in found
    assert "measured by [person] and [person] in spring" in found
    assert "Report by [person]" in found
    assert "[email]" in found
    assert WALLET not in found
    assert LICENCE not in found
    assert "Winter storms" in found
    (document,) = read_jsonl(run.out / "documents.jsonl", Document)
    assert document.balance.holds
    assert document.balance.dropped["masked person"] == sum(len(name) - 1 for name in ("Ann Lee", "Ann Lee", "Tom Winter"))


def test_audit_counts_persons(tmp_path: Path, model: str) -> None:
    assert "person" in private.placeholders()
    assert private.counts(["by [person] and [person]"]) == {"person": 2}
    assert any(need.extra == "datasketch" for need in audit_phase.may_require)


def test_the_rules_alone_leave_names_and_a_run_without_a_model_says_so(tmp_path: Path) -> None:
    assert "Ann Lee" in text(prep(tmp_path / "a"))
    run = prep(tmp_path / "b", pii="presidio")
    assert "Ann Lee" in text(run)
    assert WALLET not in text(run)
    assert any("names of persons are not looked for" in str(event) for event in run.events)


def test_a_model_that_is_not_here_is_refused_and_not_fetched(tmp_path: Path) -> None:
    for name in ("en_core_web_lg", "no such model", str(tmp_path / "nowhere")):
        with pytest.raises(MissingAccess, match="there is no spaCy model"):
            prep(tmp_path, pii="presidio", pii_model=name)


def test_without_the_extra_the_phase_tells_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingAccess, match=r"prep\.pii=presidio"):
        prep(tmp_path, pii="presidio")


def test_doctor_tells_of_the_extra() -> None:
    assert any(finding.name == "extra [pii]" for finding in examine())


def test_what_rules_find_wins_long_texts_are_cut_between_words_and_code_is_no_person(model: str) -> None:
    find = persons.finder(model)
    long = "word " * 20_000 + "Ann Lee wrote to ann@uni-jena.de about x_0 = 1. "
    hits = find(long)
    assert [(hit.kind, long[hit.start : hit.end]) for hit in hits] == [("person", "Ann Lee"), ("email", "ann@uni-jena.de")]
    assert find("") == []
    assert "torch" not in sys.modules or sys.modules["torch"] is not None


def test_masking_with_persons_twice_changes_nothing(model: str) -> None:
    find = persons.finder(model)
    once = [piece.text for piece in mask_pieces([Piece(text=LETTER, heading="Ann Lee")], Tally(), find)]
    assert [piece.text for piece in mask_pieces([Piece(text=one) for one in once], Tally(), find)] == once
