"""Documents that speak of something else than the rest, found without any list of words.

Each document is compared with a sample of the others; what counts is the mean of the best third of its similarities, so that a document
of a small subject in a corpus of several is not alone as long as others share that subject. Short documents are less similar to anything:
the line of log similarity over log terms is taken out. What is left is spread by the more typical half of the corpus, so that a quarter
of foreign documents does not hide itself by widening the spread (concentration steps, Rousseeuw and Van Driessen 1999).

Measured (OWASP cheat sheets among chapters of the Rust book and the other way round): 3 of 3, 15 of 15 and 49 of 49 (in 185 documents) are
found, and 15 of 20. In the corpora alone 12 of 137 and 2 of 72 stand out: licences, an index, title pages, a foreword. When a third is
foreign it is a subject of its own: see the subtopics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.phases.audit.terms import Counts, Terms, Vectors
from forge.records import Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

MIN_DOCUMENTS, MIN_TERMS = 12, 25
"""Fewer documents have no typical one; a document of fewer distinct terms says too little of itself."""
SPREADS, LEAST_GAP = 3.0, 0.35
"""How far below the typical document an outlier lies: 3 standard deviations of the upper half, and 30 % less similar."""
CORE_SHARE = 0.6
ROUNDS = 5
WITNESSES = (200, 400, 2_000_000)
"""Documents to compare with: at least 200, at most 400 (a table of 32 MB), between them so many comparisons in all."""
SHOWN_TERMS = 6


class Outlier(NamedTuple):
    """A document that stands out. likeness: its similarity to the others as a share of what is usual for its length (1 = typical)."""

    path: str
    likeness: float
    terms: tuple[str, ...]


class Outliers(NamedTuple):
    """What was found. judged: documents with enough text to tell; 0 with a reason in `undecided` when there are too few of them."""

    found: tuple[Outlier, ...]
    judged: int
    documents: int
    undecided: str = ""

    def told(self, action: str) -> dict[str, Any]:
        """The part of audit.json."""
        shown = [{"path": one.path, "likeness": round(one.likeness, 3), "terms": list(one.terms)} for one in self.found]
        return {"action": action, "documents": self.documents, "judged": self.judged, "undecided": self.undecided, "found": shown}


def find_outliers(
    passages: Sequence[Passage], terms: Terms, tick: Callable[[], None] = lambda: None, counted: Counts | None = None
) -> Outliers:
    """The documents that are least like the others, the strangest first. passages: all that are kept; counted: their terms, where known."""
    import numpy as np

    names = sorted({passage.source.path for passage in passages})
    number = {name: at for at, name in enumerate(names)}
    document_of = np.array([number[passage.source.path] for passage in passages], np.int64)
    counted = counted or terms.counts((passage.text for passage in passages), tick)
    vectors = terms.weighted(counted.summed(document_of, len(names)))
    known = np.diff(vectors.starts)
    strange = _strange(passages, {name for name, few in zip(names, known < MIN_TERMS, strict=True) if few}, names, terms)
    judged = known + strange >= MIN_TERMS
    if judged.sum() < MIN_DOCUMENTS:
        return Outliers((), 0, len(names), f"{int(judged.sum())} documents with enough text; at least {MIN_DOCUMENTS} are needed to tell what is typical")
    vectors = _with_strange(vectors, strange, terms)
    similarity = _similarities(vectors, np.flatnonzero(judged), len(terms.names), tick)
    likeness = _likeness(similarity, np.maximum(known, MIN_TERMS), judged)
    typical = float(np.median(likeness[judged]))
    spread = float(np.quantile(likeness[judged], 0.84)) - typical
    stands_out = judged & (likeness < typical - SPREADS * spread) & (likeness < typical - LEAST_GAP)
    found = [
        Outlier(names[at], float(np.exp(likeness[at] - typical)), _own_terms(vectors, at, terms)) for at in np.flatnonzero(stands_out).tolist()
    ]
    return Outliers(tuple(sorted(found, key=lambda one: (one.likeness, one.path))), int(judged.sum()), len(names))


def _with_strange(vectors: Vectors, strange: NDArray[np.int64], terms: Terms) -> Vectors:
    """Strange words lengthen a document's vector in directions of their own: what has little else is like nothing else.

    Only for documents with few terms: names and identifiers are strange words in all others, and counting them hid 14 of 15 foreign ones.
    """
    import numpy as np

    shorter = np.sqrt(1 + strange * (terms.rarest / np.maximum(vectors.lengths, 1e-9)) ** 2)
    return replace(vectors, weight=vectors.weight / shorter[vectors.rows()])


def _strange(passages: Sequence[Passage], wanted: set[str], names: Sequence[str], terms: Terms) -> NDArray[np.int64]:
    """How many words of each wanted document are neither terms nor common; 0 for the others."""
    import numpy as np

    found: defaultdict[str, set[str]] = defaultdict(set)
    for passage in passages if wanted else ():
        if passage.source.path in wanted:
            found[passage.source.path] |= terms.strange_words(passage.text)
    return np.array([len(found.get(name, ())) for name in names], np.int64)


def _similarities(vectors: Vectors, judged: NDArray[np.int64], n_terms: int, tick: Callable[[], None]) -> tuple[Numbers, NDArray[np.int64]]:
    """Cosines with the witnesses, themselves left out (-1): (documents, witnesses); and which documents the witnesses are."""
    import numpy as np

    least, most, budget = WITNESSES
    wanted = min(most, max(least, budget // len(vectors)))
    witnesses = judged[:: -(-len(judged) // wanted)]
    table = np.zeros((n_terms, len(witnesses)), np.float32)
    for column, document in enumerate(witnesses.tolist()):
        own = slice(vectors.starts[document], vectors.starts[document + 1])
        table[vectors.term[own], column] = vectors.weight[own]
    found = np.zeros((len(vectors), len(witnesses)))
    for document in range(len(vectors)):
        if document % 256 == 0:
            tick()
        own = slice(vectors.starts[document], vectors.starts[document + 1])
        found[document] = vectors.weight[own] @ table[vectors.term[own]]
    found[witnesses, np.arange(len(witnesses))] = -1
    return found, witnesses


def _likeness(similarity: tuple[Numbers, NDArray[np.int64]], size: NDArray[np.int64], judged: NDArray[np.bool_]) -> Numbers:
    """log(similarity to the core of the corpus), without what a document's length explains."""
    import numpy as np

    cosines, witnesses = similarity
    length = np.log(size)
    core = judged.copy()
    likeness = np.zeros(len(size))
    for _ in range(ROUNDS):
        among = np.sort(cosines[:, core[witnesses]], axis=1)
        best = max(3, among.shape[1] // 3)
        value = np.log(np.maximum(among[:, -best:].mean(axis=1), 1e-4))
        slope = max(0.0, float(np.polyfit(length[core], value[core], 1)[0])) if np.ptp(length[core]) > 0 else 0.0
        likeness = value - slope * length
        core = judged & (likeness >= np.quantile(likeness[judged], 1 - CORE_SHARE))
    return likeness


def _own_terms(vectors: Vectors, document: int, terms: Terms) -> tuple[str, ...]:
    own = range(int(vectors.starts[document]), int(vectors.starts[document + 1]))
    best = sorted(own, key=lambda at: (-vectors.weight[at], terms.names[vectors.term[at]]))[:SHOWN_TERMS]
    return tuple(terms.names[vectors.term[at]] for at in best)
