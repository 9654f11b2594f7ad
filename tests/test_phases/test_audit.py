"""audit: every reason has an example that goes and a near miss that stays; twins share a group; nothing is lost uncounted."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from forge.errors import ForgeError, Interrupted
from forge.phases.audit import phase
from forge.phases.audit.settings import AuditSettings
from forge.records import Document, Drop, Passage, Source, canonical_json, read_jsonl
from forge.testing import PhaseRun, run_phase

SUBJECTS = (
    "compiler",
    "scheduler",
    "garbage collector",
    "linker",
    "debugger",
    "profiler",
    "loader",
    "allocator",
    "parser",
    "emulator",
)
VERBS = (
    "rejects",
    "reorders",
    "rewrites",
    "delays",
    "records",
    "compares",
    "restores",
    "releases",
    "verifies",
    "duplicates",
)
THINGS = (
    "every borrowed reference",
    "the oldest request",
    "a page of memory",
    "unsigned packages",
    "two adjacent blocks",
    "the call stack",
)
REASONS = (
    "because the caller asked for it",
    "until the last handle is closed",
    "whenever the budget allows",
    "unless a flag forbids that",
)
LAST = (
    "on small machines",
    "in the second pass",
    "after a restart",
    "before the report is printed",
    "with one warning",
    "as the manual says",
)


def prose(seed: int, sentences: int = 8) -> str:
    """English sentences; invented names in them keep any two seeds apart."""
    rng = random.Random(seed)

    def name() -> str:
        return "".join(rng.choice("bdfklmnprst") + rng.choice("aeiou") for _ in range(3)).capitalize()

    return " ".join(
        f"The {rng.choice(SUBJECTS)} of {name()} {rng.choice(VERBS)} {rng.choice(THINGS)} at {name()} {rng.choice(REASONS)} {rng.choice(LAST)}."
        for _ in range(sentences)
    )


FRENCH = (
    "Le compilateur vérifie chaque référence empruntée avant de produire le programme. Les erreurs sont signalées à la fin du "
    "passage, avec le numéro de la ligne et une explication que même les débutants comprennent. Il est possible de continuer malgré "
    "les avertissements, mais nous ne le recommandons pas aux équipes qui publient souvent leurs logiciels."
)
REFERENCES = "\n".join(
    (
        "Adams, R. and Baker, S. (2014). Scheduling under load. Journal of Systems, 12(3), 44-59.",
        "Chen, L. (2018). Memory that is never freed. Proceedings of the 9th Workshop on Memory, pp. 1-12.",
        "Dupont, M. et al. (2020). Borrowing without regret. arXiv:2001.01234.",
        "Eriksen, K. (2009). Linkers explained. Oslo: Fjord Press. doi:10.1000/182.",
    )
)


def audit(
    folder: Path, documents: Mapping[str, Sequence[str]], settings: AuditSettings | None = None, **more: Any
) -> PhaseRun:
    """Run audit over documents given as path -> passages; document ids sort like the paths. A path's ending gives its type."""
    types = {
        "md": "text/markdown",
        "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "pdf": "application/pdf",
    }
    headings = more.pop("headings", {})
    kinds = more.pop("kinds", {})
    rows, passages = [], []
    for path, texts in documents.items():
        source = Source(path=path, sha256="0" * 64)
        rows.append(Document(id=path, source=source, media_type=types[path.rsplit(".", 1)[1]], status="ok"))
        passages += [
            Passage(
                id=f"{path}-{n:03}",
                source=source,
                group=path,
                text=text,
                tokens=len(text) // 4,
                meta={"heading": headings.get(path, ""), "kind": kinds.get(path, "prose")},
            )
            for n, text in enumerate(texts)
        ]
    order = more.pop("order", 0)
    random.Random(order).shuffle(rows)
    random.Random(order).shuffle(passages)
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in (("documents", rows), ("passages", passages)):
        (folder / f"{name}.jsonl").write_text(
            "".join(canonical_json(row) + "\n" for row in records), encoding="utf-8"
        )
    inputs = {name: folder / f"{name}.jsonl" for name in ("documents", "passages")}
    return run_phase(phase, folder / "run", settings=settings, inputs=inputs, **more)


def others(n: int = 8) -> dict[str, list[str]]:
    """Documents around the one that a test is about."""
    return {f"other{i}.md": [prose(100 + 10 * i + j) for j in range(2)] for i in range(n)}


