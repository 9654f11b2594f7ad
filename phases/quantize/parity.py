"""The parity gate: is the F16 file the model that was trained? Token ids, logits, greedy answers, markers.

Perplexity cannot answer that. Measured on trained 2-layer models: exporting without llama-3's rope factors made it better
(127.5 against 128.6), without Qwen-2's biases worse by 0.05 %; both are plain in the logits. And markers typed NORMAL leave
logits as they are and show only in the ids of a rendered chat.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Protocol

from forge.phases.quantize.llama import Generation, Llama, Vocabulary
from forge.phases.quantize.reference import ChatTokenizer, GreedyAnswer
from forge.phases.quantize.rows import Encoded
from forge.records import Verdict

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

NASTY_TEXTS = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶‍🌫️ (multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333",
    "333333 3333333 33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ ------======= нещо на Български",
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea?",
    "We'Ve a'lL", " leading space", "trailing space ", "  two  spaces  ", "\ttab\r\nCRLF\rCR\n\n\nthree", " ", "\n", "a",
    "MeshSegNet_v2.1-beta (iMeshSegNet) snake_case camelCase HTTPServer2 x=1e-9; if (a<b && c>d) { return !e; }",
    "Ünïcödé naïve café Straße Ελληνικά עברית العربية हिन्दी ไทย 日本語 한국어 \u00a0nbsp \u200bzero\u200dwidth \ufeffbom",
    "e\u0301 decomposed, \u212b angstrom, \ufb01 ligature, ½ ² Ⅳ ٣ 三 \U0001d7d9 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "control \x01\x07\x1b[31m red \x7f del \x85 nel \u2028 line \u2029 paragraph", "<|not_a_token|> <s> </s> [INST] <<SYS>> <|im_",
)
"""In the manner of `chktxt` in llama.cpp's conversion/base.py, which tells pre-tokenizers apart."""

WANTED_BYTES = 50_000
TOP_MARGIN = 1e-9


class HasLogits(Protocol):
    """What the reference is asked for (transformers' merged model)."""

    def logits(self, ids: tuple[int, ...], *, last: int) -> Array:
        """(last, vocabulary) float32."""
        ...

    def generate(self, prompt: tuple[int, ...], *, limit: int) -> GreedyAnswer:
        """A greedy answer."""
        ...


def parity_texts(seen: Sequence[str], chats: Sequence[str], tokenizer: ChatTokenizer, *, seed: int, wanted_bytes: int) -> list[str]:
    """Nasty texts, rendered chats, the texts of the test rows, and random token sequences up to `wanted_bytes`.

    Random tokens decode to text that reaches merges which no document reaches.
    """
    texts = [*NASTY_TEXTS, *chats, *seen]
    generator, size = random.Random(seed), sum(len(text.encode("utf-8", "replace")) for text in texts)
    usable = [i for i in range(len(tokenizer.tokenizer)) if i not in tokenizer.markers]
    while size < wanted_bytes:
        text = str(tokenizer.tokenizer.decode(generator.choices(usable, k=64)))
        texts.append(text)
        size += max(1, len(text.encode("utf-8", "replace")))
    return [tokenizer.normalize(text) for text in texts]


def judge_tokens(texts: list[str], tokenizer: ChatTokenizer, llama: Llama, vocabulary: Vocabulary) -> Verdict:
    """Integrity: every text gives the same ids. One difference is a failure.

    llama.cpp takes some texts for ends of turns whatever a file says of them ("</s>", an ordinary token of Qwen 2, in
    llama-vocab.cpp). Nobody can export that away, so they are cut out of the texts, and said.
    """
    overridden = sorted(tokenizer.text(token) for token in set(vocabulary.end) - set(tokenizer.markers))
    texts = [_without(text, overridden) for text in texts]
    wrong = [
        text for text, ids in zip(texts, llama.tokenize(texts), strict=True) if ids != tokenizer.encode(text)
    ]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    first = f"; first difference in {wrong[0][:60]!r}" if wrong else ""
    apart = f"; llama.cpp itself takes {', '.join(overridden)} for an end, which is left out" if overridden else ""
    return Verdict(
        name="token_ids", kind="integrity", estimate=round(1 - len(wrong) / len(texts), 6), n=len(texts), threshold=1.0,
        outcome="fail" if wrong else "pass",
        evidence=f"share of {len(texts)} texts ({size:,} bytes) with the same ids in transformers and llama.cpp{first}{apart}",
    )


