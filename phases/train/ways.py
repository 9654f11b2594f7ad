"""How an adapter is trained on this machine: precision of the base, compile, tokens a pass, checkpointing; each with its reason.

The numbers are a model of memory and time that one trial step then checks (tuner.py). Its constants were fitted on one H200
(Qwen2.5-7B shape, rank 32, 2026-11-21: 21.0 / 22.3 / 23.1 / 73.7 / 102.1 GiB at 1,645 / 2,010 / 2,207 / 17,400 / 25,967 tokens a pass, bf16 and FP8 alike; probes of
the day before: 19.6 GiB at 2k with every 2nd layer checkpointed, 57.7 at 8k without compile; 17,737 / 18,693 / 19,458 / 20,299
tokens/s at 1.5k / 2k / 8k / 16k).
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from forge.errors import UsageError
from forge.phases.train.cuda_graphs import SIZE_STEP
from forge.phases.train.loss import TILE_TOKENS

Precision = Literal["fp32", "bf16", "fp8", "nf4"]
GIB = 1024**3
FP8_CAPABILITY, BF16_CAPABILITY = (8, 9), (8, 0)

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp8": 2.0, "nf4": 0.53}
"""Of the matrices in the layers; embeddings and head stay in two bytes. fp8 keeps two copies of one byte."""
ADAPTER_BYTES = {"fp32": 16, "bf16": 20}
"""A trained parameter: weight, gradient, moments, and for bfloat16 a float32 copy of weight and gradient."""
KEPT_COMPILED, KEPT_EAGER = (3.0, 2.05), (4.0, 5.0)
"""Values a layer keeps for the backward pass, in (feed-forward widths, hidden widths) a token."""
MARGIN, HEAD_BYTES, WORKSPACE = 1.01, 6.6, 0.25 * GIB
LARGEST_ROW, SMALLEST_ROW = 26000, 512
SPREAD_SLACK = 1.015
"""Rows of one step are equally long up to this."""
PASS_OVERHEAD_TOKENS, PASS_OVERHEAD_UNKNOWN = 190.0, 380.0
"""What a pass costs the GPU besides its tokens, in tokens' time, with its share of the optimizer (17,980 tokens/s in rows of 1,620 and 20,120 in one
of 25,967; FP8: 26,719 in rows of 2,030, 29,127 in one of 24,000); and with the processor's work where the GPU's speed was not measured."""
HOST_SECONDS, DEVICE_SHARE, GRAPHED_BELOW = 0.0035, {"fp8": 1.0}, 2.0
"""A layer's pass on the processor (79 to 116 ms for 28 on four hosts); the share of the GPU's bfloat16 product that training reaches, 0.7 but for FP8;
recorded as CUDA graphs are passes for which the GPU needs less than so many times the processor's time."""
GRAPHS_BYTES = 0.55 * GIB
"""Memory that recordings do not share with the rest (21.7 GiB in bf16 at 1,792 tokens, 23.5 in FP8 at 2,240; 2026-11-22)."""
TURNING_TOKENS = 200.0
"""What a pass costs more with one copy of an FP8 base: 6.5 GB that are read and written, about 7 ms on an H200."""
CHECKPOINT_COST = 0.5
"""Extra time when every layer is computed twice: a third more arithmetic and what cannot be overlapped (18,693 -> 15,430 at half)."""
COMPILE_SECONDS, COMPILE_GAIN, EAGER_SHARE = 20.0, 0.21, 0.5
"""Per-layer compile: what it costs once, the time it saves (15,511 -> 19,458), and the share of the peak without it."""
CPU_ROW_TOKENS = 1024


class Machine(NamedTuple):
    """What training can use. memory: free bytes on the GPU (0 on a CPU); peak_flops: measured bfloat16 product, 0 if not measured."""

    device: str
    name: str
    capability: tuple[int, int]
    memory: int
    bf16: bool
    peak_flops: float = 0.0


