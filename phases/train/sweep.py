"""A grid of adapters over one frozen base in one process: all in the same passes, or one after the other.

train_batched() is the fast form: every pass carries one copy of the row for each candidate (multilora.py). train_in_turn() gives the
same numbers one candidate at a time. Both stop the weakest early if asked (successive halving, Jamieson & Talwalkar 2016) and judge on
validation rows only. A checkpoint holds everything; on a CPU a resumed sweep ends with the same bits.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from forge.errors import Interrupted
from forge.phases.train.attention import register_varlen
from forge.phases.train.checkpoints import latest_checkpoint, save_checkpoint
from forge.phases.train.loss import summed_answer_loss
from forge.phases.train.multilora import Candidate, Stack
from forge.phases.train.packing import IGNORED, Encoded, Packed, labels_of, pack_rows, pack_steps

if TYPE_CHECKING:
    import torch

WARMUP_SHARE, MAX_NORM = 0.03, 1.0
"""As in tuner.py."""
READ_STEPS = 10
RUNGS = (1 / 3, 2 / 3)
"""After these shares of the steps half of the candidates go on."""


class Sweep(NamedTuple):
    """What all candidates share. row_tokens: the most tokens of one candidate's copy of a row; halving: drop the weaker half at RUNGS."""

    target_modules: str
    steps: int
    examples_per_step: int
    seed: int
    row_tokens: int
    halving: bool = False
    compile: bool = False
    checkpoint_steps: int = 50


class Outcome(NamedTuple):
    """How one candidate did. loss: nats per answer token of each step; val: summed nats of each validation example (empty without).

    stopped_at: the step after which it was dropped, 0 when it went to the end. adapter: weights under peft's names.
    """

    candidate: Candidate
    loss: list[float]
    val: list[float]
    stopped_at: int
    adapter: dict[str, torch.Tensor]


class Hooks(NamedTuple):
    """What a run needs to hear: tell(step, mean loss, real tokens, mean gradient norm) after each step, a wish to stop, sealed checkpoints."""

    tell: Callable[[int, float, int, float], None] = lambda step, loss, tokens, norm: None
    check_stop: Callable[[], None] = lambda: None
    keep: Callable[[Path], None] = lambda folder: None


def train_batched(
    base: Any, examples: Sequence[Encoded], candidates: Sequence[Candidate], sweep: Sweep, *, validation: Sequence[Encoded] = (),
    folder: Path | None = None, hooks: Hooks = Hooks(),  # noqa: B008 - a tuple without state
) -> list[Outcome]:
    """Train all candidates in the same passes, in their order. base: a causal language model on its device; it is given back as it was.

    folder: where checkpoints go; none without. Raises Interrupted after saving one.
    """
    # Gradients are views of one flat buffer; torch wants those of a dense tensor for DDP, which does not take part here.
    warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
    for weight in base.parameters():
        weight.requires_grad_(False)
    stack = Stack(base, candidates, [initial_a(base, one, sweep) for one in candidates], low=base.dtype != _float32())
    before = (base.config._attn_implementation, base.config.use_cache)
    base.set_attn_implementation(register_varlen())
    base.config.use_cache = False
    if sweep.compile:
        _compile(base)
    try:
        return _train(stack, examples, candidates, sweep, validation, folder, hooks)
    finally:
        stack.release()
        for layer in base.model.layers:
            layer._compiled_call_impl = None
        base.set_attn_implementation(before[0])
        base.config.use_cache = before[1]


def train_in_turn(
    base: Any, examples: Sequence[Encoded], candidates: Sequence[Candidate], sweep: Sweep, *, validation: Sequence[Encoded] = (),
    folder: Path | None = None, hooks: Hooks = Hooks(),  # noqa: B008
) -> list[Outcome]:
    """The same one candidate after the other over the same base: what it costs without batching, and what fits where memory is short."""
    found = []
    for one in candidates:
        own = folder / one.name if folder else None
        found += train_batched(base, examples, [one], sweep._replace(halving=False), validation=validation, folder=own, hooks=hooks)
    return found


def initial_a(base: Any, candidate: Candidate, sweep: Sweep) -> dict[str, torch.Tensor]:
    """peft's own first values of every lora_A, by module name: those that a run of this candidate alone would start from."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(sweep.seed)
    with torch.device(next(base.parameters()).device):     # drawn where they stay: eight ranks of 1.7B are a billion values
        model = get_peft_model(base, lora_config(candidate, sweep.target_modules))
    found = {
        name.removesuffix(".lora_A.default.weight").removeprefix("base_model.model."): weight.detach().clone()
        for name, weight in model.named_parameters() if name.endswith(".lora_A.default.weight")
    }
    model.unload()
    return found


def lora_config(candidate: Candidate, target_modules: str) -> Any:
    """The candidate as peft knows it."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", r=candidate.rank, lora_alpha=candidate.alpha, lora_dropout=0.0,
        target_modules=target_modules if "," not in target_modules else target_modules.split(","),
    )


