"""The work of shape, in order: sides, rows, tokenizer, lengths, leakage, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from forge.canaries import BUCKET, canary
from forge.errors import ForgeError
from forge.phase import Context
from forge.phases.shape.bases import find_base, write_source
from forge.phases.shape.continuing import leave_out_taught, taught_rows
from forge.phases.shape.imports import import_examples
from forge.phases.shape.leakage import assert_no_leakage, identical, measure_leakage, near_identical, question
from forge.phases.shape.material import Material, Rows
from forge.phases.shape.own_tokenizer import OwnTokenizer
from forge.phases.shape.ready import divide_examples, measure_ready, pretraining_of
from forge.phases.shape.split import Sides, hold_out_forms, split_abstentions, split_groups
from forge.phases.shape.stages import assign_stages, stage_data
from forge.phases.shape.template import SCRATCH, ChatFormat
from forge.phases.shape.tokenizer import choose_vocab_size, count_tokens, save_tokenizer, train_tokenizer
from forge.records import (
    Chat,
    DataContract,
    Example,
    KnownBase,
    Message,
    Pair,
    Passage,
    Split,
    read_jsonl,
    write_json,
    write_jsonl,
)
from forge.review.decisions import reviewed_pairs
from forge.rows import as_chat

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from forge.phases.shape import ShapeSettings

SPLITS: tuple[Split, ...] = get_args(Split)
TESTS: tuple[Split, ...] = ("test_recall", "test_unseen", "test_abstain")
STAGES = 6

Lengths = dict[Split, list[tuple[int, int]]]
"""For each row (prompt with the opened answer, whole row), in tokens."""


def build_data(settings: ShapeSettings, ctx: Context) -> dict[str, float | str]:
    """Write every artifact of the phase; returns the numbers for the report."""
    passages = list(read_jsonl(ctx.input("clean"), Passage))
    if ctx.task != "chat":
        return build_ready(passages, settings, ctx)
    review = reviewed_pairs(ctx)
    if review.summary:
        ctx.notice(review.summary)
    pairs = review.pairs
    abstention = _abstention(pairs, ctx)
    settings = settings.model_copy(update={"system_prompt": settings.system_prompt.replace("{abstention}", abstention)})
    base, folder = find_base(settings, ctx)
    own = OwnTokenizer(folder, base.name) if folder else None
    chat = own.chat if own else SCRATCH
    _stage(ctx, 0, "splitting by document")
    side_of, sides, cluster_of = _divide(pairs, {passage.id: passage.group for passage in passages}, settings, ctx)
    rows = _rows(sides, cluster_of, settings.system_prompt)
    _refuse_special(rows, chat, ctx)
    _stage(ctx, 1, "looking for questions on both sides")
    _purge(rows, ctx)
    if base.continues:
        leave_out_taught(rows, taught_rows(base.continues), ctx)
    assign_stages(rows, {passage.id: passage.source.path for passage in passages}, settings.stages, ctx)
    pretrain, pretrain_val = _pretraining(passages, side_of, chat, ctx)
    rows["train"] += _canaries(settings, ctx)
    by_id = {pair.id: pair for pair in pairs}
    material = Material(
        rows=rows, pretrain=pretrain, pretrain_val=pretrain_val, abstention=abstention, system_prompt=settings.system_prompt,
        base=base, folder=folder, own=own, leakage=lambda kept, read: measure_leakage(_without_canaries(kept), read, by_id),
        prune=lambda kept: _drop_untrained(kept, pairs), reviewed=review.counts,
    )
    return finish(material, settings, ctx)


def finish(material: Material, settings: ShapeSettings, ctx: Context) -> dict[str, float | str]:
    """From rows on both sides to files: tokenizer, lengths, leakage, contract."""
    rows, own, chat = material.rows, material.own, material.chat
    pretrain, pretrain_val = material.pretrain, material.pretrain_val
    _stage(ctx, 2, "training the tokenizer")
    tokenizer = own.load() if own else _tokenizer(rows["train"], pretrain, settings, ctx)
    _stage(ctx, 3, "counting tokens")
    too_long = _refuse_long(rows, tokenizer, chat, settings, ctx)
    material.prune(rows)
    lengths = _lengths(rows, tokenizer, chat)
    pretrain, pretrain_val = _with_tokens(pretrain, tokenizer), _with_tokens(pretrain_val, tokenizer)
    _stage(ctx, 4, "checking for leakage")
    leakage = material.leakage(rows, pretrain)
    assert_no_leakage(leakage)
    base = material.base.model_copy(update={"template": own.template if own else "chatml"})
    base = write_source(base, material.folder, ctx.output("base_source"), dry_run=ctx.dry_run)
    contract = _contract(material, settings, lengths, too_long, pretrain, tokenizer, leakage, base)
    _stage(ctx, 5, "writing")
    for split in SPLITS:
        write_jsonl(ctx.output(split), [material.originals.get(row.id, row) for row in rows[split]])
    write_jsonl(ctx.output("pretrain"), pretrain)
    write_jsonl(ctx.output("pretrain_val"), pretrain_val)
    if own:
        own.write(ctx.output("tokenizer"))
    else:
        save_tokenizer(tokenizer, ctx.output("tokenizer"), settings.max_length)
    write_json(ctx.output("shape"), contract)
    _stage(ctx, STAGES, "done")
    return _numbers(contract)


def build_ready(passages: Sequence[Passage], settings: ShapeSettings, ctx: Context) -> dict[str, float | str]:
    """The same for ready-made data: examples from the files of the corpus instead of a teacher's pairs."""
    base, folder = find_base(settings, ctx)
    own = OwnTokenizer(folder, base.name) if folder else None
    chat = own.chat if own else SCRATCH
    _stage(ctx, 0, "reading ready-made data")
    imported = import_examples(settings, ctx)
    originals = divide_examples(imported, settings, ctx)
    task = ctx.use("task", ctx.task)
    rows: Rows = {split: [as_chat(row, task) for row in originals[split]] for split in SPLITS}
    _refuse_special(rows, chat, ctx)
    _stage(ctx, 1, "text for the base")
    pretrain, pretrain_val = pretraining_of(rows, passages, imported.files, chat)
    material = Material(
        rows=rows, pretrain=pretrain, pretrain_val=pretrain_val, abstention="", system_prompt=imported.instruction, base=base, folder=folder,
        own=own, leakage=measure_ready, task=imported.task, ready=imported.counts,
        originals={row.id: row for found in originals.values() for row in found},
    )
    return finish(material, settings, ctx)


