"""audit in shards: the same bytes for any number of them, whatever is killed on the way; and quick looks that decide as slow ones."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forge.errors import ForgeError
from forge.phases.audit import apart, phase, prose, quality, terms
from forge.phases.audit.settings import AuditSettings
from forge.records import Document, Passage, Source, write_jsonl
from forge.testing import run_phase

SUBJECTS = {
    "pump": "impeller shaft bearing seal casing suction discharge coupling cavitation flange",
    "bread": "flour yeast dough oven crust crumb kneading proofing sourdough starter",
    "chess": "rook bishop knight pawn castling endgame opening gambit checkmate tempo",
}
FILLER = ["the", "operator", "of", "this", "is", "told", "that", "it", "has", "to", "be", "looked", "at", "before", "and", "after", "each", "use", "and", "with", "care", "for", "what", "is", "near"]
ODD = {
    "empty": "", "blank": " \n\n ", "short": "Too short.", "lorem": "lorem ipsum dolor sit amet consectetur adipiscing elit " * 3, "damaged": "text \ufffd\ufffd\ufffd " * 30,
    "japanese": "この機械は毎週点検しなければなりません。結果は記録してください。" * 6, "french": "La pompe doit être contrôlée chaque semaine par une personne formée à cet usage. " * 6,
    "emoji": "Safety first \U0001f600\U0001f3fd\u200d\U0001f527, then speed; ΣΊΣΥΦΟΣ and İstanbul and straße are words as well, say all who were asked about that. " * 2,
    "cited": "Valves fail by wear, as was shown (Smith et al., 2020) and [12] by many authors who looked at old machines in the field for years and years.",
    "list": "\n".join(f"[{number}] Smith, J. ({1990 + number}). {title}. Journal of the Society of Mechanical Engineers, {number}(2), 1-9." for number, title in enumerate((
        "On the wear of seals in water pumps", "How operators read what gauges show them", "Noise as a sign of early failure", "A history of the flange",
    ), 1)),
    "page": "Click here and subscribe now, all rights reserved; we use cookies. " * 4, "again": "Press the green button and wait. " * 30,
    "key": "The key of the service is AKIA" + "QZXW4RTYPLMN7BVC" + ", and nobody must ever see it or hear of it in any document of ours, says the rule.",
}


def sentence(rng: random.Random, subject: str) -> str:
    words = [rng.choice(FILLER if rng.random() < 0.5 else SUBJECTS[subject].split()) for _ in range(rng.randint(9, 16))]
    return " ".join(words).capitalize() + "."


def passages(count: int = 90, *, huge: int = 60_000) -> list[Passage]:
    """Documents of three subjects, copies that lie in other shards than their originals, and the odd ones; one is huge."""
    rng = random.Random(4)
    texts = {f"d{number:03d}": "\n".join(sentence(rng, rng.choice([*SUBJECTS])) for _ in range(rng.randint(3, 9))) for number in range(count)}
    texts |= {f"copy{number}": texts[f"d{number * 7:03d}"] for number in range(4)}
    texts |= {f"near{number}": texts[f"d{number * 5 + 1:03d}"] + " " + sentence(rng, "chess").split()[0] for number in range(4)}
    texts |= {f"odd-{name}": text for name, text in ODD.items()}
    texts["huge"] = "\n\n".join(sentence(rng, "bread") for _ in range(huge // 80))
    return [
        Passage(
            id=f"{name}-000000", source=Source(path=f"{name}.md", sha256=name, locator="line=1"), group=name, text=text, tokens=len(text) // 4,
            meta={"heading": "Contact jane.roe@acme-pumps.com" if name == "d003" else "About", "kind": "prose"},
        )
        for name, text in texts.items()
    ]


def written(folder: Path, given: list[Passage]) -> dict[str, Path]:
    """The inputs of audit."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {"documents": folder / "documents.jsonl", "passages": folder / "passages.jsonl"}
    write_jsonl(files["documents"], [Document(id=one.group, source=one.source, media_type="text/markdown", status="ok") for one in given])
    write_jsonl(files["passages"], given)
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_audit_writes_the_same_bytes_for_any_number_of_shards(tmp_path: Path) -> None:
    inputs = written(tmp_path / "in", passages())
    whole = run_phase(phase, tmp_path / "whole", inputs=inputs)
    reasons = json.loads((whole.out / "audit.json").read_text())["dropped_by_reason"]
    assert {"exact_duplicate", "near_duplicate", "language", "low_quality", "references", "too_short"} <= set(reasons)
    assert b"jane.roe" not in (whole.out / "clean.jsonl").read_bytes()
    for shards in (1, 3, 7):
        cut = run_phase(phase, tmp_path / f"cut-{shards}", inputs=inputs, shards=shards, workers=2)
        assert contents(cut.out) == contents(whole.out)
        maps = sorted((tmp_path / f"cut-{shards}" / "work").glob("shards-*"))
        assert [len(list(one.glob("*.result"))) for one in maps] == [shards] * 2
        assert not [*tmp_path.rglob("*.shard")]


