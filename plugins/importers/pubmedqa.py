"""PubMedQA (Jin et al. 2019): questions that are titles of papers, abstracts without their conclusion, yes, no or maybe.

LONG_ANSWER is the conclusion; only 339 of 1,000 are one sentence (437 two, 223 more), so the rationale is the first sentence of it
that has five words and cites nothing. An answer without such a sentence gives no rationale.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from forge.phase import Requirement
from forge.plugins.tasks._citations import citations
from forge.protocols import Importing, Ready
from forge.records import Labelled
from forge.sentences import is_one_sentence, split_sentences

LABELS = {"yes": "Yes", "no": "No", "maybe": "Uncertain"}
HEAD_BYTES = 4096
MIN_WORDS = 5


class PubMedQAImporter:
    """ori_pqal.json, ori_pqaa.json and their splits: {pmid: {QUESTION, CONTEXTS, final_decision, LONG_ANSWER}}.

    Options: context (true): the abstract goes with the question, as on the leaderboard; false is closed book. rationale (true).
    """

    name: ClassVar[str] = "pubmedqa"
    tasks: ClassVar[tuple[str, ...]] = ("label",)
    priority: ClassVar[int] = 10
    requires: ClassVar[tuple[Requirement, ...]] = ()

    def accepts(self, path: Path, name: str) -> bool:
        """True for JSON that begins with a record of PubMedQA."""
        if not name.lower().endswith(".json"):
            return False
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        return b'"QUESTION"' in head and b'"CONTEXTS"' in head

    def read(self, paths: Sequence[tuple[Path, str]], how: Importing) -> Iterator[Ready]:
        """One example a question with a decision; the group is the PubMed number."""
        for path, name in paths:
            for pmid, record in json.loads(path.read_text(encoding="utf-8")).items():
                if label := LABELS.get(str(record.get("final_decision", "")).lower()):
                    yield Ready(group=f"pmid:{pmid}", body=_body(record, label, how), place=f"{name}:pmid={pmid}")


importer = PubMedQAImporter()


def choose_rationale(conclusion: str) -> str | None:
    """The first closed sentence of five words that cites nothing; None without one."""
    fit = (
        sentence for sentence in split_sentences(conclusion)
        if len(sentence.split()) >= MIN_WORDS and is_one_sentence(sentence) and not citations(sentence)
    )
    return next(fit, None)


def _body(record: Mapping[str, Any], label: str, how: Importing) -> Labelled:
    context = "\n".join(record.get("CONTEXTS") or []) if how.options.get("context", True) else ""
    rationale = choose_rationale(str(record.get("LONG_ANSWER") or "")) if how.options.get("rationale", True) else None
    return Labelled(text=context, question=str(record["QUESTION"]), label=label, rationale=rationale)