class Shape(NamedTuple):
    """The sizes of a model that memory and time depend on."""

    parameters: int
    hidden: int
    layers: int
    intermediate: int
    vocab: int
    tied: bool
    adapter: int = 0

    @property
    def embeddings(self) -> int:
        """Parameters of embedding and head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def flops_per_token(self) -> float:
        """Frozen-base step without recompute: forward and activation gradient of every matrix, the head on 60 % of the tokens."""
        matrices = self.parameters - self.embeddings
        return 4 * matrices + 4 * 0.6 * self.vocab * self.hidden + 6 * self.adapter


class Way(NamedTuple):
    """How a step is computed. checkpoint_every: 0 none, 1 all layers, n every n-th is computed twice to save memory.

    shards: over how many processes the weights are split (shards.py); 1: each has all of them. full: all weights are trained. one_copy: of an FP8 base (fp8.py).
    graphed: passes are recorded as CUDA graphs (cuda_graphs.py).
    """

    device: str
    precision: Precision
    compile: bool
    row_tokens: int
    checkpoint_every: int
    reasons: dict[str, str]
    shards: int = 1
    full: bool = False
    one_copy: bool = False
    graphed: bool = False

    @property
    def lean(self) -> bool:
        """True where adapters are bfloat16 with float32 copies and the loss reads nothing back: on GPUs."""
        return self.precision != "fp32"


def look_at_machine(*, measure: bool = True) -> Machine:
    """The GPU that torch sees, or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return Machine("cpu", "this CPU", (0, 0), 0, bool(torch.cpu._is_avx512_bf16_supported()))
    free, _ = torch.cuda.mem_get_info()
    capability = torch.cuda.get_device_capability()
    peak = measure_peak() if measure else 0.0
    return Machine("cuda", torch.cuda.get_device_name(), capability, free, capability >= BF16_CAPABILITY, peak)


def measure_peak(size: int = 8192, repeats: int = 5) -> float:
    """Operations a second of a bfloat16 product size x size x size on the GPU: the limit that training is compared with."""
    import torch

    values = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    for _ in range(2):
        values @ values
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    began.record()
    for _ in range(repeats):
        values @ values
    ended.record()
    ended.synchronize()
    del values
    torch.cuda.empty_cache()
    return float(repeats * 2 * size**3 / (began.elapsed_time(ended) / 1e3))


def shape_of(config: Any, parameters: int, adapter: int = 0) -> Shape:
    """From a transformers configuration."""
    return Shape(
        parameters, config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.vocab_size,
        bool(config.tie_word_embeddings), adapter,
    )


def adapter_parameters(config: Any, rank: int, target_modules: str) -> int:
    """Parameters of a LoRA adapter on the named projections, "q_proj,v_proj" or "all-linear"."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, "head_dim", None) or hidden // heads
    queries, keys, wide = head * heads, head * (config.num_key_value_heads or heads), config.intermediate_size
    sides = {
        "q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys, "o_proj": queries + hidden,
        "gate_proj": hidden + wide, "up_proj": hidden + wide, "down_proj": wide + hidden,
    }
    names = list(sides) if target_modules == "all-linear" else target_modules.split(",")
    return int(config.num_hidden_layers * rank * sum(sides.get(name, 0) for name in names))


def needed_bytes(
    shape: Shape, precision: Precision, *, row_tokens: int, checkpoint_every: int, compiled: bool, shards: int = 1, full: bool = False, one_copy: bool = False,
    graphed: bool = False,
) -> int:
    """The peak of a training step. shards: processes that share the weights; full: all weights are trained, not an adapter; one_copy: of
    an FP8 base (fp8.py); graphed: passes are recorded, of lengthened rows.
    """
    row_tokens = -(-row_tokens // SIZE_STEP) * SIZE_STEP if graphed else row_tokens
    matrices = shape.parameters - shape.embeddings
    each = 4 if precision == "fp32" else 2
    weights = (BYTES_PER_WEIGHT[precision] / (2 if one_copy else 1) * matrices + each * shape.embeddings) * (0 if full else 1)  # of a full training they are in `trained`
    trained = ADAPTER_BYTES["fp32" if precision == "fp32" else "bf16"] * (shape.parameters if full else shape.adapter)
    weights, adapter = weights / shards, trained / shards
    if shards > 1:  # gathered: both ends of the model, the layer at work and the next one
        weights += each * (shape.embeddings + 2 * matrices / shape.layers) * (2 if full else 1)
    wide, narrow = KEPT_COMPILED if compiled else KEPT_EAGER
    layer = each * (wide * shape.intermediate + narrow * shape.hidden)
    twice = math.ceil(shape.layers / checkpoint_every) if checkpoint_every else 0
    kept = (shape.layers - twice + (1 if twice else 0)) * layer + twice * each * shape.hidden
    head = min(row_tokens, TILE_TOKENS) * shape.vocab * HEAD_BYTES
    return int(weights + adapter + MARGIN * row_tokens * kept + head + WORKSPACE + (GRAPHS_BYTES if graphed else 0))


def host_tokens(machine: Machine, shape: Shape, precision: Precision) -> float:
    """Tokens that the GPU could read while the processor asks for a pass; 0 where the GPU's speed was not measured."""
    return HOST_SECONDS * shape.layers * DEVICE_SHARE.get(precision, 0.7) * machine.peak_flops / shape.flops_per_token


