"""Facts that need more than one sentence: what a section says, what a list holds, what an acronym stands for, and gaps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from forge.plugins.teachers._facts import NUMBER, Fact, Place, facts_of_sentence
from forge.plugins.teachers._reading import (
    ITEM,
    MARKUP,
    Block,
    flat,
    is_clean,
    points_back,
    sentences,
    stands_alone,
)
from forge.plugins.teachers._subjects import read_subject, stem
from forge.plugins.teachers._words import COMMON, GENERIC, PLAIN_HEADINGS, QUESTION_WORDS
from forge.questions import LEANING

LEAD_WORDS = 40
LIST_WORDS = 90
GAP_WORDS = 30



def section_facts(block: Block, title: str) -> Iterator[Fact]:
    """What the section says, by its leading sentences; a heading that is a question is asked as it stands."""
    heading = block.path[-1] if block.path else ""
    if not heading or MARKUP.search(heading) or not 3 <= len(heading) <= 90:
        return
    is_question = heading.endswith("?") and heading.split()[0].casefold() in QUESTION_WORDS
    lead = _lead(block.text, after_question=is_question)
    if not lead:
        return
    if is_question:
        yield Fact("question", f"section:{heading.casefold()}", _question_forms(heading, flat(block.text)), lead, lead, 0)
    elif _plain(heading) and title and title != heading and not _plain(title):
        yield Fact("summary", f"section:{title.casefold()}:{heading.casefold()}", _plain_forms(heading, title), lead, lead, 2)
    elif not _plain(heading) and _related(heading, lead):
        yield Fact(
            "summary", f"section:{heading.casefold()}",
            (f'What do the documents say under "{heading}"?', f'Give the main point of "{heading}".', f'What should I know about "{heading}"?'),
            lead, lead, 1,
        )


def _lead(text: str, *, after_question: bool) -> str:
    """The first one to three sentences, up to LEAD_WORDS, as one exact stretch; empty when they do not stand alone."""
    chosen: list[str] = []
    for sentence in sentences(flat(text))[:3]:
        yes_or_no = after_question and not chosen and re.fullmatch(r"(?:Yes|No|Not yet|Partly)[.,]", sentence)
        good = yes_or_no or (is_clean(sentence) and "?" not in sentence and (chosen or after_question or stands_alone(sentence)))
        if not good or len(" ".join([*chosen, sentence]).split()) > LEAD_WORDS:
            break
        chosen.append(sentence)
    lead = " ".join(chosen)
    cut_off = len(chosen) == 1 and LABEL.match(lead)
    return lead if len(lead.split()) >= 8 and lead in flat(text) and not cut_off else ""


def _question_forms(heading: str, text: str) -> tuple[str, ...]:
    words = heading.split()
    if sum(word[0].isupper() for word in words) > len(words) / 2:
        words = [words[0], *(word if _is_name(word.strip("?"), text) else word.lower() for word in words[1:])]
    question = " ".join(words)
    small = question[0].lower() + question[1:]
    return question, f"I would like to know: {small}", f'Somebody asks "{question}" What is the answer?'


def _is_name(word: str, text: str) -> bool:
    return bool(re.search(r"`|\d|[a-z][A-Z]|^[A-Z]{2,}", word)) or (not re.search(rf"\b{re.escape(word.lower())}", text) and word in text)


def _plain(heading: str) -> bool:
    return all(word in PLAIN_HEADINGS | COMMON for word in re.findall(r"[a-z]+", heading.casefold()))


def _plain_forms(heading: str, title: str) -> tuple[str, ...]:
    return (
        f'What does the part "{heading}" of "{title}" say?',
        f'How does "{title}" put it under "{heading}"?',
        f'Read "{title}": what is the point of "{heading}" there?',
    )


def _related(heading: str, lead: str) -> bool:
    wanted = {stem(word) for word in re.findall(r"\w{3,}", heading.casefold()) if word not in COMMON}
    return bool(wanted & {stem(word) for word in re.findall(r"\w{3,}", lead.casefold())})


PRONOUN = re.compile(r"(?:It|They|This|These|He|She)\b")
LABEL = re.compile(r"[A-Z]\w+: ")
INTRO_NAMES = re.compile(r"(?:^|\. )(?:These|Those|Here|The following) are (?P<what>the [^,;:()]{3,60}?)(?: (?:in|of|for) slm-forge)?:$")
INTRO_ARE = re.compile(r"(?:^|\. )(?P<what>(?:The|Common|Typical|Good|Main) [^,;:()]{3,60}?) are(?: these| the following| as follows)?:$")
INTRO_HAS = re.compile(rf"(?:^|\. )(?P<subject>[^,;:().]{{3,60}}?) (?P<verb>has|have|holds|contains|includes) (?P<number>{NUMBER}|the following|these) (?P<noun>[a-z][\w -]{{2,40}}s):$")


def list_facts(block: Block, intro: str, place: Place) -> Iterator[Fact]:
    """The list as a whole, and each item of the form "term: what it is"."""
    items = _items(block.text)
    if not all(MARKUP.search(item) or LEANING.search(item) for item in items):
        yield from _whole_list(block, items, intro, place)
    for item in items:
        yield from _term(item, place)


def _items(text: str) -> list[str]:
    items: list[str] = []
    for line in text.split("\n"):
        mark = ITEM.match(line)
        if mark and not line.startswith(("    ", "\t")):
            items.append(line[mark.end() :].strip())
        elif items:
            items[-1] += " " + line.strip()
    return items


def item_sentences(text: str) -> list[str]:
    """Items that are whole sentences."""
    return [sentence for item in _items(text) for sentence in sentences(flat(item))[:1]]


def _whole_list(block: Block, items: Sequence[str], intro: str, place: Place) -> Iterator[Fact]:
    bad = any(MARKUP.search(item) or LEANING.search(item) or len(item) < 2 or item.endswith(":") or PRONOUN.match(item) for item in items)
    if bad or not 2 <= len(items) <= 10 or len(block.text.split()) > LIST_WORDS or "    " in block.text:
        return
    named = INTRO_NAMES.search(intro) or INTRO_ARE.search(intro)
    has = INTRO_HAS.search(intro)
    subject = read_subject(has["subject"], heading=place.heading, text=place.text) if has else None
    if named and not points_back(named["what"]) and not set(named["what"].casefold().split()[1:]) <= GENERIC:
        what = named["what"][0].lower() + named["what"][1:]
        forms = (f"What are {what}?", f"List {what}.", f"Can you name {what}?")
        key = what
    elif has and subject:
        do = "do" if has["verb"] in {"have"} else "does"
        verb = {"has": "have", "holds": "hold", "contains": "contain", "includes": "include"}.get(has["verb"], has["verb"])
        number = f"{has['number']} " if has["number"] not in {"the following", "these"} else ""
        noun = has["noun"]
        forms = (f"Which {number}{noun} {do} {subject.phrase} {verb}?", f"List the {noun} of {subject.phrase}.", f"Name the {noun} that {subject.phrase} {has['verb']}.")
        key = f"{subject.core}:{noun}"
    elif place.heading and not _plain(place.heading) and not MARKUP.search(place.heading):
        forms = (f'Which points are listed under "{place.heading}"?', f'What does the list in "{place.heading}" contain?', f'Name the items of "{place.heading}".')
        key = place.heading
    else:
        return
    yield Fact("list", f"list:{key.casefold()}", forms, block.text, block.text, 1)


TERM = re.compile(r"^(?P<term>[`\"]?[A-Z`\"\d-][^:.;,()]{1,50}?)(?::| — | – | - ) ?(?P<what>\S.{20,})$")


def _term(item: str, place: Place) -> Iterator[Fact]:
    match = TERM.match(flat(item))
    if not match or not place.heading or _plain(place.heading) or len(match["term"].split()) > 5 or len(item.split()) > 60:
        return
    term = match["term"].strip("`\"")
    if MARKUP.search(item) or LEANING.search(item) or points_back(term) or term.casefold() in GENERIC | PLAIN_HEADINGS | {"note", "tip", "warning"}:
        return
    answer = flat(item)
    yield Fact(
        "item", f"item:{place.heading.casefold()}:{term.casefold()}",
        (
            f'What does "{place.heading}" say about "{term}"?',
            f'Explain "{term}", as listed under "{place.heading}".',
            f'"{term}" belongs to "{place.heading}". What does it stand for there?',
        ),
        answer, answer, 1,
    )


ACRONYM = re.compile(r"\((?P<short>[A-Z][A-Za-z]{0,7}[A-Z])s?\)")
BEFORE_ACRONYM = re.compile(r"(?:[A-Za-z][\w-]*[ -]){1,9}$")


def acronym_facts(text: str) -> Iterator[Fact]:
    """What an acronym stands for, where the text itself spells it out (first letters as Schwartz & Hearst 2003)."""
    for sentence in sentences(text) if ACRONYM.search(text) else ():
        for match in ACRONYM.finditer(sentence):
            before = BEFORE_ACRONYM.search(sentence, max(0, match.start() - 120), match.start())
            long = _long_form(before.group().strip(), match["short"]) if before else ""
            if long and not MARKUP.search(sentence):
                short = match["short"]
                evidence = flat(sentence)
                yield Fact(
                    "acronym", f"acronym:{short}",
                    (f"What does {short} stand for?", f"Spell out the abbreviation {short}.", f"{short} is short for what?"),
                    long, evidence, 0,
                )


def _long_form(words: str, short: str) -> str:
    parts = re.split(r"(?<=[ -])", words)
    letters = short.casefold()
    for size in range(len(letters), min(len(parts), len(letters) + 2) + 1):
        tail = parts[-size:]
        initials = [part[0].casefold() for part in tail if part.strip(" -").casefold() not in {"of", "and", "the", "for", "to", "in"}]
        if "".join(initials) == letters and tail[0][0].casefold() == letters[0]:
            return "".join(tail).strip()
    return ""


GAP = re.compile(r"`[^`\s]+(?: [^`]+)?`|\b(?:\d[\d,.]*\d|\d+)\b(?: percent| %)?|\b[A-Z][a-z]+[A-Z]\w*\b|\b[A-Z][A-Z0-9-]{1,}\b")


def gap_facts(sentence: str, place: Place) -> Iterator[Fact]:
    """A sentence with one telling number or name left out."""
    if not place.heading or MARKUP.search(place.heading) or len(sentence.split()) > GAP_WORDS or not GAP.search(sentence, 8):
        return
    if not any(fact.bucket in {"definition", "number", "rule", "mechanism"} for fact in facts_of_sentence(sentence, place)):
        return
    for match in GAP.finditer(sentence):
        missing = match.group().strip()
        if match.start() > 8 and sentence.count(missing) == 1 and len(sentence.split()) >= 7 and (missing[0].isdigit() or len(missing.strip("`")) > 2 + 2 * (missing[0] == "`")) and missing not in place.heading:
            blank = sentence[: match.start()] + "____" + sentence[match.start() + len(missing) :]
            yield Fact(
                "gap", f"gap:{sentence.casefold()}",
                (f'Complete the sentence from "{place.heading}": {blank}', f"What belongs in the gap? {blank}", f"Fill in the missing word or number: {blank}"),
                missing, sentence, 4,
            )
            return
