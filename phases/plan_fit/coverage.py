"""Axis 2, coverage: is every document, and every heading, asked about?

Counted over all documents, not sampled. A hard rule besides the share: no document with more than 2 % of all tokens
may be without a pair.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set

from forge.phases.plan_fit.verdicts import plural, some, undecided
from forge.records import Pair, Passage, Verdict

SHOWN = 3


def judge_coverage(clean: Sequence[Passage], pairs: Sequence[Pair], thresholds: Mapping[str, float]) -> Verdict:
    """Share of documents with enough pairs; fails too when a large document has none."""
    limit, enough = thresholds["coverage_documents"], int(thresholds["coverage_pairs_per_document"])
    tokens = Counter[str]()
    for passage in clean:
        tokens[passage.source.path] += passage.tokens or len(passage.text.split())
    asked = _pairs_by_document(clean, pairs)
    if len(tokens) < thresholds["coverage_min_documents"]:
        return undecided("coverage", f"only {plural(len(tokens), 'document')}", n=len(tokens), threshold=limit)
    bare = [document for document in tokens if asked[document] < enough]
    big = [d for d in tokens if not asked[d] and tokens[d] > thresholds["coverage_big_document"] * tokens.total()]
    share = round(1 - len(bare) / len(tokens), 6)
    evidence = f"{len(tokens) - len(bare):,} of {plural(len(tokens), 'document')} have a pair"
    evidence += f"; {_headings(clean, pairs)}; pairs spread over {evenness(tokens, asked):.0%} of what the documents' tokens do"
    if bare:
        evidence += f"; without: {some(bare)}"
    if big:
        evidence += f"; over {thresholds['coverage_big_document']:.0%} of all tokens and no pair: {some(big)}"
    return Verdict(
        name="coverage", estimate=share, n=len(tokens), threshold=limit,
        outcome="pass" if share >= limit and not big else "fail", evidence=evidence,
    )


def evenness(tokens: Mapping[str, int], asked: Mapping[str, int]) -> float:
    """Entropy of the pairs over the documents by that of the tokens: 1 where pairs follow the text, 0 where one document has all."""
    of_tokens, of_pairs = (_entropy([counts.get(name, 0) for name in tokens]) for counts in (tokens, asked))
    return of_pairs / of_tokens if of_tokens else 1.0


def _entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count) if total else 0.0


def _pairs_by_document(clean: Sequence[Passage], pairs: Sequence[Pair]) -> Counter[str]:
    """A comparison counts for both of its documents."""
    document = {passage.id: passage.source.path for passage in clean}
    places = ({pair.passage, *(quote.passage for quote in pair.also)} for pair in pairs)
    return Counter(name for found in places for name in {document[place] for place in found if place in document})


def _headings(clean: Sequence[Passage], pairs: Sequence[Pair]) -> str:
    """How many sections are asked about. A section is a place in a document: its locator."""
    section = {passage.id: (passage.source.path, passage.source.locator) for passage in clean}
    asked = {section[pair.passage] for pair in pairs if pair.passage in section}
    return f"{len(asked):,} of {plural(len(set(section.values())), 'section')} too{_largest_left_out(clean, asked)}"


def _largest_left_out(clean: Sequence[Passage], asked: Set[tuple[str, str]]) -> str:
    """The sections with the most text that nobody asks about."""
    words = Counter[str]()
    for passage in clean:
        if (passage.source.path, passage.source.locator) not in asked:
            words[f"{passage.source.path} {passage.meta.get('heading', passage.source.locator)}".strip()] += len(passage.text.split())
    named = [name for name, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]]
    return f" (the largest without: {', '.join(named)})" if named else ""