def relative_time(way: Way, host: float) -> float:
    """Time of a token against the best case. host: host_tokens()."""
    taken = way.row_tokens + (PASS_OVERHEAD_TOKENS if host or way.graphed else PASS_OVERHEAD_UNKNOWN) + (TURNING_TOKENS if way.one_copy else 0.0)
    twice = CHECKPOINT_COST / way.checkpoint_every if way.checkpoint_every else 0.0
    return (taken if way.graphed else max(taken, host)) / way.row_tokens * (1 + twice)


def choose_way(
    machine: Machine, shape: Shape, *, asked: str, step_tokens: int, longest: int, total_tokens: float, compile: bool | None = None,
    limit_bytes: int = 0, shards: int = 1, full: bool = False,
) -> list[Way]:
    """Ways from the fastest that should fit to the smallest; the first that survives a trial step is used.

    asked: "auto" or a precision. compile None: by the run's length. limit_bytes: 0 = nine tenths of what is free. shards: processes
    that share the weights (FSDP2): these stay in bfloat16. full: all weights are trained, not an adapter: likewise.
    Raises UsageError for a precision that this machine does not have.
    """
    reasons: dict[str, str] = {}
    if machine.device == "cpu":
        return [_on_cpu(machine, asked, reasons)._replace(shards=shards)]
    if (shards > 1 or full) and machine.bf16 and asked != "fp32":
        what = "a split base" if shards > 1 else "full tuning"
        if asked in ("fp8", "nf4"):
            raise UsageError(f"train.precision={asked} is for a frozen base that one GPU holds", why=f"this is {what}", next="forge resume --set train.precision=auto")
        asked, reasons["precision"] = "bf16", f"bf16: {what}"
    compiled = _compile_pays(machine, shape, total_tokens, reasons) if compile is None else compile
    reasons.setdefault("compile", "asked for" if compiled else "off, as asked")
    limit = limit_bytes or int(0.9 * machine.memory)
    told = reasons.get("precision")
    precision = _precision(machine, shape, asked, compiled, limit, longest, reasons)
    reasons["precision"] = told or reasons["precision"]
    if precision == "fp32" and compiled:
        compiled, reasons["compile"] = False, "off: in float32 attention is computed example by example, which breaks compiled layers up"
    if precision == "fp8" and not compiled:
        compiled, reasons["compile"] = True, "per layer: FP8 is slower than bfloat16 without it"
    first = Way(machine.device, precision, compiled, 0, 0, {}, shards, full)
    found = _candidates(first, machine, shape, limit, max(step_tokens, longest), longest)
    return [way._replace(reasons={**reasons, "memory": _told(way, shape, limit)}) for way in found]


def _on_cpu(machine: Machine, asked: str, reasons: dict[str, str]) -> Way:
    if asked in ("fp8", "nf4"):
        raise UsageError(
            f"train.precision={asked} needs a GPU", why="this machine has none that torch sees", next="forge resume --set train.precision=auto"
        )
    reasons["precision"] = "float32 adapters on a CPU, so that a resumed run ends with the same bits"
    return Way("cpu", "fp32", False, CPU_ROW_TOKENS, 0, reasons)


def _compile_pays(machine: Machine, shape: Shape, total_tokens: float, reasons: dict[str, str]) -> bool:
    seconds = total_tokens * shape.flops_per_token / (EAGER_SHARE * max(machine.peak_flops, 1e12))
    saved = COMPILE_GAIN * seconds
    pays = saved > COMPILE_SECONDS
    reasons["compile"] = (
        f"{'per layer' if pays else 'off'}: {total_tokens:,.0f} tokens take about {seconds:.0f} s without it, of which it would save"
        f" {saved:.0f} s and cost {COMPILE_SECONDS:.0f} s"
    )
    return pays


