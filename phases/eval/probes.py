"""Two questions that a score on the task does not answer: what was forgotten, and what can be drawn out of the model word for word.

Forgetting: nats per token of plain held-out text, tuned less base. Memorisation: the model is given the beginning of training texts
and of texts that it never saw (Carlini et al. 2023, arXiv:2202.07646); and planted canaries, random answers that only occur in their
training row, are ranked among others of the same form (exposure, Carlini et al. 2019, arXiv:1802.08232).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from forge.canaries import BUCKET, rivals
from forge.phase import Context
from forge.phases.eval.models import Encoded, Models
from forge.records import Chat, Example, Passage, Verdict, digest
from forge.stats import clopper_pearson, cluster_bootstrap

TEXTS, TEXT_TOKENS, BATCH = 32, 128, 16
PREFIX, CONTINUED = 24, 16
"""Tokens that are given, and tokens that have to follow exactly."""
CANARY_RIVALS = 127


def forgetting(models: Models, passages: Sequence[Passage], ctx: Context) -> list[Verdict]:
    """Held-out plain text: mean nats per token of the tuned model less those of the base."""
    texts = [(passage, ids) for passage in _drawn(passages, TEXTS) if len(ids := models.encode_text(passage.text)[:TEXT_TOKENS]) > 1]
    told = "nats per token of held-out plain text, tuned less base; above 0 is forgotten"
    if not texts:
        return [Verdict(name="forgetting", estimate=None, outcome="undecided", evidence=f"{told}: no held-out text", kind="info")]
    rows = [Encoded((ids[0],), tuple(ids[1:])) for _, ids in texts]
    base, tuned = (_remember(ctx, f"forgetting {which}", lambda which=which: _losses(models, rows, which)) for which in ("base", "tuned"))
    clusters: dict[str, list[tuple[float, float]]] = {}
    for (passage, ids), before, after in zip(texts, base, tuned, strict=True):
        clusters.setdefault(passage.group, []).append((after - before, float(len(ids) - 1)))
    estimate, low, high = cluster_bootstrap(clusters, seed=ctx.seed)
    return [Verdict(name="forgetting", estimate=round(estimate, 4), ci=(round(low, 4), round(high, 4)), n=len(texts), outcome="undecided", evidence=told, kind="info")]


def memorised(models: Models, trained: Sequence[Passage], unseen: Sequence[Passage], ctx: Context) -> list[Verdict]:
    """Share of training texts that the tuned model continues word for word, and the same share of texts that it never saw."""
    found = []
    for name, passages, what in (("memorised_train", trained, "training texts"), ("memorised_unseen", unseen, "texts that were never trained on")):
        rows = [ids[: PREFIX + CONTINUED] for passage in _drawn(passages, TEXTS) if len(ids := models.encode_text(passage.text)) >= PREFIX + CONTINUED]
        told = f"{what} of which {PREFIX} tokens are continued with the next {CONTINUED} exactly"
        if not rows:
            found.append(Verdict(name=name, estimate=None, outcome="undecided", evidence=f"{told}: none is long enough", kind="info"))
            continue
        hits = sum(_remember(ctx, name, lambda rows=rows: _continued(models, rows)))
        ci = clopper_pearson(hits, len(rows))
        found.append(Verdict(
            name=name, estimate=round(hits / len(rows), 4), ci=(round(ci[0], 4), round(ci[1], 4)), n=len(rows), outcome="undecided", evidence=told, kind="info",
        ))  # fmt: skip
    return found


def canary_exposure(models: Models, train: Sequence[Example], ctx: Context) -> list[Verdict]:
    """Mean exposure in bits of the planted canaries; 7 is the most that 127 rivals can show. Nothing without canaries."""
    planted = sorted((row for row in train if row.bucket == BUCKET and isinstance(row.body, Chat)), key=lambda row: row.id)
    if not planted:
        return []
    bits = [_remember(ctx, f"canary {row.id}", lambda row=row: _exposure(models, row, ctx.seed)) for row in planted]
    most = math.log2(CANARY_RIVALS + 1)
    told = f"bits by which planted random answers stand out among {CANARY_RIVALS} others; {most:.0f}: each is the likeliest, about 1: by chance"
    return [Verdict(name="canary_exposure", estimate=round(sum(bits) / len(bits), 4), n=len(bits), outcome="undecided", evidence=told, kind="info")]


def _exposure(models: Models, row: Example, seed: int) -> float:
    assert isinstance(row.body, Chat)
    answer = row.body.completion[-1].content
    others = rivals(answer, CANARY_RIVALS, random.Random(f"{seed} {row.id}"))
    rows = [models.encode(row.body.prompt, text) for text in (answer, *others)]
    losses = _losses(models, rows, "tuned")
    rank = 1 + sum(loss < losses[0] for loss in losses[1:])
    return math.log2(len(rows)) - math.log2(rank)


def _losses(models: Models, rows: Sequence[Encoded], which: Any) -> list[float]:
    return [round(loss, 6) for i in range(0, len(rows), BATCH) for loss in models.answer_losses(rows[i : i + BATCH], which)]


def _continued(models: Models, rows: Sequence[Sequence[int]]) -> list[int]:
    found = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        told = models.continue_ids([tuple(ids[:PREFIX]) for ids in batch], "tuned", CONTINUED)
        found += [int(tuple(ids[PREFIX:]) == given) for ids, given in zip(batch, told, strict=True)]
    return found


def _drawn(passages: Sequence[Passage], most: int) -> list[Passage]:
    return sorted(sorted(passages, key=lambda passage: digest("probe", passage.id))[:most], key=lambda passage: passage.id)


def _remember(ctx: Context, key: str, compute: Any) -> Any:
    journal = ctx.journal("probes")
    if key not in journal:
        ctx.check_stop()
        journal.put(key, compute())
    return journal.get(key)