def drops(run: PhaseRun) -> dict[str, Drop]:
    return {drop.id: drop for drop in read_jsonl(run.out / "drops.jsonl", Drop)}


def clean(run: PhaseRun) -> dict[str, Passage]:
    return {passage.id: passage for passage in read_jsonl(run.out / "clean.jsonl", Passage)}


def summary(run: PhaseRun) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.out / "audit.json").read_text(encoding="utf-8"))
    return found


# --- one passage -----------------------------------------------------------------------------------------------

REPETITIVE = "Buy now and save money today with us, dear friend. " * 12
INDEX_LINES = "\n".join(f"{word}, {n}, {n + 41}" for n, word in enumerate(SUBJECTS * 3))

GOES_STAYS = {  # reason -> (a passage that goes, a near miss that stays)
    "too_short": ("Four short words only, nothing else here", "The linker joins all object files into one program."),
    "low_quality": (REPETITIVE, prose(1) + " Buy now and save money today with us, dear friend."),
    "low_quality filler": (
        "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna aliqua.",
        "Printers fill a page with lorem ipsum text so that nobody reads it while the layout is being judged by the customer.",
    ),
    "low_quality damaged": (
        "Der Schl\ufffd\ufffd\ufffdssel wurde \ufffd\ufffd\ufffd\ufffd\ufffdbertragen und the file is gone for\ufffd\ufffdever",
        prose(2) + " One \ufffd mark.",
    ),
    "low_quality index": (
        INDEX_LINES,
        "The book has an index of ten subjects, such as:\n"
        + "\n".join(f"{word}, a tool that we explain in its own chapter." for word in SUBJECTS),
    ),
    "language": (FRENCH, prose(3) + " The French call it « vérification des références empruntées »."),
    "references": (
        REFERENCES,
        prose(4) + " Chen (2018) and Dupont et al. (2020) showed this [12]; see also Eriksen, 2009.",
    ),
}


@pytest.mark.parametrize("case", GOES_STAYS)
def test_each_reason_has_a_passage_that_goes_and_a_near_miss_that_stays(tmp_path: Path, case: str) -> None:
    goes, stays = GOES_STAYS[case]
    run = audit(tmp_path, {**others(), "subject.md": [goes, stays]})
    assert {id: drop.reason for id, drop in drops(run).items()} == {"subject.md-000": case.split()[0]}
    assert clean(run)["subject.md-001"].text == stays
    drop = drops(run)["subject.md-000"]
    assert drop.chars == len(goes)
    assert drop.sample
    assert drop.detail
    assert summary(run)["samples"][drop.reason][0]["id"] == "subject.md-000"


def test_a_list_under_a_heading_for_references_goes_and_text_under_it_stays(tmp_path: Path) -> None:
    titles = (
        "References\n\n- Scheduling under load, second edition\n- The linker book\n- Memory, a history of its loss"
    )
    text = "References and borrowing\n\n" + prose(5)
    headings = {"list.md": "Guide > References", "text.md": "References and borrowing", "prose.md": "References"}
    run = audit(
        tmp_path, {**others(), "list.md": [titles], "text.md": [text], "prose.md": [prose(6)]}, headings=headings
    )
    assert set(drops(run)) == {"list.md-000"}
    assert drops(run)["list.md-000"].reason == "references"


def test_code_tables_and_short_lists_are_not_poor_quality(tmp_path: Path) -> None:
    code = "```rust\n" + "\n".join(f"let x{i} = compute(x{i - 1}, {i});" for i in range(20)) + "\n```"
    table = "\n".join(f"Operator: {sign}; Example: a {sign} b; Overloadable: yes" for sign in "+-*/%&|^")
    steps = "To install it:\n\n" + "\n".join(
        f"- {verb} the package" for verb in ("Fetch", "Check", "Unpack", "Build", "Install", "Test")
    )
    kinds = {"code.md": "code", "table.md": "table", "list.md": "list"}
    run = audit(tmp_path, {**others(), "code.md": [code], "table.md": [table], "list.md": [steps]}, kinds=kinds)
    assert drops(run) == {}


def test_quality_signals_can_be_switched_off(tmp_path: Path) -> None:
    run = audit(tmp_path, {**others(), "subject.md": [REPETITIVE]}, AuditSettings(quality_signals=0))
    assert drops(run) == {}