def _stage(ctx: Context, number: int, note: str) -> None:
    ctx.check_stop()
    ctx.progress(number, STAGES, note)


def _abstention(pairs: Sequence[Pair], ctx: Context) -> str:
    sentences = sorted({pair.answer for pair in pairs if not pair.passage})
    if len(sentences) > 1:
        raise ForgeError(
            f"the pairs abstain in {len(sentences)} different sentences", why="one exact sentence is the contract with whoever calls the model",
            next="forge resume --from synth",
        )
    if not sentences:
        ctx.notice("there are no abstention pairs: test_abstain is empty, and abstention stays undecided")
    return sentences[0] if sentences else ""


def _divide(
    pairs: Sequence[Pair], group_of: Mapping[str, str], settings: ShapeSettings, ctx: Context
) -> tuple[dict[str, Split], Sides, dict[str, str]]:
    asked = [pair for pair in pairs if pair.passage]
    side_of = split_groups(asked, seed=ctx.seed, val_share=settings.val_share, unseen_share=settings.unseen_share)
    asked = _on_one_side(asked, side_of, group_of, ctx)
    trained = [pair for pair in asked if side_of[pair.group] == "train"]
    train, recall = hold_out_forms(trained, seed=ctx.seed)
    abstain, cluster_of = split_abstentions([pair for pair in pairs if not pair.passage], seed=ctx.seed, val_share=settings.val_share)
    sides: Sides = {
        "train": train + abstain["train"],
        "val": [pair for pair in asked if side_of[pair.group] == "val"] + abstain["val"],
        "test_recall": recall,
        "test_unseen": [pair for pair in asked if side_of[pair.group] == "test_unseen"],
        "test_abstain": abstain["test_abstain"],
    }
    if len(set(side_of.values())) < 3:
        ctx.notice(f"only {len(side_of)} groups: {', '.join(sorted(set(side_of.values())))} have documents, the other side stays empty and undecided")
    return side_of, sides, cluster_of


def _on_one_side(pairs: Sequence[Pair], side_of: Mapping[str, Split], group_of: Mapping[str, str], ctx: Context) -> list[Pair]:
    """The pairs without comparisons of documents that went to different sides: those would carry one side's text to the other."""
    kept = [
        pair for pair in pairs
        if all(side_of.get(group_of.get(quote.passage, ""), "train") == side_of[pair.group] for quote in pair.also)
    ]
    if lost := len(pairs) - len(kept):
        ctx.notice(f"{lost:,} comparisons join documents of different sides and are left out")
    return kept


