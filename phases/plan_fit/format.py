"""Axis 6, format: every row rendered through the chat template that ships and the real tokenizer.

The template is rendered with the same jinja environment as transformers' apply_chat_template, without importing it; a
test compares the two. The dress rehearsal then proves that the trainer agrees on a sample.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forge.errors import GateFailed
from forge.phases.plan_fit.data import SPLITS, Data
from forge.phases.plan_fit.verdicts import changed, plural, some, undecided
from forge.records import Chat, Example, Message, Verdict

TEMPLATE = "chat_template.jinja"


def judge_format(data: Data, max_length: int) -> Verdict:
    """Rows with any fault of rendering (a template that drops the system prompt loses a turn); the hash of the template must be the one that shape recorded. 0 is the limit."""
    rows = [row for name in SPLITS for row in data.splits[name]]
    if not rows:
        return _integrity(undecided("format", "no rows", threshold=0.0))
    if not all(isinstance(row.body, Chat) for row in rows):
        return _integrity(undecided("format", "only chat rows are rendered here", n=len(rows), threshold=0.0))
    renderer = Renderer(data.tokenizer)
    faults = {row.id: renderer.faults(row, data.contract.system_prompt, max_length) for row in rows}
    bad = [key for key, found in faults.items() if found]
    same = renderer.template_sha256 == data.contract.chat_template_sha256
    evidence = f"all {plural(len(rows), 'row')} rendered and tokenized; template {renderer.template_sha256[:12]}"
    if bad:
        kinds = Counter(kind for found in faults.values() for kind in found)
        evidence += "; " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) + f" ({some(bad)})"
    if not same:
        evidence += f"; shape recorded template {data.contract.chat_template_sha256[:12]}"
    return Verdict(
        name="format", estimate=round(len(bad) / len(rows), 6), n=len(rows), threshold=0.0, kind="integrity",
        outcome="pass" if same and not bad else "fail", evidence=evidence,
    )


def with_rehearsal(verdict: Verdict, *, done: bool, note: str) -> Verdict:
    """The format verdict after the rehearsal: without one a pass is only undecided."""
    if verdict.outcome == "pass" and not done:
        return changed(verdict, "undecided", note)
    return changed(verdict, verdict.outcome, note)


class Renderer:
    """The tokenizer folder as transformers would use it."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        source = (folder / TEMPLATE).read_bytes()
        self.template_sha256 = hashlib.sha256(source).hexdigest()
        self._template = _compile(source.decode("utf-8"))
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._tokens = {key: _text(config.get(key)) for key in ("bos_token", "eos_token", "pad_token") if config.get(key)}
        added = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens", [])
        self._special = tuple(token["content"] for token in added if token.get("special"))

    def render(self, turns: Sequence[Message], *, open_turn: bool) -> str:
        """The text of a conversation; open_turn adds the start of the assistant's answer."""
        messages = [turn.model_dump() for turn in turns]
        return str(self._template.render(messages=messages, add_generation_prompt=open_turn, **self._tokens))

    def faults(self, row: Example, system_prompt: str, max_length: int) -> list[str]:
        """What is wrong with one row; empty when the trainer can use it as it is."""
        assert isinstance(row.body, Chat)
        turns = (*row.body.prompt, *row.body.completion)
        prompt, whole = self.render(row.body.prompt, open_turn=True), self.render(turns, open_turn=False)
        head, ids = self._ids(prompt), self._ids(whole)
        eos = self._tokens.get("eos_token", "")
        systems = [turn.content for turn in row.body.prompt if turn.role == "system"]
        checks = {
            "prompt is no prefix": not whole.startswith(prompt) or ids[: len(head)] != head,
            "no end of turn": not eos or not whole[len(prompt) :].rstrip().endswith(eos),
            "marker in a text": any(token in turn.content for turn in turns for token in self._special),
            "does not decode back": self._tokenizer.decode(ids, skip_special_tokens=False) != whole,
            "too long": len(ids) > max_length,
            "empty answer": not any(turn.content.strip() for turn in row.body.completion),
            "another system prompt": systems != ([system_prompt] if system_prompt else []),
            "turn lost": any(turn.content.strip() not in whole for turn in turns),
        }
        return [kind for kind, bad in checks.items() if bad]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _compile(source: str) -> Any:
    """The template in the environment of transformers 5.23 (utils/chat_template_utils.py)."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = raise_exception
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise GateFailed(
            "the chat template cannot be used", why=str(error), next="forge resume --from shape"
        ) from error


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _integrity(verdict: Verdict) -> Verdict:
    return verdict.model_copy(update={"kind": "integrity"})