def with_adapter(base: Any, outcome: Outcome, target_modules: str) -> Any:
    """The base as a peft model with a candidate's trained adapter, to be saved or asked."""
    import torch
    from peft import get_peft_model

    model = get_peft_model(base, lora_config(outcome.candidate, target_modules))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in outcome.adapter.items():
            module, _, side = name.removesuffix(".weight").rpartition(".")
            weights[f"base_model.model.{module}.{side}.default.weight"].copy_(value)
    return model


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at a step (from 0): linear warm-up, then a half cosine, as transformers gives the Trainer."""
    warm = math.ceil(WARMUP_SHARE * steps)
    if step < warm:
        return step / max(1, warm)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))


def _train(
    stack: Stack, examples: Sequence[Encoded], candidates: Sequence[Candidate], sweep: Sweep, validation: Sequence[Encoded], folder: Path | None,
    hooks: Hooks,
) -> list[Outcome]:
    import torch

    packed = pack_steps([len(one.ids) for one in examples], sweep.steps, sweep.examples_per_step, sweep.seed, sweep.row_tokens)
    rungs = {max(1, round(share * sweep.steps)) for share in RUNGS} if sweep.halving and validation else set()
    losses: dict[str, list[float]] = {one.name: [] for one in candidates}
    dropped: dict[str, Outcome] = {}
    done = _restore(stack, losses, dropped, candidates, folder)
    waiting: list[tuple[int, torch.Tensor, torch.Tensor]] = []
    stack.base.train()
    for step in range(done + 1, sweep.steps + 1):
        try:
            hooks.check_stop()
        except Interrupted:
            _read(waiting, stack, losses, packed, hooks)
            _save(stack, losses, dropped, step - 1, folder, hooks)
            raise
        rows = packed.rows[(step - 1) * packed.rows_per_step : step * packed.rows_per_step]
        told = _one_step(stack, [[examples[number] for number in row] for row in rows])
        stack.step(schedule(step - 1, sweep.steps), MAX_NORM)
        waiting.append((step, told, stack.norms))
        if step % READ_STEPS == 0 or step in rungs or step == sweep.steps or step % sweep.checkpoint_steps == 0:
            _read(waiting, stack, losses, packed, hooks)
        if step in rungs:
            _halve(stack, losses, dropped, validation, sweep, step)
        if step % sweep.checkpoint_steps == 0 or step == sweep.steps:
            _save(stack, losses, dropped, step, folder, hooks)
    with torch.no_grad():
        final = measure(stack, validation, sweep.row_tokens) if validation else [[] for _ in stack.candidates]
    for place, one in enumerate(stack.candidates):
        dropped[one.name] = Outcome(one, losses[one.name], final[place], 0, stack.adapter(place))
    return [dropped[one.name] for one in candidates]


def _read(
    waiting: list[tuple[int, torch.Tensor, torch.Tensor]], stack: Stack, losses: dict[str, list[float]], packed: Packed, hooks: Hooks
) -> None:
    """Take over the losses of the last steps: reading a number back makes the GPU wait, so it is done for several at a time."""
    for step, told, norms in waiting:
        values = told.tolist()
        for one, loss in zip(stack.candidates, values, strict=True):
            losses[one.name].append(loss)
        hooks.tell(step, sum(values) / len(values), packed.tokens[step - 1] * len(values), float(norms.mean()))
    waiting.clear()


def _one_step(stack: Stack, rows: Sequence[Sequence[Encoded]]) -> torch.Tensor:
    """Gradients of one optimizer step; returns each candidate's mean loss, nats per answer token."""
    import torch

    answers = sum(len(one.ids) - max(1, one.prompt_length) for row in rows for one in row)
    device = next(stack.base.parameters()).device
    totals = torch.zeros(len(stack.candidates), device=device)
    for row in rows:
        batch = _copies(row, len(stack.candidates), device)
        hidden = _hidden(stack.base, batch)
        weight, total = stack.base.get_output_embeddings().weight, torch.zeros((), device=hidden.device)
        for place, part in enumerate(hidden[0].chunk(len(stack.candidates))):
            loss = summed_answer_loss(part.index_select(0, batch["positions"]).to(weight.dtype), weight, batch["targets"])
            totals[place] += loss.detach()
            total = total + loss
        (total / answers).backward()
    return totals / answers


def measure(stack: Stack, examples: Sequence[Encoded], row_tokens: int) -> list[list[float]]:
    """Summed nats of every example's answer under every candidate, without gradients."""
    found = _measure(stack.base, examples, row_tokens, len(stack.candidates))
    stack.base.train()
    return found


def measure_model(model: Any, examples: Sequence[Encoded], row_tokens: int) -> list[float]:
    """The same for one model with its adapter in place: a causal language model as transformers loads it."""
    model.set_attn_implementation(register_varlen())
    return _measure(model, examples, row_tokens, 1)[0]