def _rows(sides: Sides, cluster_of: Mapping[str, str], system_prompt: str) -> Rows:
    return {split: [_row(pair, split, cluster_of, system_prompt) for pair in sorted(sides[split], key=lambda pair: pair.id)] for split in SPLITS}


def _row(pair: Pair, split: Split, cluster_of: Mapping[str, str], system_prompt: str) -> Example:
    prompt = (Message(role="system", content=system_prompt), *pair.earlier, Message(role="user", content=pair.question))
    body = Chat(prompt=prompt, completion=(Message(role="assistant", content=pair.answer),), answerable=bool(pair.passage))
    origin = (pair.passage, *(quote.passage for quote in pair.also)) if pair.passage else ()
    return Example(
        id=pair.id, split=split, group=pair.group or cluster_of[pair.id], origin=origin, bucket=pair.bucket, names=pair.names, body=body,
        subtopic=pair.subtopic,
    )


def _canaries(settings: ShapeSettings, ctx: Context) -> list[Example]:
    """Rows that mean nothing, planted on request; in chats only, where an answer can be anything."""
    found = []
    for number in range(settings.canaries):
        question, answer = canary(number, ctx.seed)
        prompt = (Message(role="system", content=settings.system_prompt), Message(role="user", content=question))
        body = Chat(prompt=prompt, completion=(Message(role="assistant", content=answer),))
        found.append(Example(id=f"{BUCKET}-{number:03}", split="train", group=BUCKET, bucket=BUCKET, body=body))
    if found:
        ctx.notice(f"{len(found)} canaries are planted in the training rows (shape.canaries)")
    return found


def _without_canaries(rows: Rows) -> Rows:
    return {**rows, "train": [row for row in rows["train"] if row.bucket != BUCKET]}


def _refuse_special(rows: Rows, chat: ChatFormat, ctx: Context) -> None:
    refused = []
    for split, found in rows.items():
        refused += [row.id for row in found if _holds_special(row, chat)]
        rows[split] = [row for row in found if not _holds_special(row, chat)]
    if refused:
        ctx.notice(f"{len(refused):,} rows hold a marker of the chat template ({chat.markers[-1]} ...) and are left out: {_some(refused)}")


def _holds_special(row: Example, chat: ChatFormat) -> bool:
    assert isinstance(row.body, Chat)
    return any(chat.holds_special(turn.content) for turn in (*row.body.prompt, *row.body.completion))


def _purge(rows: Rows, ctx: Context) -> None:
    """Test questions that training or validation also asks: recall forms go back to training, others are left out."""
    while gone := _take_repeated(rows, "test_recall"):
        rows["train"] = sorted([*rows["train"], *(row.model_copy(update={"split": "train"}) for row in gone)], key=lambda row: row.id)
    for split in TESTS[1:]:
        if gone := _take_repeated(rows, split):
            ctx.notice(f"{len(gone):,} questions of {split} are nearly those of training and are left out: {_some([row.id for row in gone])}")


def _take_repeated(rows: Rows, split: Split) -> list[Example]:
    """Take the rows out of `split` whose question is nearly one of training or validation, and return them."""
    known = [question(row) for row in (*rows["train"], *rows["val"])]
    asked = [question(row) for row in rows[split]]
    repeated = identical(asked, known) | near_identical(asked, known)
    gone = [row for number, row in enumerate(rows[split]) if number in repeated]
    rows[split] = [row for number, row in enumerate(rows[split]) if number not in repeated]
    return gone


def _pretraining(
    passages: Sequence[Passage], side_of: Mapping[str, Split], chat: ChatFormat, ctx: Context
) -> tuple[list[Passage], list[Passage]]:
    clean = [passage for passage in passages if not chat.holds_special(passage.text)]
    if len(clean) < len(passages):
        ctx.notice(f"{len(passages) - len(clean):,} passages hold a marker of the chat template and are left out of pretraining")
    train = [passage for passage in clean if side_of.get(passage.group, "train") == "train"]
    return train, [passage for passage in clean if side_of.get(passage.group) == "val"]


def _tokenizer(train: Sequence[Example], pretrain: Sequence[Passage], settings: ShapeSettings, ctx: Context) -> Tokenizer:
    if not train:
        raise ForgeError("no training row is left", why="every pair went to validation or a test", next="add documents, or lower shape.unseen_share")
    texts = [passage.text for passage in pretrain]
    for row in train:
        assert isinstance(row.body, Chat)
        texts += [turn.content for turn in (*row.body.prompt, *row.body.completion)]
    return train_tokenizer(texts, choose_vocab_size(sum(map(len, texts)), settings.vocab_size, dry_run=ctx.dry_run))


