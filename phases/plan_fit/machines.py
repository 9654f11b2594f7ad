"""Asks the providers what machines they have."""

from __future__ import annotations

from forge.errors import ForgeError, MissingAccess
from forge.machines import LOCAL
from forge.phase import Context
from forge.protocols import Need, Offer
from forge.records import Record

GIB = 1024**3
LIBRARIES_GIB = 1.2
"""torch, transformers and trl imported, before any model (measured here: 0.9-1.1 GiB)."""
AUTO = "auto"


class Answer(Record):
    """One provider's answer: its offers, or why it has none."""

    provider: str
    offers: tuple[Offer, ...]
    note: str = ""


def memory_gib(parameters: int, step_tokens: int, hidden_size: int, layers: int, vocab_size: int) -> float:
    """An estimate of what full training needs, in GiB: weights, gradients and two AdamW moments in fp32 (16 bytes a
    parameter), activations of a layer about 34 x hidden values (Korthikanti et al. 2022, arXiv:2205.05198) at 4 bytes,
    and three copies of the logits.
    """
    activations = step_tokens * layers * 34 * hidden_size * 4
    logits = 3 * step_tokens * vocab_size * 4
    return round(LIBRARIES_GIB + (16 * parameters + activations + logits) / GIB, 2)


def ask_all(ctx: Context, need: Need, wanted: str) -> list[Answer]:
    """Offers of every installed provider; of this machine and the wanted one only, when one is named or in a rehearsal.

    A provider that is not asked, or cannot answer, is listed with the reason.
    """
    names = sorted(ctx.names("provider"))
    answers = []
    for number, name in enumerate(names):
        ctx.check_stop()
        ctx.progress(number, len(names), f"asking {name} for machines")
        why = _not_asked(name, wanted, dry_run=ctx.dry_run)
        answers.append(Answer(provider=name, offers=(), note=why) if why else _ask(ctx, name, need, is_wanted=name == wanted))
    return answers


def _not_asked(name: str, wanted: str, *, dry_run: bool) -> str:
    if name in (wanted, LOCAL):
        return ""
    if wanted != AUTO:
        return f"not asked: plan_fit.provider is {wanted}"
    return "not asked: a rehearsal stays here" if dry_run else ""


def _ask(ctx: Context, name: str, need: Need, *, is_wanted: bool) -> Answer:
    try:
        offers = tuple(ctx.use("provider", name).quote(need))
    except ForgeError as error:
        if is_wanted and isinstance(error, MissingAccess):   # a login, a host key: said with its next command
            raise
        return Answer(provider=name, offers=(), note=f"{error.fact}: {error.why}" if error.why else error.fact)
    except Exception as error:
        if is_wanted:
            raise
        told = " ".join(str(error).split())[:200]   # one of several: its fault is told in the table, the plan is made without it
        return Answer(provider=name, offers=(), note=f"cannot answer: {type(error).__name__}: {told}")
    return Answer(provider=name, offers=offers, note="" if offers else _why_nothing(ctx, name, is_wanted=is_wanted))


def _why_nothing(ctx: Context, name: str, *, is_wanted: bool) -> str:
    """A provider without offers says what it lacks when it is asked for what it has made."""
    find = getattr(ctx.use("provider", name), "find", None)
    try:
        if find is not None:
            find("all")
    except MissingAccess as error:
        if is_wanted:
            raise
        return f"{error.fact}: {error.why}" if error.why else error.fact
    except Exception as error:  # noqa: BLE001 - told below: that it has none is what counts
        return f"offers nothing ({type(error).__name__})"
    return "offers nothing that is large enough"
