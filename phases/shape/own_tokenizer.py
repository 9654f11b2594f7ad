"""The tokenizer and chat template that a known base brings: checked, pinned, completed where something is missing.

Traps that are closed here: a base without a template would be trained in one that the server does not have; a tokenizer whose
eos_token does not end a turn (Qwen2.5 base: <|endoftext|>) makes trl add the wrong one and the model never stops; templates
that print today's date make rows differ from day to day; thinking templates open the answer differently in training and chat.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forge.errors import ForgeError
from forge.phases.shape.template import CHATML, END, PLAIN, PLAIN_MARKERS, START, ChatFormat
from forge.records import Message, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILES = ("tokenizer.json", "added_tokens.json", "vocab.json", "merges.txt")
"""Not special_tokens_map.json, which would put the base's own eos_token back."""
PAD_NAMES = ("<|endoftext|>", "<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<unk>")
PROBE = "The pump opens at 3 bar."
PINNED = {"enable_thinking": "{%- set enable_thinking = false %}\n", "date_string": '{%- set date_string = "26 Jul 2024" %}\n'}
"""Variable of a template -> the line that fixes it: the same text in training, evaluation, chat and on any day."""


class OwnTokenizer:
    """What ships for a known base. template: "own", "chatml" or "plain"; settings: tokenizer_config.json."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.settings: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.special = tuple(token["content"] for token in tokenizer["added_tokens"] if token["special"])
        self.vocabulary = set(tokenizer["model"]["vocab"]) | {token["content"] for token in tokenizer["added_tokens"]}
        self.adds_bos = _adds_bos(tokenizer, self.settings)
        self.template, self.chat = self._chat()
        self.settings |= {"eos_token": self.chat.eos, "pad_token": self._pad()}
        self.settings.pop("chat_template", None)

    def write(self, target: Path) -> None:
        """The folder that AutoTokenizer reads; tokenizer.json is the base's own, byte for byte."""
        target.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            if (self.folder / file).is_file():
                shutil.copyfile(self.folder / file, target / file)
        write_json(target / "tokenizer_config.json", self.settings)
        (target / "chat_template.jinja").write_text(self.chat.source, encoding="utf-8", newline="\n")

    def load(self) -> Tokenizer:
        """The tokenizer itself."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def _chat(self) -> tuple[Literal["own", "chatml", "plain"], ChatFormat]:
        bos, eos = _text(self.settings.get("bos_token")), _text(self.settings.get("eos_token"))
        source = self._own_source()
        if source:
            pins = "".join(line for word, line in PINNED.items() if word in source)
            return "own", self._checked(ChatFormat(pins + source, self.special, bos, eos))
        if {START, END} <= set(self.special):
            return "chatml", self._checked(ChatFormat(("{{ bos_token }}" if self.adds_bos else "") + CHATML, self.special, bos, END))
        if eos not in self.vocabulary:
            raise self._refuse("it has no chat template and names no eos_token that could end a turn")
        plain = PLAIN if self.adds_bos else PLAIN.replace("{{ bos_token }}", "")
        return "plain", self._checked(ChatFormat(plain, (*self.special, *PLAIN_MARKERS), bos, eos))

    def _own_source(self) -> str:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = self.settings.get("chat_template") or ""
        if isinstance(found, list):
            found = next((entry["template"] for entry in found if entry["name"] == "default"), "")
        return str(found)

    def _checked(self, chat: ChatFormat) -> ChatFormat:
        """The format with the token that really ends a turn. Raises ForgeError for one that cannot be trained with."""
        from jinja2 import TemplateError

        ask = (Message(role="system", content="Answer."), Message(role="user", content="When?"))
        try:
            prompt, whole = chat.render(ask, open_turn=True), chat.render((*ask, Message(role="assistant", content=PROBE)))
        except TemplateError as error:
            raise self._refuse(f"its chat template refuses a system prompt: {error}") from error
        if not whole.startswith(prompt) or PROBE not in whole[len(prompt) :]:
            raise self._refuse("its chat template shows the model another prompt in training than in a chat")
        tail = whole[whole.rindex(PROBE) + len(PROBE) :].strip()
        ends = [token for token in self.special if tail.startswith(token)] or [token for token in (chat.eos,) if token and tail.startswith(token)]
        if not ends:
            raise self._refuse("its chat template ends no turn with a special token")
        return ChatFormat(chat.source, chat.markers, chat.bos, max(ends, key=len))

    def _pad(self) -> str:
        given = _text(self.settings.get("pad_token"))
        choices = [token for token in (given, *PAD_NAMES) if token in self.vocabulary and token != self.chat.eos]
        return choices[0] if choices else self.chat.eos

    def _refuse(self, why: str) -> ForgeError:
        return ForgeError(f"the base {self.name} cannot be tuned on chats", why=why, next="choose another shape.base, or give it a chat_template.jinja")


def _adds_bos(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Does the tokenizer put a beginning-of-text token before a text by itself?"""
    post = tokenizer.get("post_processor") or {}
    templates = [part for part in post.get("processors", [post]) if part.get("type") == "TemplateProcessing"]
    return bool(settings.get("add_bos_token")) or any("SpecialToken" in piece for part in templates for piece in part["single"][:1])


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token or "")