# --- languages -------------------------------------------------------------------------------------------------


def test_a_foreign_page_goes_and_a_short_foreign_remark_stays(tmp_path: Path) -> None:
    run = audit(
        tmp_path, {**others(), "mixed.md": [prose(7), FRENCH, "Bon appétit et à bientôt, chers amis de la cuisine !"]}
    )
    assert {id: drop.detail for id, drop in drops(run).items()} == {"mixed.md-001": "fr"}
    assert summary(run)["languages"]["fr"] > 0.02
    assert summary(run)["languages_kept"] == ["en"]


@pytest.mark.parametrize(
    ("languages", "kept"), [("fr", ["fr"]), ("en, fr", ["en", "fr"]), (["any"], ["any"]), ("auto", ["en"])]
)
def test_languages_can_be_chosen(tmp_path: Path, languages: Any, kept: list[str]) -> None:
    run = audit(tmp_path, {**others(), "f.md": [FRENCH]}, AuditSettings(languages=languages, min_passages=1))
    assert summary(run)["languages_kept"] == kept
    assert ("f.md-000" in clean(run)) == (kept != ["en"])
    assert ("other0.md-000" in clean(run)) == (kept != ["fr"])


@pytest.mark.parametrize("languages", ["french", "", ["EN"], [""]])
def test_a_language_that_is_no_code_is_refused(languages: Any) -> None:
    with pytest.raises(ValidationError, match="languages are codes"):
        AuditSettings(languages=languages)


def test_code_does_not_vote_on_the_language(tmp_path: Path) -> None:
    code = (
        "```\n"
        + "\n".join(f"fn wort_{i}(eingabe: Zahl) -> Ergebnis {{ zeige(eingabe, {i}); }}" for i in range(30))
        + "\n```"
    )
    run = audit(
        tmp_path, {**others(), "code.md": [code, "The functions above print their input, one after the other."]}
    )
    assert drops(run) == {}


# --- copies and groups -----------------------------------------------------------------------------------------


def exchanged(text: str, n: int) -> str:
    """The text with its last n words replaced: n of its shingles change."""
    found = text.split()
    return " ".join(found[:-n] + [f"other{i}" for i in range(n)])


def test_the_best_copy_stays_and_the_others_name_it_with_their_similarity(tmp_path: Path) -> None:
    text = " ".join(
        f"word{i}" for i in range(41)
    )  # 37 shingles: 34 / 40 = 0.85 with 3 words exchanged, 33 / 41 with 4
    run = audit(
        tmp_path,
        {
            **others(),
            "a.pdf": [text.upper()],
            "b.md": [text],
            "c.docx": [exchanged(text, 3)],
            "d.docx": [exchanged(text, 4)],
        },
        AuditSettings(quality_signals=0, languages=("any",)),
    )
    found = {id: (drop.reason, drop.dup_of, drop.similarity) for id, drop in drops(run).items()}
    assert found == {
        "a.pdf-000": ("exact_duplicate", "b.md-000", 1.0),
        "c.docx-000": ("near_duplicate", "b.md-000", 0.85),
        "d.docx-000": ("contained", "b.md-000", 0.8919),
    }


def test_documents_with_copies_share_a_group_named_after_the_smallest(tmp_path: Path) -> None:
    run = audit(
        tmp_path,
        {
            **others(),
            "z.md": [prose(11), prose(12)],
            "b.docx": [prose(12), prose(13)],
            "c.pdf": [prose(13), prose(14)],
        },
    )
    groups = {id: passage.group for id, passage in clean(run).items()}
    assert {groups[id] for id in groups if id[0] in "zbc"} == {"b.docx"}
    assert summary(run)["merged_documents"] == [["b.docx", "c.pdf", "z.md"]]
    assert summary(run)["groups"] == {"documents": 11, "groups": 9}
    assert groups["other0.md-000"] == "other0.md"