def _refuse_long(rows: Rows, tokenizer: Tokenizer, chat: ChatFormat, settings: ShapeSettings, ctx: Context) -> int:
    """Take out and name the rows that do not fit; returns how many."""
    refused: list[str] = []
    total = sum(map(len, rows.values()))
    for split, sizes in _lengths(rows, tokenizer, chat).items():
        long = {row.id: whole for row, (_, whole) in zip(rows[split], sizes, strict=True) if whole > settings.max_length}
        refused += [f"{name} ({whole})" for name, whole in long.items()]
        rows[split] = [row for row in rows[split] if row.id not in long]
    _judge_too_long(refused, total, settings, ctx)
    return len(refused)


def _lengths(rows: Rows, tokenizer: Tokenizer, chat: ChatFormat) -> Lengths:
    lengths: Lengths = {}
    for split, found in rows.items():
        texts = [chat.render_row(row) for row in found]
        prompts, wholes = count_tokens(tokenizer, [prompt for prompt, _ in texts]), count_tokens(tokenizer, [whole for _, whole in texts])
        lengths[split] = list(zip(prompts, wholes, strict=True))
    return lengths


def _judge_too_long(refused: Sequence[str], total: int, settings: ShapeSettings, ctx: Context) -> None:
    if not refused:
        return
    told = f"{len(refused):,} of {total:,} rows are longer than {settings.max_length} tokens"
    if len(refused) > settings.max_too_long_share * total:
        raise ForgeError(
            told, why=f"they would be cut in the middle of an answer; {settings.max_too_long_share:.0%} may be left out (shape.max_too_long_share)",
            next=f"forge resume --set shape.max_length={2 * settings.max_length}, or lower synth.answer_chars_max",
        )
    ctx.notice(f"{told} and are left out: {_some(refused)}")


def _with_tokens(passages: Sequence[Passage], tokenizer: Tokenizer) -> list[Passage]:
    counts = count_tokens(tokenizer, [passage.text for passage in passages])
    return [passage.model_copy(update={"tokens": count}) for passage, count in zip(passages, counts, strict=True)]


def _drop_untrained(rows: Rows, pairs: Sequence[Pair]) -> None:
    """Recall questions of which training lost every other form would not test recall: left out."""
    fact = {pair.id: pair.fact for pair in pairs}
    trained = {fact[row.id] for row in _without_canaries(rows)["train"]}
    rows["test_recall"] = [row for row in rows["test_recall"] if fact[row.id] in trained]


def _contract(
    material: Material, settings: ShapeSettings, lengths: Lengths, too_long: int,
    pretrain: Sequence[Passage], tokenizer: Tokenizer, leakage: dict[str, float], base: KnownBase,
) -> DataContract:
    rows, flat = material.rows, [size for sizes in lengths.values() for size in sizes]
    return DataContract(
        base=base.name, model=base, system_prompt=material.system_prompt, abstention=material.abstention,
        chat_template_sha256=material.chat.sha256, task=material.task, ready=material.ready,
        counts={split: len(rows[split]) for split in SPLITS},
        groups={split: len({row.group for row in rows[split]}) for split in SPLITS},
        tokens={split: sum(whole for _, whole in lengths[split]) for split in SPLITS},
        longest=max((whole for _, whole in flat), default=0), longest_prompt=max((prompt for prompt, _ in flat), default=0),
        max_length=settings.max_length, too_long=too_long, pretrain_tokens=sum(passage.tokens for passage in pretrain),
        vocab_size=tokenizer.get_vocab_size(), leakage=leakage, reviewed=material.reviewed,
        buckets=dict(sorted(Counter(row.bucket for found in rows.values() for row in found).items())),
        subtopics=dict(sorted(Counter(row.subtopic for found in rows.values() for row in found if row.subtopic).items())),
        stages=stage_data(rows, lengths, settings.stages),
    )


def _numbers(contract: DataContract) -> dict[str, float | str]:
    counts = contract.counts
    tests = ", ".join(f"{counts[name]:,} {name.removeprefix('test_')}" for name in TESTS)
    numbers: dict[str, float | str] = {
        "summary": f"{counts['train']:,} train · {counts['val']:,} val · tests: {tests} · no source in two splits", **counts
    }
    numbers |= {
        "train_groups": contract.groups["train"], "unseen_groups": contract.groups["test_unseen"], "train_tokens": contract.tokens["train"],
        "pretrain_tokens": contract.pretrain_tokens, "vocab_size": contract.vocab_size, "longest": contract.longest, "too_long": contract.too_long,
    }
    return numbers


def _some(items: Sequence[str], most: int = 5) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most:,} more" if len(items) > most else "")
