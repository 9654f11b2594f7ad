"""Trains a small Llama from random weights on the corpus' own passages. Reads top to bottom.

Every hyperparameter comes from the plan, except the five below, which are the same for any size and say why.
Stopped anywhere, it goes on from the last whole checkpoint and ends with the same bits: the order of rows and the
learning rate are functions of the step, there is no dropout, and weights, moments and losses are in the checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.errors import ArtifactDamaged, Interrupted
from forge.phase import Context
from forge.phases.train.checkpoints import latest_checkpoint, save_checkpoint
from forge.phases.train.order import rows_of_step
from forge.phases.train.pace import Hold, seconds_for
from forge.phases.train.reporter import Reporter
from forge.records import Passage, Plan, ScratchBase, read_jsonl

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

BETAS = (0.9, 0.95)  # GPT-3's and nanochat's: the usual 0.999 averages over 1,000 steps, more than we take
WEIGHT_DECAY = 0.1  # on matrices only; the corpus is read several times (nanoGPT)
WARMUP_SHARE = 0.05
FINAL_LEARNING_RATE_SHARE = 0.1
CLIP_NORM = 1.0
VALIDATION_ROWS = 32  # 8k tokens at context 256: 0.6 s on one core, and all of a small corpus' validation text
VALIDATIONS = 6


class Pretraining(NamedTuple):
    """What pretraining did. Losses are (step, mean nats per token)."""

    steps: int
    tokens: int
    parameters: int
    loss: list[tuple[int, float]]
    val_loss: list[tuple[int, float]]


def train_scratch_base(
    plan: Plan, ctx: Context, reporter: Reporter, *, precision: str, device: str, checkpoint_steps: int
) -> Pretraining:
    """Train the planned model and save it with its tokenizer as the artifact base_model.

    Raises Interrupted after saving a checkpoint, ArtifactDamaged for a tokenizer that does not fit the plan.
    """
    import torch

    shape = plan.scratch
    assert shape is not None
    tokenizer = load_tokenizer(ctx.input("tokenizer"), shape)
    rows = pack(tokenizer, read_jsonl(ctx.input("pretrain"), Passage), shape.context)
    held_out = pack(tokenizer, read_jsonl(ctx.input("pretrain_val"), Passage), shape.context)[:VALIDATION_ROWS]

    torch.manual_seed(plan.seed)
    model = build_model(shape, tokenizer).to(device).train()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=shape.learning_rate, betas=BETAS, fused=True)
    autocast = torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    checkpoints, done = ctx.work / "pretrain", 0
    loss_log: list[tuple[int, float]] = []
    val_log: list[tuple[int, float]] = []
    if found := latest_checkpoint(checkpoints):
        done, folder = found
        state = torch.load(folder / "state.pt", map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loss_log, val_log = ([(int(step), loss) for step, loss in log] for log in json.loads((folder / "losses.json").read_text()))
        ctx.notice(f"pretraining goes on after step {done} of {shape.steps}")

    def save(step: int) -> None:
        def write(folder: Path) -> None:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "state.pt")
            (folder / "losses.json").write_text(json.dumps([loss_log, val_log]))

        reporter.keep(save_checkpoint(checkpoints, step, write))

    reporter.start(done)
    hold = Hold(ctx, seconds_for(ctx, plan.deadline_seconds, 1, in_all=2), shape.steps)  # the adapter needs the other half
    for step in range(done + 1, shape.steps + 1):
        try:
            ctx.check_stop()
        except Interrupted:
            save(step - 1)
            raise
        for group in optimizer.param_groups:
            group["lr"] = shape.learning_rate * schedule(step, shape.steps)
        batch = rows[rows_of_step(step, shape.rows_per_step, len(rows), plan.seed)].to(device)
        with autocast:
            loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM))
        optimizer.step()
        optimizer.zero_grad()

        loss_log.append((step, round(loss.item(), 6)))
        reporter.step(step, loss.item(), batch.numel(), grad_norm)
        hold.step(step)
        if len(held_out) and (step % max(1, shape.steps // VALIDATIONS) == 0 or step == shape.steps):
            val_log.append((step, held_out_loss(model, held_out.to(device), autocast, shape.rows_per_step)))
        if step % checkpoint_steps == 0 and step < shape.steps:
            save(step)
    save(shape.steps)

    save_base(model, tokenizer, ctx.input("tokenizer"), ctx.output("base_model"))
    parameters = sum(weight.numel() for weight in model.parameters())
    return Pretraining(shape.steps, shape.steps * shape.rows_per_step * shape.context, parameters, loss_log, val_log)


def load_tokenizer(folder: Path, shape: ScratchBase) -> PreTrainedTokenizerBase:
    """The tokenizer that shape made. Raises ArtifactDamaged when the planned vocabulary cannot hold it."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    if len(tokenizer) > shape.vocab_size:
        raise ArtifactDamaged(
            f"the tokenizer has {len(tokenizer)} tokens, the plan's model {shape.vocab_size}",
            why="the plan was made for another tokenizer", next="forge resume --from plan_fit",
        )
    if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
        raise ArtifactDamaged("the tokenizer names no end-of-turn or no padding token", next="forge resume --from shape")
    return tokenizer


