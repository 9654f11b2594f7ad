"""What the server of claude.py answers to the compact requests: facts of several passages, and checks of many pairs at once.

Answers are made of the passages' own sentences, so their lengths are those that a careful model would write. `count_tokens`
counts as the vendor's newest tokenizer is said to: words, numbers and runs of marks, times 1.3. Compared with the published
Claude 2 tokenizer on the Rust book, the OWASP cheat sheets, the handbook and such JSON answers, the count before the factor is
4 % low to 1 % high (2026-11-21); four bytes a token, as before, was 23 % low with the factor and 26 % low on JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from typing import Any

PASSAGES = re.compile(r"\[(\w+) passage (\d+) begins\]\nsection: .*\n\n(.*?)\n\[\1 passage \2 ends\]", re.DOTALL)
ITEMS = re.compile(r"\[(\w+) items begin\]\n(.*?)\n\[\1 items end\]", re.DOTALL)
QUOTA = re.compile(r" Write: (.+?)\.\n\n")
PER_FACT = re.compile(r"`q` holds (\d+)")
WORD = re.compile(r"\w+")
PIECE = re.compile(r"[A-Za-z]+|\d{1,3}|[^\sA-Za-z\d]{1,3}|\n+")
GROWTH = 1.3
"""Tokens of claude-haiku-5-5 over those of its predecessor for the same text (vendor's notes, read 2026-11-20)."""
DENIED = {"no", "yes", "it", "is", "not", "so", "true"}
LEANS = re.compile(r"\b(?:[Tt]his|[Tt]hese|[Tt]hat|[Tt]hose|above|below|following|[Ff]igure|[Tt]able|[Ll]isting|[Cc]hapter|[Ss]ection|[Ww]e|[Yy]ou|example)\b|[`|*#<>\[\]{}]|\?$|:$")
Sentence = tuple[int, int, str]


def count_tokens(text: str) -> int:
    """About how many tokens a text has for claude-haiku-5-5."""
    pieces = sum(1 + (len(piece) - 1) // 9 if piece.isalpha() and piece.isascii() else 1 for piece in PIECE.findall(text))
    return math.ceil(GROWTH * pieces)


def facts_answer(text: str) -> dict[str, Any]:
    """Facts, examples, conversations and questions without an answer, as many as the request asks for."""
    quota = {name: int(count) for name, _, count in (part.strip().rpartition(" ") for part in QUOTA.search(text)[1].split(";"))}  # type: ignore[index]
    per_fact = int(PER_FACT.search(text)[1])  # type: ignore[index]
    pool = _in_turns(text)
    facts = [_fact(pool, min(per_fact, left)) for left in range(quota.get("factual", 0), 0, -per_fact)]
    examples = [one for name in quota for number in range(quota[name]) if (one := _example(name, number, pool))]
    talks = [_talk(pool) for _ in range(quota.get("multi_turn", 0))]
    absent = [_absent(name, number, text) for name in ("abstain_near", "abstain_document") for number in range(quota.get(name, 0))]
    return {"facts": facts, "x": examples, "t": talks, "u": absent, "n": []}


def check_answer(text: str, manner: str) -> dict[str, Any]:
    """Answers to the items without one, and which of the others are fine."""
    passages = {int(number): body for _, number, body in PASSAGES.findall(text)}
    found = ITEMS.search(text)
    items = [json.loads(line) for line in found[2].split("\n")] if found else []
    replies = [{"n": item["n"], "a": _reply(item["q"], passages[item["p"]], manner)} for item in items if "a" not in item]
    faults = {item["n"]: _fault(item["a"], " ".join(passages.values()), manner) for item in items if "a" in item}
    return {"r": replies, "ok": [n for n, fault in faults.items() if not fault], "bad": [{"n": n, "d": fault} for n, fault in faults.items() if fault]}


def _in_turns(text: str) -> Iterator[Sentence]:
    """Good sentences of all passages in turns, again and again: (passage, sentence, text)."""
    rows = []
    for _, passage, body in PASSAGES.findall(text):
        lines = [(int(number), line) for number, _, line in (line.partition("|") for line in body.split("\n"))]
        good = [(int(passage), number, line) for number, line in lines if line.endswith(".") and 6 <= len(line.split()) <= 40 and not LEANS.search(line)]
        rows.append(good or [(int(passage), number, line) for number, line in lines[:1]])
    turns = max(map(len, rows))
    while True:
        yield from (row[turn % len(row)] for turn in range(turns) for row in rows if turn < len(row))


def _subject(line: str) -> str:
    return " ".join(line.rstrip(".").split()[:7])


def _fact(pool: Iterator[Sentence], questions: int) -> dict[str, Any]:
    passage, number, line = next(pool)
    asked = [f"What is known about {_subject(line)}?", f"Which statement holds for {_subject(line)}?", f"Tell me more on {_subject(line)}."]
    return {"e": f"{passage}.{number}", "a": line, "q": asked[:questions]}


def _example(name: str, number: int, pool: Iterator[Sentence]) -> dict[str, Any] | None:
    asked = {"mechanism": "How does it come that {}?", "application": "What follows in practice from {}?", "summary": "What is the main point of {}?"}
    if name not in {*asked, "comparison", "method_discrimination", "negative_fact", "false_premise"}:
        return None
    passage, sentence, line = next(pool)
    example: dict[str, Any] = {"b": name, "f": 0, "a": line, "e": f"{passage}.{sentence}"}
    if name in {"comparison", "method_discrimination"}:
        other, second, more = next(pool)
        return example | {"q": f"How does {_subject(line)} differ from {_subject(more)}?", "a": f"{line} {more}", "e": f"{passage}.{sentence} {other}.{second}"}
    if name == "negative_fact" and number % 2:
        return example | {"q": f"Is it right that {line.rstrip('.')}?", "a": f"Yes, {line}"}
    if name in {"negative_fact", "false_premise"}:
        said = "Is it made of zorblatt that {}?" if name == "negative_fact" else "Why does zorblatt cause {}?"
        return example | {"q": said.format(_subject(line)), "a": f"No, {line}"}
    return example | {"q": asked[name].format(_subject(line))}


def _talk(pool: Iterator[Sentence]) -> dict[str, Any]:
    (_, _, first), (passage, number, line) = next(pool), next(pool)
    return {"e": f"{passage}.{number}", "t": [f"What is known about {_subject(first)}?", first, f"And what about {_subject(line)}?", line]}


def _absent(name: str, number: int, text: str) -> dict[str, Any]:
    made = "zo" + "".join("aeioulnrst"[int(digit) % 10] for digit in str(int(hashlib.sha256(f"{name}{number}{text}".encode()).hexdigest(), 16))[:7])
    asked = ("What does the {} valve do?", "How would you explain the {} rule?", "When was the {} procedure introduced?", "Who is in charge of the {} register?")
    return {"b": name, "q": asked[number % 4].format(made), "w": made}


def _reply(question: str, passage: str, manner: str) -> str:
    asked = set(WORD.findall(question.casefold()))
    lines = [line.partition("|")[2] for line in passage.split("\n")]
    best = max(lines, key=lambda line: len(asked & set(WORD.findall(line.casefold()))))
    says = "No, " if "zorblatt" in asked else "Yes, " if question.startswith("Is it right") else ""
    return "" if manner == "forgetful" else says + best


def _fault(answer: str, passages: str, manner: str) -> str:
    words = set(WORD.findall(answer.casefold())) - DENIED
    if manner == "blind":
        words = {word for word in words if not word.isdigit()}
    supported = words <= set(WORD.findall(passages.casefold())) if manner in {"honest", "blind", "forgetful"} else manner == "yes"
    return "" if supported else "contradicts" if manner == "no" else "unsupported"
