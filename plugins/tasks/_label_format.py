"""How a labelled text is asked, answered and read back.

With a rationale the answer is "Yes. Rationale: <one sentence>", without one the label alone. The reader is strict: what does not
have exactly this form is counted as wrong, not mended.
"""

from __future__ import annotations

from typing import NamedTuple

from forge.records import Labelled, Message
from forge.sentences import is_one_sentence

RATIONALE = ". Rationale: "


class Read(NamedTuple):
    """What an answer says. label: "" when it does not comply."""

    label: str
    rationale: str = ""

    @property
    def complies(self) -> bool:
        """True when the answer has the form that was asked for."""
        return bool(self.label)


def instruct(labels: tuple[str, ...], *, question: bool, rationale: bool) -> str:
    """The system message for a data set."""
    named = ", ".join(labels[:-1]) + f" or {labels[-1]}" if len(labels) > 1 else labels[0]
    what = "Answer the question with" if question else "Label the text:"
    return f"{what} {named}" + (", then give the reason in one sentence." if rationale else ".")


def ask(body: Labelled) -> tuple[Message, ...]:
    """System message, and the text with its question."""
    text = body.text
    if body.question:
        text = f"{body.text}\n\nQ: {body.question}\nA:" if body.text else f"Q: {body.question}\nA:"
    system = (Message(role="system", content=body.instruction),) if body.instruction else ()
    return (*system, Message(role="user", content=text))


def answer(body: Labelled) -> str:
    """The answer that is expected."""
    return f"{body.label}{RATIONALE}{body.rationale}" if body.rationale else body.label


def begin(label: str, body: Labelled) -> str:
    """The beginning of an answer that decides for a label; the whole answer where there is no rationale."""
    return f"{label}{RATIONALE.rstrip()}" if body.rationale else label


def read(text: str, body: Labelled) -> Read:
    """The label and rationale of an answer to `body`, by the strict form of its data set."""
    if not body.rationale:
        return Read(text if text in body.labels else "")
    label, mark, rationale = text.partition(RATIONALE)
    if not mark or label not in body.labels or "\n" in rationale or not is_one_sentence(rationale):
        return Read("")
    return Read(label, rationale)


def lenient(text: str, body: Labelled) -> str:
    """The label that an answer begins with, whatever follows; "" without one. For baselines that were never taught the form."""
    start = text.strip().casefold()
    found = [label for label in body.labels if start.startswith(label.casefold())]
    return max(found, key=len, default="")
