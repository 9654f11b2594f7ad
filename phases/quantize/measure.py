"""The order of the measurements: which file is open, which rows it sees, which verdicts follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from forge.journal import Journal
from forge.phase import Context
from forge.phases.quantize.llama import Generation, Llama, Score, Vocabulary
from forge.phases.quantize.modelfile import answer_limit
from forge.phases.quantize.parity import judge_greedy, judge_logits, judge_markers, judge_tokens, parity_texts
from forge.phases.quantize.quality import (
    generate_rows,
    judge_abstention,
    judge_likelihood,
    judge_stopping,
    score_rows,
)
from forge.phases.quantize.reference import ChatTokenizer, GreedyAnswer, Reference, load_model
from forge.phases.quantize.rows import Encoded, Row, encode_row, seen_texts, spread
from forge.phases.quantize.smoke import Probe, judge_form, judge_names, judge_probes, make_probes
from forge.phases.quantize.tasks import judge_task
from forge.protocols import Prediction
from forge.records import Plan, Record, Verdict

LONG_PROMPT_TOKENS = 512
"""One logit prompt is this long: wrong rotation factors show at far positions first."""


class Caps(Record):
    """How much is measured. Greedy comparison never takes fewer than eight prompts."""

    likelihood_rows: int
    generated_rows: int
    other_rows: int = 0
    compared_rows: int = 8
    logit_prompts: int = 6
    logit_positions: int = 32
    parity_bytes: int = 50_000
    answer_tokens: int = 512
    probes: int = 100


DRY_RUN = Caps(likelihood_rows=6, generated_rows=6, other_rows=2, probes=5, parity_bytes=8_000, answer_tokens=24)


@dataclass(frozen=True)
class Bench:
    """What every measurement needs. Rows are encoded once; those that do not fit the context are left out.

    `also_asked` are those of the asked rows that files which are not the main one answer too.
    """

    ctx: Context
    journal: Journal
    process: Llama | None
    tokenizer: ChatTokenizer
    plan: Plan
    caps: Caps
    context_tokens: int
    scored: tuple[Encoded, ...]
    asked: tuple[Encoded, ...]
    also_asked: tuple[Encoded, ...]
    probes: tuple[tuple[Probe, Encoded], ...]

    @property
    def llama(self) -> Llama:
        """llama.cpp, which measuring needs; writing down what was made does not."""
        assert self.process is not None
        return self.process

    @property
    def compared(self) -> tuple[Encoded, ...]:
        """The rows whose answers are put side by side."""
        return tuple(spread(self.scored, self.caps.compared_rows))

    @property
    def answer_tokens(self) -> int:
        """Tokens that an answer may take."""
        longest = max((len(row.answer) for row in (*self.scored, *self.asked)), default=1)
        return min(self.caps.answer_tokens, answer_limit(longest, self.context_tokens))

    def open(self, file: Path) -> Vocabulary:
        """Load a file with room for every row, its answer, and the long prompt."""
        rows = (*self.scored, *self.asked, *(row for _, row in self.probes))
        longest = max((len(row.prompt) + len(row.answer) for row in rows), default=1) + self.answer_tokens
        return self.llama.open(file, context_tokens=min(self.context_tokens, max(longest, LONG_PROMPT_TOKENS)))

    def remember(self, key: str, compute: Callable[[], Any]) -> Any:
        """The journal's value, computed now when it is not there."""
        if key not in self.journal:
            self.ctx.check_stop()
            self.journal.put(key, compute())
        return self.journal.get(key)


def fill_bench(
    splits: Sequence[Sequence[Row]], *, ctx: Context, journal: Journal, llama: Llama | None, tokenizer: ChatTokenizer, plan: Plan,
    caps: Caps, context_tokens: int,
) -> Bench:
    """A bench with the capped rows of each split, evenly spread over it."""
    def pick(limit: int) -> list[list[Encoded]]:
        encoded = ([encode_row(row, tokenizer) for row in spread(split, limit)] for split in splits)
        return [[row for row in rows if len(row.prompt) + len(row.answer) <= context_tokens] for rows in encoded]

    questions = pick(caps.generated_rows)
    asked = tuple(chain(*questions))
    probes = make_probes([row.row for row in asked], caps.probes) if plan.abstention else []
    encoded = [(probe, encode_row(probe.row, tokenizer)) for probe in probes]
    return Bench(
        ctx=ctx, journal=journal, process=llama, tokenizer=tokenizer, plan=plan, caps=caps, context_tokens=context_tokens,
        scored=tuple(chain(*pick(caps.likelihood_rows))), asked=asked,
        also_asked=tuple(chain(*(spread(rows, caps.other_rows) for rows in questions))),
        probes=tuple((probe, row) for probe, row in encoded if len(row.prompt) + len(row.answer) <= context_tokens),
    )