def _without(text: str, cut: Sequence[str]) -> str:
    for piece in cut:
        text = text.replace(piece, "")
    return text


def judge_markers(encoded: Sequence[Encoded], tokenizer: ChatTokenizer, vocabulary: Vocabulary) -> Verdict:
    """Integrity: the markers of the chat template are CONTROL tokens, and what ends a turn ends the generation."""
    used = {token for row in encoded for token in (*row.prompt, *row.answer) if token in tokenizer.markers}
    loose = sorted(used - set(vocabulary.control))
    stops = tokenizer.end_of_turn in vocabulary.end and tokenizer.end_of_turn == vocabulary.eos
    names = ", ".join(tokenizer.markers[token] for token in loose)
    evidence = f"{len(used)} markers of the chat template are control tokens" if not loose else f"not control tokens: {names}"
    return Verdict(
        name="markers", kind="integrity", estimate=float(len(used) - len(loose)), n=len(used), threshold=float(len(used)),
        outcome="pass" if used and not loose and stops else "fail",
        evidence=evidence if stops else f"{evidence}; the end of a turn does not end the generation",
    )


def judge_logits(
    prompts: Sequence[tuple[int, ...]], reference: HasLogits, llama: Llama, limit: float | None, *, last: int
) -> list[Verdict]:
    """Integrity: largest logit difference, and whether the greedy choice is the same but for ties within it.

    Measured floor of right exports (F16 weights and KV cache): 0.003 to 0.006 on models of 1 to 63M parameters; the mildest
    wrong one (random weights, rope factors lost) 0.13, wrong exports of trained models 0.46 to 5.
    """
    import numpy as np

    largest, agree, positions = 0.0, 0, 0
    for ids in prompts:
        count = min(last, len(ids))
        expected, got = reference.logits(ids, last=count), llama.logits(list(ids), last=count)
        largest = max(largest, float(np.abs(expected - got).max()))
        chosen = expected[np.arange(count), got.argmax(axis=1)]
        agree += int((chosen >= expected.max(axis=1) - (limit or 0.0) - TOP_MARGIN).sum())
        positions += count
    share = round(agree / positions, 6) if positions else None
    size = Verdict(
        name="logit_diff_f16", kind="integrity", estimate=float(f"{largest:.4g}") if positions else None, n=len(prompts),
        threshold=limit, outcome=_at_most(largest, limit, positions),
        evidence=f"largest logit difference between F16 in llama.cpp and float32 in transformers over {positions} positions",
    )
    choice = Verdict(
        name="argmax_f16", kind="integrity", estimate=share, n=positions, threshold=1.0,
        outcome="undecided" if share is None else "pass" if share == 1.0 else "fail",
        evidence="share of positions where the F16 file chooses transformers' token (or one within the allowed difference)",
    )
    return [size, choice]


def judge_greedy(pairs: Sequence[tuple[Encoded, GreedyAnswer, Generation]], reference: HasLogits, limit: float | None) -> Verdict:
    """Integrity: F16 answers as transformers does, or parts from it where two tokens were as good as equal."""
    same = [ours.ids == theirs.ids for _, theirs, ours in pairs]
    explained = [
        equal or _parts_at_tie(row, theirs, ours, reference, limit or 0.0)
        for equal, (row, theirs, ours) in zip(same, pairs, strict=True)
    ]
    share = round(sum(explained) / len(explained), 6) if pairs else None
    return Verdict(
        name="greedy_f16", kind="integrity", estimate=share, n=len(pairs), threshold=1.0,
        outcome="undecided" if share is None else "pass" if share == 1.0 else "fail",
        evidence=f"{sum(same)} of {len(pairs)} greedy answers equal token for token, {sum(explained) - sum(same)} part at a tie",
    )


def _parts_at_tie(row: Encoded, theirs: GreedyAnswer, ours: Generation, reference: HasLogits, limit: float) -> bool:
    """At the first different token, transformers scores both choices within twice the allowed logit difference."""
    at = next(i for i, (a, b) in enumerate(zip_longest(theirs.ids, ours.ids)) if a != b)
    scores = reference.logits((*row.prompt, *theirs.ids[:at]), last=1)[0]
    ours_next = ours.ids[at] if at < len(ours.ids) else row.answer[-1]
    return bool(scores[ours_next] >= scores.max() - 2 * limit)


def _at_most(value: float, limit: float | None, n: int) -> Any:
    if limit is None or not n:
        return "undecided"
    return "pass" if value <= limit else "fail"
