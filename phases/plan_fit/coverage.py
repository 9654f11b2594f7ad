"""Axis 2, coverage: is every document, and every heading, asked about?

Counted over all documents, not sampled. A hard rule besides the share: no document with more than 2 % of all tokens
may be without a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from forge.phases.plan_fit.verdicts import plural, some, undecided
from forge.records import Pair, Passage, Verdict


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
    evidence += f"; {_headings(clean, pairs)}"
    if bare:
        evidence += f"; without: {some(bare)}"
    if big:
        evidence += f"; over {thresholds['coverage_big_document']:.0%} of all tokens and no pair: {some(big)}"
    return Verdict(
        name="coverage", estimate=share, n=len(tokens), threshold=limit,
        outcome="pass" if share >= limit and not big else "fail", evidence=evidence,
    )


def _pairs_by_document(clean: Sequence[Passage], pairs: Sequence[Pair]) -> Counter[str]:
    document = {passage.id: passage.source.path for passage in clean}
    return Counter(document[pair.passage] for pair in pairs if pair.passage in document)


def _headings(clean: Sequence[Passage], pairs: Sequence[Pair]) -> str:
    """How many sections are asked about. A section is a place in a document: its locator."""
    section = {passage.id: (passage.source.path, passage.source.locator) for passage in clean}
    asked = {section[pair.passage] for pair in pairs if pair.passage in section}
    return f"{len(asked):,} of {plural(len(set(section.values())), 'section')} too"
