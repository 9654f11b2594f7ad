"""What a small model learns from real data on one thread, and what a split by sentence hides.

    python bench/eval/run.py roles  ../shared/data/pubmedqa/pqal_non_test.json
    python bench/eval/run.py drugs  ../shared/data/ade/DRUG-AE.rel
    python bench/eval/run.py ade    ../shared/data/ade

roles: section roles of PubMedQA's paragraphs (three labels). drugs: name the drug of a sentence, 60 drugs. Both go through `forge run`
from a data file to a verdict, from scratch, with fixed steps. ade: the dictionary baseline on folds by abstract and by sentence, and
the leakage gate that refuses the second. The data are not part of this repository; see docs/evaluation.md for where they come from.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.eval.data import write_drugs, write_roles
from forge.plugins.importers.ade import importer
from forge.plugins.tasks._extract_format import read
from forge.plugins.tasks._extract_metrics import (
    count,
    entities,
    f1_of,
    gold_entities,
    gold_relations,
    relations,
)
from forge.plugins.tasks._gazetteer import Gazetteer
from forge.plugins.tasks.extract import task
from forge.protocols import Importing
from forge.records import Extraction, digest

FOLDS = 10
COMMON = ["--set", "plan_fit.rehearse=false", "--set", "eval.max_generated=2000", "--set", "eval.probes=false"]
ROLES = ["--set", "run.task=label", "--set", "plan_fit.train_minutes=2", "--set", "eval.max_new_tokens=8"]
DRUGS = ["--set", "run.task=extract", "--set", "plan_fit.train_minutes=2", "--set", "eval.max_new_tokens=24"]
"""train_minutes is a number of steps for a machine's speed in configs/models.yaml: the same on every CPU of one kind, however busy."""


def learn(data: Path, settings: Sequence[str], home: Path) -> None:
    """Forge a model from a data file and print its verdicts."""
    environment = {**os.environ, "FORGE_HOME": str(home), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "forge", "run", str(data), "--new", "--until", "eval", *COMMON, *settings]
    subprocess.run(command, check=True, env=environment, cwd=data.parent)
    report = json.loads(next(home.rglob("eval.json")).read_text(encoding="utf-8"))
    for verdict in report["verdicts"]:
        print(f"{verdict['name']:28} {verdict['estimate']!s:>8} {verdict['ci']!s:>20} n={verdict['n']:<5} {verdict['outcome']}")
    print(report["headline"])


def dictionary(folder: Path) -> None:
    """Entity and relation F1 of a dictionary look-up, with abstracts and with sentences divided at random, and the gate's word on both."""
    files = [(folder / name, name) for name in ("DRUG-AE.rel",)]
    rows = list(importer.read(files, Importing(task="extract")))
    bodies = task.describe([row.body for row in rows if isinstance(row.body, Extraction)])
    groups = [row.group for row in rows]
    by_abstract = [int(digest("fold", group)[:8], 16) % FOLDS for group in groups]
    order = list(range(len(bodies)))
    random.Random(42).shuffle(order)
    by_sentence = [0] * len(bodies)
    for place, row in enumerate(order):
        by_sentence[row] = place * FOLDS // len(order)
    for name, fold_of in (("abstracts", by_abstract), ("sentences", by_sentence)):
        entity, relation = cross_validate(bodies, fold_of)
        print(f"{name + ' divided':20} entities {entity:.3f}   relations {relation:.3f}   ({len(bodies)} sentences, {len(set(groups))} abstracts, {FOLDS} folds)")
    with tempfile.TemporaryDirectory() as place:
        print(gate_on(bodies, groups, by_sentence, Path(place)))


def cross_validate(bodies: Sequence[Extraction], fold_of: Sequence[int]) -> tuple[float, float]:
    """Micro-F1 over all folds together."""
    entity, relation = [0.0] * 3, [0.0] * 3
    for fold in range(FOLDS):
        gazetteer = Gazetteer([body for body, place in zip(bodies, fold_of, strict=True) if place != fold])
        for body in (body for body, place in zip(bodies, fold_of, strict=True) if place == fold):
            found = read(gazetteer.answer(body), relations=True)
            entity = [a + b for a, b in zip(entity, count(gold_entities(body), entities(found)), strict=True)]
            relation = [a + b for a, b in zip(relation, count(gold_relations(body), relations(found)), strict=True)]
    return f1_of(entity), f1_of(relation)


def gate_on(bodies: Sequence[Extraction], groups: Sequence[str], fold_of: Sequence[int], folder: Path) -> str:
    """What shape says to the same data with one fold of sentences as its test."""
    from forge.errors import GateFailed
    from forge.phases.shape import ShapeSettings, phase
    from forge.testing import run_phase

    rows = [
        {"text": body.text, "pmid": group.removeprefix("pmid:"), "split": "test" if fold == 0 else "train",
         "entities": [span.model_dump() for span in body.entities], "relations": [relation.model_dump() for relation in body.relations]}
        for body, group, fold in zip(bodies, groups, fold_of, strict=True)
    ]  # fmt: skip
    (folder / "corpus").mkdir()
    (folder / "corpus/ade.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "none.jsonl").write_text("", encoding="utf-8")
    inputs = {"clean": folder / "none.jsonl", "pairs": folder / "none.jsonl"}
    try:
        run_phase(phase, folder / "run", settings=ShapeSettings(base="scratch"), inputs=inputs, corpus=folder / "corpus", task="extract")
    except GateFailed as error:
        return f"the split by sentence is refused: {error.fact} ({error.why})"
    return "the split by sentence was let through"


def main() -> None:
    """Run one demonstration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("roles", "drugs", "ade"))
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    if given.what == "ade":
        dictionary(given.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data" / f"{given.what}.jsonl"
        rows = write_roles(given.data, data) if given.what == "roles" else write_drugs(given.data, data)
        print(f"{rows} rows")
        learn(data, ROLES if given.what == "roles" else DRUGS, Path(folder) / "home")


if __name__ == "__main__":
    main()
