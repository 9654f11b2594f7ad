"""The passages on their way through audit: what is still in, what was let go and why, and that no character is unaccounted for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from forge import private
from forge.errors import ForgeError
from forge.phases.audit.apart import Hidden, Spread, Texts, find_private, here
from forge.records import Drop, Passage

SAMPLE_CHARACTERS = 160
_CUT = re.compile(r"#cut\d*$")
CHECK = "this is a bug in audit; please report it with the corpus' audit.json"


def is_cut(id: str) -> bool:
    """Whether a drop is a part of a passage that stayed."""
    return bool(_CUT.search(id))


class Sieve:
    """Passages by id (sorted), masked once more before anything else can look at them: prep may have read with older rules.

    characters read = characters kept + characters of all drops + characters that masking took away.
    """

    def __init__(self, passages: Iterable[Passage], tick: Callable[[], None] = lambda: None, spread: Spread = here) -> None:
        """spread: looks for what is private in shards, or gives None."""
        self.kept: dict[str, Passage] = {}
        self.drops: list[Drop] = []
        self._cuts: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()
        self.masked_passages: list[str] = []
        self.chars_read = self.chars_masked = self.read = 0
        ordered = sorted(passages, key=lambda one: one.id)
        hidden_in = find_private([_texts(passage) for passage in ordered], spread)
        for passage in ordered:
            tick()
            self._take(passage, hidden_in(_texts(passage)))

    def drop(
        self, id: str, reason: str, detail: str = "", *, dup_of: str = "", similarity: float | None = None
    ) -> None:
        """Let a passage go."""
        passage = self.kept.pop(id)
        self.drops.append(_drop(passage, id, reason, passage.text, detail, dup_of, similarity))

    def shorten(self, id: str, text: str, gone: str, reason: str, detail: str) -> None:
        """Keep a passage with `text` only; `gone` is what went, for the sample. The drop's id is the passage's, with "#cut" ("#cut2", …)."""
        passage = self.kept[id]
        self._cuts[id] += 1
        number = self._cuts[id] if self._cuts[id] > 1 else ""
        self.kept[id] = passage.model_copy(update={"text": text, "tokens": _tokens(passage, text)})
        chars = len(passage.text) - len(text)
        self.drops.append(_drop(passage, f"{id}#cut{number}", reason, gone, detail).model_copy(update={"chars": chars}))

    def merge_groups(self, group_of: dict[str, str]) -> None:
        """Give the kept passages the groups that `group_of` names for theirs."""
        for id, passage in self.kept.items():
            group = group_of.get(passage.group, passage.group)
            if group != passage.group:
                self.kept[id] = passage.model_copy(update={"group": group})

    def ordered(self) -> list[Passage]:
        """The kept passages by id."""
        return [self.kept[id] for id in sorted(self.kept)]

    def label(self, key: str, values: Mapping[str, str]) -> None:
        """Write values[id] into the meta of each kept passage that has one."""
        for id, value in values.items():
            if id in self.kept:
                passage = self.kept[id]
                self.kept[id] = passage.model_copy(update={"meta": {**passage.meta, key: value}})

    def dropped_by_reason(self) -> dict[str, int]:
        """Passages let go by reason; shortened ones do not count."""
        return dict(sorted(Counter(drop.reason for drop in self.drops if not is_cut(drop.id)).items()))

    def shortened(self) -> int:
        """Passages that lost a part."""
        return len(self._cuts)

    def characters(self) -> dict[str, int | dict[str, int]]:
        """The balance of characters. Raises ForgeError when it does not close."""
        kept = sum(len(passage.text) for passage in self.kept.values())
        by_reason: defaultdict[str, int] = defaultdict(int)
        for drop in self.drops:
            by_reason[drop.reason] += drop.chars
        dropped = sum(by_reason.values())
        if self.chars_read != kept + dropped + self.chars_masked or self.read != len(self.kept) + sum(
            self.dropped_by_reason().values()
        ):
            raise ForgeError(
                "audit lost count of characters",
                why=f"{self.chars_read:,} read, {kept:,} kept, {dropped:,} dropped, {self.chars_masked:,} masked",
                next=CHECK,
            )
        return {
            "read": self.chars_read,
            "kept": kept,
            "dropped": dropped,
            "masked": self.chars_masked,
            "dropped_by_reason": dict(sorted(by_reason.items())),
        }

    def check_masked(self) -> None:
        """Raise ForgeError when a secret is left in what will be written (masking twice must find nothing)."""
        for id in self.masked_passages:
            passage = self.kept.get(id)
            left = private.mask("\n".join((passage.text, *_labels(passage))))[1] if passage else None
            if left:
                raise ForgeError(
                    f"a secret is left in passage {id}", why=f"kinds: {', '.join(sorted(left))}", next=CHECK
                )

    def _take(self, passage: Passage, hidden: Hidden) -> None:
        if passage.id in self.kept:
            raise ForgeError(
                f"two passages have the id {passage.id}",
                why="prep must give each passage its own",
                next="forge resume RUN --from prep",
            )
        text, *labels = hidden.masked or (passage.text,)
        self.read += 1
        self.chars_read += len(passage.text)
        self.chars_masked += len(passage.text) - len(text)
        self.masked += Counter(hidden.placeholders)
        if hidden.masked:
            self.masked_passages.append(passage.id)
            source = passage.source.model_copy(update={"locator": labels[0]})
            meta = dict(zip(passage.meta, labels[1:], strict=True))
            passage = passage.model_copy(
                update={"text": text, "meta": meta, "source": source, "tokens": _tokens(passage, text)}
            )
        self.kept[passage.id] = passage


def _texts(passage: Passage) -> Texts:
    return passage.id, (passage.text, *_labels(passage))


def _labels(passage: Passage) -> list[str]:
    """What is written beside the text and may hold a secret too: the place in the file, headings."""
    return [passage.source.locator, *passage.meta.values()]


def _tokens(passage: Passage, text: str) -> int:
    """prep's estimate, scaled to what is left of the text."""
    return max(1, round(passage.tokens * len(text) / max(1, len(passage.text))))


def _drop(
    passage: Passage, id: str, reason: str, text: str, detail: str, dup_of: str = "", similarity: float | None = None
) -> Drop:
    sample = " ".join(text.split())
    sample = sample if len(sample) <= SAMPLE_CHARACTERS else sample[: SAMPLE_CHARACTERS - 1] + "…"
    rounded = None if similarity is None else round(similarity, 4)
    return Drop(
        id=id,
        reason=reason,
        detail=detail,
        dup_of=dup_of,
        similarity=rounded,
        source=passage.source,
        chars=len(text),
        sample=sample,
    )
