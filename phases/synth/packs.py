"""What a teacher that writes freely is asked: facts of several passages in one request, and checks of many pairs in one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from forge.phases.synth.buckets import ABSTAINING, TWO_PASSAGES, Quotas, tokens_of, wanted_shares
from forge.phases.synth.prompts import CHECK, FACTS, FAR, FAR_SUBJECTS
from forge.protocols import CheckItem, TeacherRequest
from forge.questions import jaccard, subject
from forge.records import Passage, canonical_json, digest

if TYPE_CHECKING:
    from forge.phases.synth import SynthSettings

PACK_TOKENS, PACK_PASSAGES = 3000, 6
"""Text of one request. The prompt is then a tenth of what goes in; more would lose too much with one failed answer."""
PAIRS_AT_LEAST = 2
"""Answers that are asked for each passage, however short."""
TOKENS_PER_PAIR, TOKENS_PER_REPLY, TOKENS_PER_VERDICT, FRAME_TOKENS = 130, 110, 20, 200
"""Output tokens set aside: for a pair with its share of the fact, for a reply, for a verdict, and for names and brackets."""
TEST_ABSTENTIONS, TRAINED_SHARE = 220, 0.85
"""Abstention questions beyond the training share, for the test; and of the answerable pairs, what shape leaves in training."""
RELATED = 0.15
"""Shared words of six letters and more, of all of them, from which passages of two documents can be compared."""
FAR_PER_REQUEST = 40
QUESTION_CHARS, ANSWER_CHARS = 90, 200
ITEMS_PER_CHECK = 40

Pack = tuple[Passage, ...]


def pack(passages: Sequence[Passage]) -> list[Pack]:
    """The passages in groups of neighbours: a document's own together, small documents side by side."""
    packs: list[list[Passage]] = []
    tokens = 0.0
    for passage in sorted(passages, key=lambda passage: (passage.group, passage.id)):
        if not packs or len(packs[-1]) == PACK_PASSAGES or tokens + tokens_of(passage) > PACK_TOKENS:
            packs.append([])
            tokens = 0.0
        packs[-1].append(passage)
        tokens += tokens_of(passage)
    return [tuple(found) for found in packs]


def request_facts(packs: Sequence[Pack], settings: SynthSettings, teacher: str, able: Sequence[str] = ()) -> list[TeacherRequest]:
    """One request a pack, each for its share of every bucket by the tokens of its text."""
    quotas = Quotas(wanted_shares(settings.buckets, able)[0])
    share, total = settings.abstaining, sum(tokens_of(passage) for found in packs for passage in found) or 1.0
    requests = []
    for found in packs:
        tokens = sum(map(tokens_of, found))
        answers = min(max(PAIRS_AT_LEAST * len(found), tokens / 1000 * settings.pairs_per_1000_tokens), float(settings.pairs_per_passage * len(found)))
        abstentions = TRAINED_SHARE * share / (1 - share) * answers + TEST_ABSTENTIONS * tokens / total if share else 0.0
        quota = quotas.give(answers, abstentions, without=("abstain_far", *(() if _related(found) else TWO_PASSAGES)))
        requests.append(_facts(found, quota, settings, teacher))
    return requests


def request_unanswered(packs: Sequence[Pack], wanted: dict[str, int], settings: SynthSettings, teacher: str, seed: int) -> Iterator[TeacherRequest]:
    """More questions to abstain from, pack by pack in an order drawn from the seed."""
    for found in sorted(packs, key=lambda found: digest(str(seed), found[0].id)):
        yield _facts(found, {name: 3 * len(found) for name in ABSTAINING[:2] if wanted.get(name)}, settings, teacher)


def request_far(passage: Passage, teacher: str, wanted: int) -> list[TeacherRequest]:
    """Requests for questions from outside of any domain, each on a subject of its own."""
    requests = []
    for number, start in enumerate(range(0, wanted, FAR_PER_REQUEST)):
        count = min(FAR_PER_REQUEST, wanted - start)
        prompt = FAR.format(subject=FAR_SUBJECTS[number % len(FAR_SUBJECTS)])
        short = passage.model_copy(update={"text": passage.text[:200]})
        key = digest("far", passage.id, short.text, prompt, str(number), str(count), teacher)
        requests.append(TeacherRequest(key=key, kind="out_of_scope", passage=short, prompt=prompt, wanted=count, max_output_tokens=FRAME_TOKENS + 70 * count))
    return requests


def request_checks(found: Pack, items: Sequence[CheckItem], teacher: str) -> TeacherRequest:
    """One request to answer the items without an answer and to judge the others."""
    tokens = FRAME_TOKENS + sum(TOKENS_PER_VERDICT if item.answer else TOKENS_PER_REPLY for item in items)
    asked = canonical_json([item.model_dump(mode="json") for item in items])
    key = digest("check", *_shown(found), asked, CHECK, teacher, str(tokens))
    return TeacherRequest(
        key=key, kind="check", passage=found[0], context=found[1:], prompt=CHECK, wanted=len(items), max_output_tokens=tokens, items=tuple(items)
    )


def forecast_checks(packs: Sequence[Pack], settings: SynthSettings, teacher: str) -> list[TeacherRequest]:
    """What checking may come to at worst: every pack, with a judged item for every answer that is asked for, of typical length."""
    requests = []
    for found in packs:
        count = math.ceil(max(PAIRS_AT_LEAST * len(found), sum(map(tokens_of, found)) / 1000 * settings.pairs_per_1000_tokens))
        items = [CheckItem(number=number, question="x" * QUESTION_CHARS, answer="x" * ANSWER_CHARS) for number in range(1, count + 1)]
        requests.append(request_checks(found, items, teacher))
    return requests


def _facts(found: Pack, quota: dict[str, int], settings: SynthSettings, teacher: str) -> TeacherRequest:
    prompt = FACTS.format(per_fact=settings.pairs_per_fact)
    wanted = sum(quota.values())
    tokens = FRAME_TOKENS + TOKENS_PER_PAIR * wanted
    key = digest("facts", *_shown(found), prompt, canonical_json(quota), teacher, str(tokens))
    return TeacherRequest(
        key=key, kind="facts", passage=found[0], context=found[1:], prompt=prompt, wanted=wanted, max_output_tokens=tokens, quota=quota
    )


def _shown(found: Pack) -> list[str]:
    return [part for passage in found for part in (passage.id, passage.meta.get("heading", ""), passage.text)]


def _related(found: Pack) -> bool:
    """True when two passages are of one document or about the same."""
    long = {passage.id: frozenset(word for word in subject(passage.text) if len(word) > 5) for passage in found}
    return any(a.group == b.group or jaccard(long[a.id], long[b.id]) >= RELATED for a, b in combinations(found, 2))