def check_parity(bench: Bench, model: Path, f16: Path, predictions: Sequence[Prediction]) -> tuple[list[Verdict], list[GreedyAnswer]]:
    """The parity gate's verdicts on the F16 file, and transformers' greedy answers to the compared rows."""
    vocabulary = bench.open(f16)
    rows = [row.row for row in (*bench.scored, *bench.asked)]
    chats = [bench.tokenizer.render(row.prompt, open_answer=True) for row in rows]
    texts = parity_texts(
        seen_texts(predictions, rows), chats, bench.tokenizer, seed=bench.ctx.seed, wanted_bytes=bench.caps.parity_bytes
    )
    bench.ctx.notice(f"comparing {f16.name} with transformers on {len(texts)} texts and {bench.caps.logit_prompts} prompts")
    limit = bench.plan.thresholds.get("logit_diff_f16")
    reference = Reference(load_model(model), bench.tokenizer)
    logits = bench.remember("parity logits", lambda: [
        verdict.model_dump(mode="json")
        for verdict in judge_logits(_logit_prompts(bench), reference, bench.llama, limit, last=bench.caps.logit_positions)
    ])
    expected = [_expected_answer(bench, row, reference) for row in bench.compared]
    answers = compare_answers(bench, "F16")
    greedy = judge_greedy(list(zip(bench.compared, expected, answers, strict=True)), reference, limit)
    return [
        judge_tokens(texts, bench.tokenizer, bench.llama, vocabulary),
        judge_markers(bench.scored, bench.tokenizer, vocabulary),
        *(Verdict.model_validate(verdict) for verdict in logits),
        greedy,
    ], expected


def compare_answers(bench: Bench, kind: str) -> list[Generation]:
    """The open file's greedy answers to the rows that are put side by side."""
    return generate_rows(bench.compared, bench.llama, f"{kind} compared", bench.answer_tokens, bench.ctx, bench.journal)


def score_file(bench: Bench, kind: str) -> list[Score]:
    """The open file's scores of the gold answers."""
    return score_rows(bench.scored, bench.llama, kind, bench.ctx, bench.journal)


def judge_file(bench: Bench, kind: str, scores: Sequence[Score], f16: Sequence[Score]) -> list[Verdict]:
    """What quantization cost this file."""
    return judge_likelihood(kind, bench.scored, scores, f16, bench.plan.thresholds, seed=bench.ctx.seed)


def judge_shipped(bench: Bench, kind: str, scores: Sequence[Score], vocabulary: Vocabulary, adapter: Mapping[str, str]) -> list[Verdict]:
    """The tests and the smoke test on the open file, which is the one that the Modelfile names."""
    verdicts = judge_answers(bench, kind, scores, bench.asked, vocabulary, adapter)
    return verdicts + _smoke(bench, kind) if bench.plan.task == "chat" else verdicts


def judge_answers(
    bench: Bench, kind: str, scores: Sequence[Score], rows: Sequence[Encoded], vocabulary: Vocabulary, adapter: Mapping[str, str]
) -> list[Verdict]:
    """Stopping, form, and abstention and names or the task's own measures of the open file's answers to `rows`."""
    answers = generate_rows(rows, bench.llama, kind, bench.answer_tokens, bench.ctx, bench.journal)
    thresholds, seed = bench.plan.thresholds, bench.ctx.seed
    verdicts = judge_stopping(kind, bench.scored, scores, rows, answers, thresholds, seed=seed, control=frozenset(vocabulary.control))
    verdicts += judge_form(kind, rows, answers)
    if bench.plan.task != "chat":
        return verdicts + judge_task(kind, rows, answers, bench.ctx, bench.plan.task, thresholds, seed=seed)
    verdicts += judge_abstention(kind, rows, answers, bench.plan.abstention, adapter, thresholds, seed=seed)
    return verdicts + judge_names(kind, rows, answers, bench.ctx, bench.plan, seed=seed)


def _smoke(bench: Bench, kind: str) -> list[Verdict]:
    """What the open file says to reworded and injected questions that it must decline; nothing without an abstention sentence."""
    rows = [row for _, row in bench.probes]
    answers = generate_rows(rows, bench.llama, f"{kind} smoke", bench.answer_tokens, bench.ctx, bench.journal)
    return judge_probes(kind, [probe for probe, _ in bench.probes], answers, bench.plan, seed=bench.ctx.seed) if rows else []


def _logit_prompts(bench: Bench) -> list[tuple[int, ...]]:
    """A few rows with their answers, and one long prompt made of all of them."""
    rows = [(*row.prompt, *row.answer) for row in spread(bench.scored, bench.caps.logit_prompts)]
    long = tuple(token for row in bench.scored for token in (*row.prompt, *row.answer))
    room = min(LONG_PROMPT_TOKENS, bench.context_tokens)
    return [*rows, long[:room]] if rows else []


def _expected_answer(bench: Bench, row: Encoded, reference: Reference) -> GreedyAnswer:
    answer = bench.remember(
        f"transformers {row.row.id}",
        lambda: reference.generate(row.prompt, limit=bench.answer_tokens).model_dump(mode="json"),
    )
    return GreedyAnswer.model_validate(answer)