def test_twins_that_are_cut_at_different_places_are_recognised(tmp_path: Path) -> None:
    """No two passages are near-duplicates: each holds about half of two others."""
    sentences = prose(21, 60).split(". ")
    markdown = [". ".join(sentences[i : i + 10]) + "." for i in range(0, 60, 10)]
    word = [". ".join(sentences[max(0, i - 5) : i + 5]) + "." for i in range(0, 65, 10)]
    run = audit(tmp_path, {**others(), "chapter.docx": word, "chapter.md": markdown})
    reasons = {id: drop.reason for id, drop in drops(run).items()}
    assert reasons == {f"chapter.docx-{i:03}": "contained" for i in range(7)}
    assert all(
        drop.dup_of.startswith("chapter.md-") and (drop.similarity or 0) >= 0.8 for drop in drops(run).values()
    )
    assert {passage.group for id, passage in clean(run).items() if id.startswith("chapter")} == {"chapter.docx"}
    assert len([id for id in clean(run) if id.startswith("chapter.md")]) == 6


def test_containment_has_an_exact_boundary(tmp_path: Path) -> None:
    """A passage of 50 shingles of which 40 lie in another document goes; with 39 it stays, and no group is merged for it."""
    whole = " ".join(f"w{i}" for i in range(200))
    at, below = (
        " ".join([f"w{i}" for i in range(n)] + [f"{tag}{i}" for i in range(54 - n)])
        for n, tag in ((44, "x"), (43, "y"))
    )
    long = {
        "whole.md": [whole],
        "at.md": [at, *[prose(30 + i) for i in range(4)]],
        "below.md": [below, *[prose(40 + i) for i in range(4)]],
    }
    run = audit(tmp_path, {**others(), **long}, AuditSettings(languages=("any",), quality_signals=0))
    assert {id: (drop.reason, drop.similarity) for id, drop in drops(run).items()} == {
        "at.md-000": ("contained", 0.8)
    }
    assert summary(run)["merged_documents"] == [["at.md", "whole.md"]]


def test_an_excerpt_and_a_revised_document_are_grouped_even_when_no_passage_goes(tmp_path: Path) -> None:
    first = [f"w{i}" for i in range(400)]
    revised = [
        word if n % 17 else f"new{n}" for n, word in enumerate(first)
    ]  # 12 of 17 shingles stay: Jaccard 12 / 22
    excerpt = [*first[100:200], *(f"own{i}" for i in range(60))]
    documents = {
        **others(),
        "v1.md": [" ".join(first)],
        "v2.md": [" ".join(revised)],
        "excerpt.md": [" ".join(excerpt)],
    }
    run = audit(tmp_path, documents, AuditSettings(near_duplicate=0.95, languages=("any",), quality_signals=0))
    assert drops(run) == {}
    assert summary(run)["merged_documents"] == [["excerpt.md", "v1.md", "v2.md"]]


# --- boilerplate -----------------------------------------------------------------------------------------------

NOTICE = "Copyright 2024 Example Works. Do not copy this sheet without the written consent of the plant."


def test_a_line_that_many_documents_repeat_is_cut_from_all_and_counted(tmp_path: Path) -> None:
    documents = {f"sheet{i}.md": [f"{prose(60 + i)}\n\n{NOTICE.replace('2024', str(2010 + i))}"] for i in range(6)}
    run = audit(tmp_path, {**others(4), **documents})
    assert {drop.reason for drop in drops(run).values()} == {"boilerplate"}
    assert len(drops(run)) == 6
    assert drops(run)["sheet0.md-000#cut"].chars == len(NOTICE) + 2
    assert clean(run)["sheet0.md-000"].text == prose(60)
    assert summary(run)["shortened"] == 6
    assert summary(run)["groups"]["groups"] == 10


def test_a_line_in_four_documents_and_repeated_headings_stay(tmp_path: Path) -> None:
    documents = {
        f"sheet{i}.md": [f"# What you have to know before you start\n\n{prose(60 + i)}" + f"\n\n{NOTICE}" * (i < 4)]
        for i in range(6)
    }
    run = audit(tmp_path, {**others(), **documents})
    assert drops(run) == {}


def test_versions_of_one_document_are_copies_and_not_boilerplate(tmp_path: Path) -> None:
    versions = {f"v{i}.md": [prose(80, 12), prose(81, 12), prose(90 + i)] for i in range(6)}
    run = audit(tmp_path, {**others(), **versions})
    assert summary(run)["dropped_by_reason"] == {"exact_duplicate": 10}
    assert summary(run)["merged_documents"] == [[f"v{i}.md" for i in range(6)]]


# --- the whole -------------------------------------------------------------------------------------------------