def pack(tokenizer: PreTrainedTokenizerBase, passages: Iterable[Passage], context: int) -> torch.Tensor:
    """All passages as one stream of tokens, cut into rows: (rows, context), int64. Empty without passages.

    Each passage ends with the end-of-turn token and then the separator. So the base has learnt what "<|im_end|>" means,
    "this text is over", before the adapter ever sees a chat; with the separator alone its row of the tied embedding stays
    random, the adapter must find it, and the base's loss on an answer would be inflated by a token that it never saw.
    """
    import torch

    texts = [passage.text for passage in passages]
    ends = [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (tokenizer.pad_token_id != tokenizer.eos_token_id)
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    stream = [token for ids in encoded for token in (*ids, *ends)]
    if not stream:
        return torch.empty((0, context), dtype=torch.long)
    count = math.ceil(len(stream) / context)
    while len(stream) < count * context:  # the last row is filled from the beginning: no padding, no token left out
        stream += stream[: count * context - len(stream)]
    return torch.tensor(stream, dtype=torch.long).view(count, context)


def build_model(shape: ScratchBase, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """The planned architecture with random fp32 weights; input and output embedding are one matrix."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden_size, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.intermediate_size, vocab_size=shape.vocab_size,
        max_position_embeddings=shape.context, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
    )  # fmt: skip
    # pad_token_id is set when saving: nn.Embedding would freeze that row, and the pad token is our separator.
    return LlamaForCausalLM(config)


def parameter_groups(model: LlamaForCausalLM) -> list[dict[str, Any]]:
    """Matrices decay, norms do not."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.dim() >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [weight for weight in weights if weight.dim() < 2], "weight_decay": 0.0},
    ]


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step from 1 to `steps`: linear warm-up, then a cosine down to a tenth."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return FINAL_LEARNING_RATE_SHARE + (1 - FINAL_LEARNING_RATE_SHARE) * cosine


def held_out_loss(model: LlamaForCausalLM, rows: torch.Tensor, autocast: Any, rows_per_step: int) -> float:
    """Mean nats per token on rows of passages that are not trained on."""
    import torch

    model.eval()
    losses: list[float] = []
    with torch.no_grad(), autocast:
        for batch in rows.split(rows_per_step):
            losses += [model(input_ids=batch, labels=batch, use_cache=False).loss.item()] * len(batch)
    model.train()
    return round(sum(losses) / len(losses), 6)


def save_base(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, tokenizer_folder: Path, target: Path) -> None:
    """Write the checkpoint in fp32 beside the tokenizer's own files, byte for byte.

    fp32: 4 bytes a parameter are 8 MB here, and storing a merged weight in bf16 adds noise of 17-48 % of a small adapter's
    size (training research, 1.6). The GGUF writer quantizes from these values.
    """
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(target)
    for file in sorted(tokenizer_folder.iterdir()):
        shutil.copyfile(file, target / file.name)