def _measure(base: Any, examples: Sequence[Encoded], row_tokens: int, count: int) -> list[list[float]]:
    import torch

    found = [[0.0] * len(examples) for _ in range(count)]
    base.eval()
    with torch.no_grad():
        for row in pack_rows([len(one.ids) for one in examples], row_tokens):
            batch = _copies([examples[number] for number in row], count, next(base.parameters()).device)
            weight = base.get_output_embeddings().weight
            for place, part in enumerate(_hidden(base, batch)[0].chunk(count)):
                scores = (part.index_select(0, batch["positions"]).to(weight.dtype) @ weight.T).float()
                nats = torch.nn.functional.cross_entropy(scores, batch["targets"], reduction="none")
                sums = torch.zeros(len(row), device=nats.device).index_add_(0, batch["owners"], nats)
                for number, value in zip(row, sums.tolist(), strict=True):
                    found[place][number] = value
    return found


def _copies(row: Sequence[Encoded], count: int, device: Any) -> dict[str, Any]:
    """One flat row with `count` copies of the examples. positions, targets, owners: the answer tokens of one copy, and whose they are."""
    import torch

    ids = [token for one in row for token in one.ids]
    places = [place for one in row for place in range(len(one.ids))]
    labels = [label for one in row for label in [IGNORED, *labels_of(one)[1:]]]
    owners = [number for number, one in enumerate(row) for _ in one.ids]
    targets = [place for place, label in enumerate(labels) if label != IGNORED]
    starts, at = [0], 0
    for one in [*row] * count:
        at += len(one.ids)
        starts.append(at)
    longest = max(len(one.ids) for one in row)
    made = {
        "input_ids": torch.tensor([ids * count]), "position_ids": torch.tensor([places * count]), "starts": torch.tensor(starts, dtype=torch.int32),
        "positions": torch.tensor([place - 1 for place in targets]), "targets": torch.tensor([labels[place] for place in targets]),
        "owners": torch.tensor([owners[place] for place in targets]),
    }
    if device.type == "cuda":     # from pinned memory, so that the host goes on while the GPU still computes the step before
        made = {name: value.pin_memory().to(device, non_blocking=True) for name, value in made.items()}
    return {**made, "longest": longest}


def _hidden(base: Any, batch: dict[str, Any]) -> torch.Tensor:
    """(1, copies * tokens, size): what the head would read."""
    out = base.model(
        input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False, cu_seq_lens_q=batch["starts"],
        cu_seq_lens_k=batch["starts"], max_length_q=batch["longest"], max_length_k=batch["longest"],
    )
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


def _halve(
    stack: Stack, losses: dict[str, list[float]], dropped: dict[str, Outcome], validation: Sequence[Encoded], sweep: Sweep, step: int
) -> None:
    if len(stack.candidates) < 2:
        return
    nats = measure(stack, validation, sweep.row_tokens)
    ranking = sorted(range(len(nats)), key=lambda place: (sum(nats[place]), place))
    kept = sorted(ranking[: (len(ranking) + 1) // 2])
    for place, one in enumerate(stack.candidates):
        if place not in kept:
            dropped[one.name] = Outcome(one, losses[one.name], nats[place], step, stack.adapter(place))
    stack.keep(kept)


def _save(stack: Stack, losses: dict[str, list[float]], dropped: dict[str, Outcome], step: int, folder: Path | None, hooks: Hooks) -> None:
    if folder is None:
        return
    import torch

    def write(target: Path) -> None:
        torch.save({"stack": stack.state(), "dropped": {name: one.adapter for name, one in dropped.items()}}, target / "state.pt")
        ends = {name: {"val": one.val, "stopped_at": one.stopped_at} for name, one in dropped.items()}
        (target / "losses.json").write_text(json.dumps({"losses": losses, "dropped": ends}), encoding="utf-8")

    hooks.keep(save_checkpoint(folder, step, write))


def _restore(
    stack: Stack, losses: dict[str, list[float]], dropped: dict[str, Outcome], candidates: Sequence[Candidate], folder: Path | None
) -> int:
    """Put everything back as the newest whole checkpoint has it; returns its step, 0 without one."""
    found = latest_checkpoint(folder) if folder else None
    if found is None:
        return 0
    import torch

    step, place = found
    state = torch.load(place / "state.pt", map_location=stack.masters.device, weights_only=True)
    told = json.loads((place / "losses.json").read_text(encoding="utf-8"))
    losses.update(told["losses"])
    by_name = {one.name: one for one in candidates}
    for name, end in told["dropped"].items():
        weights = {key: value.cpu() for key, value in state["dropped"][name].items()}
        dropped[name] = Outcome(by_name[name], losses[name], end["val"], end["stopped_at"], weights)
    stack.restore(state["stack"])
    return step


def _compile(base: Any) -> None:
    import torch

    with suppress(AttributeError):
        torch._dynamo.config.cache_size_limit = max(64, torch._dynamo.config.cache_size_limit)
    for layer in base.model.layers:
        layer.compile(dynamic=None)


def _float32() -> Any:
    import torch

    return torch.float32
