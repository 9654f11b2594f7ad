"""Labels of who speaks ("Host:", "Speaker 2:", "[00:12] Ann Lee:") are structure: out of the text, in order into the passage's meta.

A question such as "What does Speaker 2 say?" teaches nothing. A document is a transcript when two or more labels take turns, and the turns are
talk (somebody says I or you, or asks) or the labels are roles. Fields ("Name: …"), notes ("Warning: …") and changes ("Added: …") are no talk.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from forge.records import Passage

MIN_TURNS = 4
LABELS = (2, 15)
LABELLED_SHARE = 0.6
TALK_SHARE = 0.4
COVERED_SHARE = 0.8
"""Share of the turns that belong to labels with two and more: a label that occurs once is rather a sentence with a colon."""
WORDS_PER_TURN = 3

_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_TURN = re.compile(
    rf"^\s*(?:[-*>]\s+)?(?:[\[(]?{_TIME}[\])]?\s*[-–—]?\s*)?(?:\*\*|__)?"
    rf"(?P<label>[A-ZÀ-ÞΑ-ΩА-Я][\w.'’-]{{0,24}}(?: (?:[A-ZÀ-ÞΑ-ΩА-Я0-9][\w.'’-]{{0,24}})){{0,3}})"
    rf"(?:\s*[\[(]{_TIME}[\])])?(?:\*\*|__)?\s*[:：](?:\*\*|__)?\s+(?P<said>\S.*)$"
)
_ROLE = re.compile(
    r"(?i)^(?:speaker|host|guest|interviewer|interviewee|moderator|narrator|presenter|panelist|panellist|participant|caller|audience|facilitator|respondent"
    r"|sprecher(?:in)?|moderator(?:in)?|interviewte[rn]?|intervieweur|invité|locuteur|entrevistador[a]?|invitado)(?:\s?(?:\d{1,2}|[A-Z]))?$"
)
_NOTE = re.compile(r"(?i)^(?:notes?|warnings?|tips?|hints?|cautions?|important|examples?|danger|info|remarks?|todo|step \d+|hinweis|achtung|beispiel|attention|exemple|nota)$")
_TALK = re.compile(r"(?i)\?\s*$|\?\s|\b(?:I|I['’](?:m|ve|d|ll)|you|your|we|we['’]re|me|my|us|our|ich|sie|wir|mir|uns|je|vous|nous|moi|yo|usted|nosotros)\b")


def find_transcripts(passages: Iterable[Passage]) -> dict[str, frozenset[str]]:
    """Path -> labels of every document that is a transcript."""
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for passage in passages:
        if passage.meta.get("kind", "prose") == "prose" and ":" in passage.text:
            texts[passage.source.path].append(passage.text)
    return {path: labels for path, found in texts.items() if (labels := _labels("\n".join(found)))}


def without_labels(text: str, labels: frozenset[str]) -> tuple[str, list[str]]:
    """The text with one paragraph a turn and no labels, and the labels in the order of the turns."""
    lines: list[str] = []
    order: list[str] = []
    for line in text.split("\n"):
        turn = _TURN.match(line)
        if turn and turn["label"] in labels:
            lines += ([""] if lines and lines[-1] else []) + [turn["said"]]
            order.append(turn["label"])
        else:
            lines.append(line)
    return "\n".join(lines), order


def _labels(text: str) -> frozenset[str]:
    lines = [line for line in text.split("\n") if line.strip()]
    turns = [turn for line in lines if (turn := _TURN.match(line))]
    counts = Counter(turn["label"] for turn in turns)
    repeated = {label: count for label, count in counts.items() if count > 1}
    if (
        len(turns) < max(MIN_TURNS, LABELLED_SHARE * _paragraphs(text)) or not LABELS[0] <= len(repeated) <= LABELS[1]
        or sum(repeated.values()) < COVERED_SHARE * len(turns) or _repeats_in_order(turns)
        or any(_NOTE.match(label) for label in repeated)
    ):
        return frozenset()
    return frozenset(repeated) if _is_talk(turns) or all(_ROLE.match(label) for label in repeated) else frozenset()


def _paragraphs(text: str) -> int:
    """Paragraphs where the text has any, else lines: a turn may be wrapped over several."""
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    return len(paragraphs) if len(paragraphs) >= MIN_TURNS else sum(1 for line in text.split("\n") if line.strip())


def _is_talk(turns: Sequence[re.Match[str]]) -> bool:
    said = [turn["said"] for turn in turns]
    talk = sum(bool(_TALK.search(one)) for one in said)
    return talk >= TALK_SHARE * len(said) and sum(len(one.split()) for one in said) >= WORDS_PER_TURN * len(said)


def _repeats_in_order(turns: Sequence[re.Match[str]]) -> bool:
    """Three and more labels in the same order again and again are the fields of records."""
    labels = [turn["label"] for turn in turns]
    first = list(_until_repeated(labels))
    return len(first) > 2 and len(labels) >= 2 * len(first) and all(label == first[at % len(first)] for at, label in enumerate(labels))


def _until_repeated(labels: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for label in labels:
        if label in seen:
            return
        seen.add(label)
        yield label