def test_english_stop_words_are_missed_in_english_corpora_only_whoever_looks(tmp_path: Path) -> None:
    rng, words = random.Random(1), ["pompe", "vanne", "contrôle", "semaine", "personne", "formée", "usine", "chaque", "eau", "pression", "avant", "après", "matin", "soir", "équipe", "moteur", "joint", "mesure", "rapport"]
    given = [one.model_copy(update={"text": " ".join("Le " + " ".join(rng.sample(words, 7)) + " est noté." for _ in range(6))}) for one in passages(30, huge=0)[:20]]
    inputs, settings = written(tmp_path / "in", given), AuditSettings(quality_signals=1, near_duplicate=1, min_passages=1)
    whole, cut = (run_phase(phase, tmp_path / f"{shards}", inputs=inputs, settings=settings, shards=shards) for shards in (0, 3))
    assert whole.metrics["kept"] >= 15   # the signal is there, and does not count
    assert all(apart._look(one.text, "prose", "").signals.get("words") for one in given)
    assert contents(cut.out) == contents(whole.out)


def spread_by_hand(function: Any, items: Any) -> Any:
    """Three shards, in this process."""
    return iter([function(list(items[number::3])) for number in range(3)])


def test_looks_in_shards_tell_what_looks_bit_by_bit_tell() -> None:
    given = passages(30, huge=2_000)
    whole, cut = apart.Looks(given), apart.Looks(given, spread_by_hand)
    for one in given:
        assert cut.damage(one) == whole.damage(one)
        if whole.damage(one):
            continue
        assert cut.voice(one) == whole.voice(one)
        assert all(cut.signals(one, english=english) == whole.signals(one, english=english) for english in (True, False))
        assert (cut.listed(one), cut.uncited(one)) == (whole.listed(one), whole.uncited(one))


RUN = """
import os, signal, sys
from pathlib import Path
from forge import executor
from forge.phases.audit import phase
from forge.testing import run_phase

folder, given, most = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
lost = executor.LocalExecutor._lost

def watched(self):
    if len(list(folder.glob("work/shards-1/*.result"))) >= most:
        os.kill(os.getpid(), signal.SIGKILL)
    return lost(self)

executor.LocalExecutor._lost = watched
run_phase(phase, folder, inputs={name: given / f"{name}.jsonl" for name in ("documents", "passages")}, shards=4, workers=1)
"""


def audit_elsewhere(tmp_path: Path, most: int) -> int:
    """Audit in four shards in a process of its own, which is killed when so many of the second map are done."""
    return subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "cut"), str(tmp_path / "in"), str(most)], check=False).returncode


def test_an_audit_that_is_killed_between_shards_goes_on_with_those_that_are_done(tmp_path: Path) -> None:
    inputs, work = written(tmp_path / "in", passages(60)), tmp_path / "cut" / "work"
    assert audit_elsewhere(tmp_path, 2) == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in work.glob("shards-*/*.result")}
    assert 6 <= len(done) < 8
    assert audit_elsewhere(tmp_path, 9) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(tmp_path / "cut" / "out") == contents(run_phase(phase, tmp_path / "whole", inputs=inputs).out)


def test_a_passage_that_breaks_a_shard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(text: str) -> str:
        if "Sisyphus" in text:
            raise RecursionError("too deep")
        return ""

    monkeypatch.setattr(apart, "hard_signal", breaks)
    bad = passages(30, huge=0)
    bad[7] = bad[7].model_copy(update={"text": bad[7].text + " Sisyphus was here."})
    with pytest.raises(ForgeError, match="3 times") as told:
        run_phase(phase, tmp_path / "run", inputs=written(tmp_path / "in", bad), shards=3, workers=2)
    assert told.value.why == f"RecursionError: too deep, at passage {bad[7].id}"


def test_progress_counts_shards_within_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge.context.LOOK_SECONDS", 0.0)
    run = run_phase(phase, tmp_path / "run", inputs=written(tmp_path / "in", passages(40, huge=200_000)), shards=4, workers=1)
    shown = [fields["done"] for kind, fields in run.events if kind == "progress"]
    assert shown == sorted(shown)
    assert {0.25, 1.25} <= set(shown)


def test_quick_looks_decide_as_slow_ones() -> None:
    rng = random.Random(8)
    bits = [*ODD.values(), "Clic\u212a here", "ſubscribe now", "sıgn up for", "a@b.org", "jane@x", "[a](http://b.c)", "[email]", "x_y 12ab", "the the the the ", "e\u0301", "\x1c"]
    slow = re.compile(prose._PIECES + r"|[^\s@]{1,64}@[^\s@]{1,255}", re.DOTALL)
    for _ in range(150):
        text = " ".join(rng.choice(bits)[: rng.randint(1, 200)] for _ in range(rng.randint(1, 12)))
        phrases = len(quality._POLICY.findall(text))
        assert quality._page_signals(text) == ({"page_phrases": float(phrases)} if phrases >= 2 else {})
        assert prose._INLINE.sub(" ", text) == slow.sub(" ", text) or "@" in text
        assert prose.letters_in(text) == sum(map(len, re.findall(r"[^\W\d_]+", text)))
        if text.isascii():
            found = re.findall(r"[a-z]+", re.sub(r"\[[a-z-]{2,20}\]", " ", text).lower())
            assert terms.words(text) == [word for word in found if 3 <= len(word) <= 24]
