"""Every number in a card's prose and tables, looked up among the numbers of the artifacts; independent of the template that wrote it.

A small number that some artifact has by chance passes here; validate.card_says_what_the_artifacts_say compares whole lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from forge.phases.publish.card import count, number, power, size
from forge.phases.publish.staged import Staged

NUMBER = re.compile(r"(?<![\w.,^/#:@-])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w%])(?!\.\d)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
SAID = {"95", "0", "1", "10"}
"""Numbers of the template's own sentences: intervals of 95 %, "1 is no cost", temperature 0, powers of ten."""


def unknown_numbers(staged: Staged) -> list[tuple[int, str, str]]:
    """(line, number, its line) of every number in the card's body that no artifact has."""
    known, found = known_texts(staged), []
    first = staged.card[: len(staged.card) - len(staged.body)].count("\n")
    text = _blank(staged)
    for match in NUMBER.finditer(text):
        told = match.group(0).rstrip(",")
        if told not in known:
            line = text.count("\n", 0, match.start())
            found.append((first + line + 1, told, staged.body.splitlines()[line].strip()))
    return found


def known_texts(staged: Staged) -> set[str]:
    """Every number of the artifacts in every form in which a card writes numbers."""
    facts = staged.facts
    values = list(_numbers(facts.model_dump(mode="json", exclude={"modelfile_text", "legal", "gguf"})))
    values += [sum(facts.documents.values()), sum(facts.dropped.values()), sum(facts.document_status.values())]
    texts = {form for value in values for form in _forms(value)}
    told = " ".join([staged.decision.first_line, staged.decision.headline, facts.eval_json.get("retrieval") or "", facts.terms])
    told += " ".join([*facts.versions.values(), *map(str, facts.plan.reasons.values()), facts.plan.name, facts.plan.base])
    return texts | set(NUMBER.findall(told)) | SAID


def _blank(staged: Staged) -> str:
    """The body with code and quoted sentences as blanks of the same length: what is left is ours, in its place."""
    text = CODE.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), staged.body)
    for quoted in (staged.decision.first_line, staged.decision.headline, str(staged.facts.eval_json.get("retrieval") or ""), staged.facts.terms):
        one_line = " ".join(quoted.split())
        text = text.replace(one_line, " " * len(one_line)) if one_line else text
    return text


def _forms(value: float) -> Iterable[str]:
    whole = int(value) if float(value).is_integer() else None
    forms = [number(float(value)), f"{value:.2f}", f"{value:.3f}", f"{value:.0%}".rstrip("%"), str(value)]
    forms += [part for part in re.split(r"[ ^×]+", power(value)) if part] if value > 0 else []
    if whole is not None:
        forms += [count(whole), str(whole), size(whole).split(" ")[0]]
    return forms


def _numbers(value: Any) -> Iterator[float]:
    """All numbers below a value of JSON."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, str):
        for text in NUMBER.findall(value) if len(value) < 400 else ():
            yield float(text.replace(",", ""))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner)
            yield from _numbers(key)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(inner)
