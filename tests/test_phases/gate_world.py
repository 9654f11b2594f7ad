"""Another world for every seed: documents about beekeeping, pairs copied from them, and what can go wrong with either."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from forge.records import Pair, Passage, Source

ABSTENTION = "The apiary notes do not say."
BUCKETS = ("factual", "number", "application", "mechanism")
SUBTOPICS = ("hives", "queens", "honey", "winter", "swarms")
BEES = ["hive", "colony", "queen", "brood", "comb", "frame", "nectar", "pollen", "swarm", "smoker", "veil", "drone", "worker", "honey", "extractor", "wax", "propolis", "apiary", "entrance", "super", "cluster", "mite", "feeder"]
KITCHEN = ["dough", "oven", "butter", "flour", "pastry", "sauce", "whisk", "garnish", "vanilla", "saucepan", "simmer", "dessert", "yeast", "crust", "broth", "onion", "garlic", "basil", "roast", "grill", "skillet", "batter", "glaze"]
BEE_VERBS = ["inspects", "cleans", "weighs", "closes", "opens", "moves", "feeds", "marks", "protects", "carries", "builds", "seals"]
KITCHEN_VERBS = ["bakes", "fries", "kneads", "stirs", "tastes", "serves", "chops", "boils", "sprinkles", "melts", "pours", "chills"]
PLACES = ["meadow", "orchard", "barn", "terrace", "garden", "hillside"]
KITCHEN_PLACES = ["kitchen", "pantry", "bakery", "counter", "stove", "cellar"]


class GateWorld:
    """Clean passages and pairs of one seed: 40 documents of 6 passages, two facts in two forms each."""

    def __init__(self, seed: int, documents: int = 40) -> None:
        self.random = random.Random(seed)
        self.clean = [self._passage(document, number) for document in range(documents) for number in range(6)]
        self.pairs = [pair for passage in self.clean for pair in self._pairs(passage)]

    @property
    def passages(self) -> dict[str, Passage]:
        """By id."""
        return {passage.id: passage for passage in self.clean}

    def off_topic(self, share: float) -> list[Passage]:
        """The passages with so many of them, inside their documents, about cooking."""
        chosen = set(self.random.sample(range(len(self.clean)), round(share * len(self.clean))))
        return [
            passage.model_copy(update={"text": self._text("Cook", KITCHEN, KITCHEN_VERBS, KITCHEN_PLACES)}) if index in chosen else passage
            for index, passage in enumerate(self.clean)
        ]

    def with_swapped_numbers(self, share: float) -> list[Pair]:
        """The pairs with so many of them telling the number of another passage."""
        chosen = set(self.random.sample(range(len(self.pairs)), round(share * len(self.pairs))))
        return [self._swapped(pair) if index in chosen else pair for index, pair in enumerate(self.pairs)]

    def with_ruined(self, pick: Callable[[Pair], bool]) -> list[Pair]:
        """The pairs with every one that is picked answered by a sentence of nowhere."""
        return [pair.model_copy(update={"answer": f"{pair.answer[:-1]} because Zephyr-9 told them so."}) if pick(pair) else pair for pair in self.pairs]

    def _swapped(self, pair: Pair) -> Pair:
        number = next(word for word in pair.answer.split() if word.isdigit())
        known = pair.evidence + pair.question
        other = next(str(value) for value in self.random.sample(range(100, 999), 40) if str(value) not in known)
        return pair.model_copy(update={"answer": pair.answer.replace(number, other)})

    def _passage(self, document: int, number: int) -> Passage:
        name, path = f"Keeper-{self.random.randrange(10**6)}", f"note-{document}.md"
        text = self._text(name, BEES, BEE_VERBS, PLACES)
        subtopic = SUBTOPICS[document % len(SUBTOPICS)] if document else "rare"
        return Passage(
            id=f"d{document}-{number}", source=Source(path=path, sha256="0", locator=f"heading={number}"), group=f"d{document}", text=text,
            tokens=len(text.split()), meta={"subtopic": subtopic},
        )

    def _text(self, name: str, things: Sequence[str], verbs: Sequence[str], places: Sequence[str]) -> str:
        draw = self.random.choice
        return " ".join(
            f"{draw(('In spring', 'In autumn', 'Each week', 'After rain'))} {name} {draw(verbs)} the {draw(things)} and the {draw(things)} of the"
            f" {draw(places)} for {self.random.randrange(100, 999)} minutes, then {draw(verbs)} a {draw(things)} beside the {draw(things)}."
            for _ in range(5)
        )

    def _pairs(self, passage: Passage) -> list[Pair]:
        sentences = [f"{one}." for one in passage.text.split(". ")[:2]]
        sentences = [one.replace("..", ".") for one in sentences]
        forms = ("What happens there, and for how long, when {0}?", "How many minutes does it take when {0}?",
                 "Tell me what the notes say about the time that {0}.", "Which work is done, and where, once {0}?")
        return [
            Pair(
                id=f"{passage.id}-{fact}-{form}", bucket=BUCKETS[2 * fact + form], question=forms[2 * fact + form].format(" ".join(sentence.split()[:5])),
                answer=sentence, evidence=sentence, passage=passage.id, group=passage.group, fact=f"{passage.id}-{fact}", form=form,
                source=passage.source, teacher="offline", subtopic=passage.meta["subtopic"],
            )
            for fact, sentence in enumerate(sentences) for form in range(2)
        ]