def everything() -> dict[str, list[str]]:
    twin = prose(21, 40).split(". ")
    return {
        **others(12),
        "poor.md": [goes for goes, _ in GOES_STAYS.values()],
        "copy.docx": [prose(100), exchanged(prose(111), 2)],
        "twin.md": [". ".join(twin[i : i + 10]) for i in range(0, 40, 10)],
        "twin.pdf": [". ".join(twin[i : i + 12]) for i in range(0, 40, 12)],
        "mail.md": [prose(200) + " Write to jane.doe@uni-tuebingen.de about it."],
    }


def test_every_passage_and_every_character_is_accounted_for(tmp_path: Path) -> None:
    documents = everything()
    run = audit(tmp_path, documents)
    numbers, texts = summary(run), [text for texts in documents.values() for text in texts]
    assert numbers["read"] == len(texts) == numbers["kept"] + sum(numbers["dropped_by_reason"].values())
    assert set(numbers["dropped_by_reason"]) == {
        "too_short",
        "low_quality",
        "language",
        "references",
        "exact_duplicate",
        "near_duplicate",
        "contained",
    }
    chars = numbers["chars"]
    assert chars["read"] == sum(map(len, texts)) == chars["kept"] + chars["dropped"] + chars["masked"]
    assert chars["kept"] == sum(len(passage.text) for passage in clean(run).values())
    assert chars["dropped"] == sum(drop.chars for drop in drops(run).values())
    assert numbers["secrets_masked"] == {"email": 1}
    assert run.metrics["kept"] == numbers["kept"]


def test_the_outputs_do_not_depend_on_the_order_of_the_input(tmp_path: Path) -> None:
    outputs = []
    for order in range(3):
        run = audit(tmp_path / str(order), everything(), order=order)
        outputs.append([(run.out / name).read_bytes() for name in ("clean.jsonl", "drops.jsonl", "audit.json")])
    assert outputs[0] == outputs[1] == outputs[2]


def test_datasketch_finds_the_same_copies(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    one = audit(tmp_path / "1", everything())
    two = audit(tmp_path / "2", everything(), AuditSettings(dedup_engine="datasketch"))
    assert clean(one) == clean(two)
    assert drops(one) == drops(two)


def test_an_error_names_what_took_the_passages_and_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(ForgeError) as error:
        audit(
            tmp_path,
            {f"f{i}.md": [FRENCH.replace("programme", f"programme numéro {i} {i * 7}")] for i in range(9)},
            AuditSettings(languages=("en",)),
        )
    assert str(error.value) == (
        "no passages survived audit (9 read, 9 dropped)\n"
        '  why: the language filter keeps "en"; 9 passages look like "fr"\n'
        "  next: forge resume test --set audit.languages=fr"
    )


def test_too_few_passages_are_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(ForgeError) as error:
        audit(tmp_path / "few", {"a.md": [prose(i) for i in range(7)]})
    assert error.value.fact == "only 7 passages survived audit (7 read, 0 dropped)"
    assert "min_passages" in error.value.why
    with pytest.raises(ForgeError) as error:
        audit(tmp_path / "short", {"a.md": ["Too short"] * 20})
    assert error.value.next == "forge resume test --set audit.min_words=3"
    with pytest.raises(ForgeError, match="prep found no text"):
        audit(tmp_path / "none", {})
    assert summary(audit(tmp_path / "enough", {"a.md": [prose(i) for i in range(8)]}))["kept"] == 8


def test_a_passage_id_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    audit(tmp_path, others())
    passages = tmp_path / "passages.jsonl"
    passages.write_text(passages.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with pytest.raises(ForgeError, match="two passages have the id"):
        run_phase(phase, tmp_path / "again", inputs={"passages": passages, "documents": tmp_path / "documents.jsonl"})


def test_a_stop_request_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(context: object) -> None:
        raise Interrupted

    monkeypatch.setattr("forge.context.FolderContext.check_stop", stop)
    with pytest.raises(Interrupted):
        audit(tmp_path, others())


def test_facts_about_a_file_are_not_trained_on_unless_asked_for(tmp_path: Path) -> None:
    documents = {"tags.md": [prose(7)], **others()}
    run = audit(tmp_path / "default", documents, kinds={"tags.md": "metadata"})
    assert drops(run)["tags.md-000"].reason == "metadata"
    assert run.metrics["dropped_metadata"] == 1
    asked = audit(tmp_path / "asked", documents, AuditSettings(metadata=True), kinds={"tags.md": "metadata"})
    assert "tags.md-000" in clean(asked)