def _precision(
    machine: Machine, shape: Shape, asked: str, compiled: bool, limit: int, longest: int, reasons: dict[str, str]
) -> Precision:
    if asked == "fp8" and machine.capability < FP8_CAPABILITY:
        raise UsageError(
            "train.precision=fp8 needs a GPU with FP8 units", why=f"{machine.name} has compute capability {machine.capability[0]}.{machine.capability[1]}; 8.9 is the first with them",
            next="forge resume --set train.precision=auto",
        )
    if asked != "auto":
        reasons["precision"] = f"{asked}: train.precision asks for it"
        return asked  # type: ignore[return-value]
    smallest = needed_bytes(shape, "bf16", row_tokens=max(longest, SMALLEST_ROW), checkpoint_every=1, compiled=compiled)
    if not machine.bf16:
        reasons["precision"] = f"fp32: {machine.name} has no bfloat16 units"
        return "fp32"
    if smallest > limit:
        reasons["precision"] = f"nf4: bfloat16 weights need {smallest / GIB:.1f} GiB with everything, {limit / GIB:.1f} are free"
        return "nf4"
    if machine.capability >= FP8_CAPABILITY and compiled:
        reasons["precision"] = f"fp8: {machine.name} has the units, and compile makes them pay"
        return "fp8"
    missing = "this run is too short for compile, without which FP8 is slower" if machine.capability >= FP8_CAPABILITY else f"{machine.name} has no FP8 units"
    reasons["precision"] = f"bf16: it fits; {missing}"
    return "bf16"


def _candidates(first: Way, machine: Machine, shape: Shape, limit: int, step_tokens: int, longest: int) -> list[Way]:
    def time(way: Way) -> float:
        return relative_time(way, host)

    sizes = []
    for rows in range(-(-step_tokens // LARGEST_ROW), step_tokens // min(SMALLEST_ROW, step_tokens) + 1):
        size = step_tokens if rows == 1 else int(SPREAD_SLACK * step_tokens / rows)
        if size >= longest:
            sizes.append(size)
    sizes = sizes or [longest]
    copies = (False, True) if first.precision == "fp8" else (False,)
    ways = [first._replace(row_tokens=size, checkpoint_every=every, one_copy=one) for size in sizes for every in (0, 4, 2, 1) for one in copies]
    host = host_tokens(machine, shape, first.precision)
    ways = [way._replace(graphed=_can_be_graphed(way) and way.row_tokens < GRAPHED_BELOW * host) for way in ways]
    fits = [way for way in ways if _bytes(way, shape) <= limit]
    ordered = sorted(fits, key=time)
    smallest = min(ways, key=lambda way: _bytes(way, shape))
    best = ordered[0] if ordered else smallest
    smaller = sorted((way for way in ways if _bytes(way, shape) < 0.85 * _bytes(best, shape)), key=time)
    return _falling([best, *smaller, smallest], shape)


def _can_be_graphed(way: Way) -> bool:
    """Layers that are computed twice ask the GPU for its state of chance, which a recording may not; a split model waits for others."""
    return way.lean and way.checkpoint_every == 0 and way.shards == 1 and not way.full


def _falling(ways: list[Way], shape: Shape) -> list[Way]:
    """Each clearly smaller than the one before, so that a fallback is worth its trial."""
    kept = [ways[0]]
    for way in ways[1:]:
        if _bytes(way, shape) < 0.85 * _bytes(kept[-1], shape):
            kept.append(way)
    return kept


def _bytes(way: Way, shape: Shape) -> int:
    return needed_bytes(
        shape, way.precision, row_tokens=way.row_tokens, checkpoint_every=way.checkpoint_every, compiled=way.compile, shards=way.shards, full=way.full,
        one_copy=way.one_copy, graphed=way.graphed,
    )


def _told(way: Way, shape: Shape, limit: int) -> str:
    twice = {0: "nothing computed twice", 1: "all layers computed twice"}.get(way.checkpoint_every, f"every {way.checkpoint_every}th layer computed twice")
    return f"at most {way.row_tokens:,} tokens a pass, {twice}{', one copy of the base' if way.one_copy else ''}{', recorded as CUDA graphs' if way.graphed else ''}: about {_bytes(way, shape) / GIB:.1f} of {limit / GIB:.1f} GiB"
