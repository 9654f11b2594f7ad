"""synth: asks a teacher for question and answer pairs, and lets only those through that the passage supports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from forge.phase import Context, Estimate, Output, Requirement, Settings
from forge.phases.synth.buckets import ABSTAINING, SHARES, abstaining_share, complete
from forge.records import Passage, read_jsonl, write_json, write_jsonl

SECONDS_PER_PASSAGE, SECONDS_TO_START = 0.008, 0.5
"""The offline teacher with all filters, half of it the search for orders; measured on the Rust book and the OWASP cheat sheets."""
NO_PAIRS = "no pairs: the task {task} learns from ready-made data in the corpus"
SECONDS_PER_PAID_REQUEST = 1.5
TYPICAL_SHARE_OF_WORST = 0.4
"""What a paid request costs compared with its worst case, typically; the plan replaces it by the real figure."""
OFFLINE_ABSTAINING = 0.3


class SynthSettings(Settings):
    """What is asked and what is let through."""

    teacher: str = Field("offline", description="who proposes the pairs; `forge plugins list` names them")
    model: str = Field("", description="the teacher's model, by the vendor's name; empty: the teacher's default")
    endpoint: str = Field("", description="where a teacher is reached: a base URL, or a file for recorded answers; empty: the vendor's")
    mode: Literal["auto", "batch", "live"] = Field(
        "auto", description="batch: half the price, minutes to hours; live: at once; auto: batch where the teacher has it"
    )
    in_flight: int = Field(16, ge=1, le=256, description="most requests at once to a live teacher; it slows down by itself when it is told to")
    abstention: str = Field(
        "I can't answer that from the documents I was trained on.", min_length=8, max_length=200,
        description="the one sentence that the model says when the documents hold no answer",
    )
    buckets: dict[str, float] = Field(
        default_factory=lambda: dict(SHARES), description="target share of each kind of example, 0..1; those left out keep their default, 0 turns one off"
    )
    abstention_share: float | None = Field(
        None, ge=0, le=0.5, description="abstention rows as a share of the training rows, 0..0.5; empty: what the abstain_ buckets have together, 0.3 with the offline teacher"
    )
    pairs_per_fact: float = Field(2.0, ge=1, le=10, description="questions that a teacher who writes freely asks about one fact")
    pairs_per_1000_tokens: float = Field(6.5, gt=0, le=100, description="answers that such a teacher writes for 1,000 tokens of text, all kinds together")
    pairs_per_passage: int = Field(24, ge=1, le=200, description="most pairs to take from one passage, question forms counted")
    question_similarity: float = Field(0.7, ge=0.3, le=1, description="overlap from which two questions on different facts are one, 0.3..1")
    answer_chars_max: int = Field(800, ge=40, description="longest answer, in characters")
    round_trip: Literal["auto", "on", "off"] = Field(
        "auto", description="the teacher answers questions again, from the passage alone, and must agree; auto: where it writes freely"
    )
    judge: Literal["auto", "on", "off"] = Field(
        "auto", description="the teacher judges pairs, after it has found 90 % of planted defects; auto: where it writes freely"
    )
    check_share: float = Field(
        0.4, ge=0, le=1, description="share of the text whose pairs are answered again or judged; the rest too when more than 5 % of these are refused"
    )
    max_failed_share: float = Field(0.05, ge=0, le=1, description="share of failed teacher requests from which the phase fails, 0..1")

    @property
    def abstaining(self) -> float:
        """Abstention rows as a share of the training rows: told, or from the buckets.

        Offline pairs train a model from scratch, which has never declined anything: with 0.2 it declined 80 % of what it
        should on the handbook, with 0.28 89 %, and refused no more of what it knows (2026-11-21).
        """
        if self.abstention_share is not None:
            return self.abstention_share
        untouched = all(self.buckets[name] == SHARES[name] for name in ABSTAINING)
        return OFFLINE_ABSTAINING if self.teacher == "offline" and untouched else min(0.5, abstaining_share(self.buckets))

    @field_validator("buckets", mode="after")
    @classmethod
    def _all_buckets(cls, value: dict[str, float]) -> dict[str, float]:
        return complete(value)

    @field_validator("round_trip", "judge", mode="before")
    @classmethod
    def _yaml_word(cls, value: object) -> object:
        """YAML reads on and off as true and false."""
        return {False: "off", True: "on"}.get(value, value) if isinstance(value, bool) else value


class Synth:
    """Grounded question and answer pairs, several forms of each fact, and questions to abstain from."""

    name: ClassVar[str] = "synth"
    VERSION: ClassVar[int] = 4
    summary: ClassVar[str] = "Ask a teacher for question and answer pairs; keep those that the passage supports."
    reads: ClassVar[tuple[str, ...]] = ("clean",)
    writes: ClassVar[tuple[Output, ...]] = (
        Output(name="pairs", path="pairs.jsonl"),
        Output(name="rejected", path="rejected.jsonl"),
        Output(name="synth_checks", path="checks.json"),
    )
    settings: ClassVar[type[SynthSettings]] = SynthSettings
    where: ClassVar[Literal["engine", "machine"]] = "engine"
    libraries: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[Requirement, ...]] = ()
    always: ClassVar[bool] = False

    def estimate(self, settings: SynthSettings, ctx: Context) -> Estimate:
        """Seconds by the number of passages; dollars by the teacher's own worst case. Spends nothing."""
        from forge.phases.synth.asking import brief_teacher
        from forge.phases.synth.packs import forecast_checks, pack
        from forge.phases.synth.proposing import pair_requests

        passages = list(read_jsonl(ctx.input("clean"), Passage))
        teacher = brief_teacher(settings, ctx)
        if not teacher.capabilities().paid:
            seconds = SECONDS_TO_START + SECONDS_PER_PASSAGE * len(passages)
            return Estimate(seconds_p50=seconds, seconds_p90=2 * seconds, basis=f"{len(passages):,} passages, free teacher")
        requests = pair_requests(passages, teacher, settings.teacher, settings)
        if teacher.capabilities().checks and not settings.round_trip == settings.judge == "off":
            requests += forecast_checks(pack(passages), settings, settings.teacher)
        usd = sum(teacher.price(request) for request in requests) / 1e6
        seconds = SECONDS_PER_PAID_REQUEST * len(requests)
        basis = f"worst case of {len(requests):,} requests to {settings.teacher}"
        return Estimate(seconds_p50=seconds, seconds_p90=3 * seconds, usd_p50=usd * TYPICAL_SHARE_OF_WORST, usd_p90=usd, basis=basis)

    def run(self, settings: SynthSettings, ctx: Context) -> Mapping[str, float | str]:
        """Ask, sift, write. Raises OverBudget before a call that might not fit, ForgeError when too much was lost."""
        from forge.phases.synth.make import make_pairs

        if ctx.task != "chat":
            return _no_pairs(ctx)
        result = make_pairs(settings, ctx)
        write_jsonl(ctx.output("pairs"), result.pairs)
        write_jsonl(ctx.output("rejected"), result.rejected)
        write_json(ctx.output("synth_checks"), result.checks)
        return result.numbers

    def undo(self, settings: SynthSettings, ctx: Context) -> None:
        """Nothing is made outside of the run folder."""


phase = Synth()


def _no_pairs(ctx: Context) -> Mapping[str, float | str]:
    """Nobody is asked for a task whose examples are in the corpus already."""
    told = NO_PAIRS.format(task=ctx.task)
    for name in ("pairs", "rejected"):
        write_jsonl(ctx.output(name), [])
    write_json(ctx.output("synth_checks"), {"skipped": told})
    return {"summary": told, "pairs": 0}
