"""Passes of short rows as CUDA graphs: recorded once for each row length, then asked for with one call.

A GPU of little memory reads rows of a few thousand tokens, and a pass of 28 layers takes the processor 79 to 116 ms to ask for,
kernel by kernel: as long as the GPU needs for it (7B, H200, 2026-11-21). A recorded pass takes under one. Rows are lengthened to one of a
few sizes by an example of padding that nothing looks at; recordings share their memory, since only one runs at a time. The head
and the loss stay as they are: how many answers a row has differs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

SIZE_STEP, MOST_SIZES = 32, 16
"""Row lengths, in tokens, are this far apart or further: padding was 1 to 2 % of the tokens with 64."""

Record = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs the call once, in a recording, and returns what repeats it."""


class Padding(NamedTuple):
    """How rows are lengthened. sizes: tokens, ascending; slots: places for examples in every row, one of them for padding; longest: tokens of the longest example."""

    sizes: tuple[int, ...]
    slots: int
    longest: int

    def size_for(self, tokens: int) -> int:
        """The smallest size that holds so many tokens."""
        return next(size for size in self.sizes if size >= tokens)


def padding_for(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> Padding:
    """At most MOST_SIZES sizes, SIZE_STEP tokens apart or a multiple of it, for these rows of example numbers."""
    tokens = [sum(lengths[example] for example in row) for row in rows]
    step = SIZE_STEP * -(-(max(tokens) - min(tokens)) // (SIZE_STEP * (MOST_SIZES - 1))) or SIZE_STEP
    sizes = tuple(sorted({-(-count // step) * step for count in tokens}))
    return Padding(sizes, max(len(row) for row in rows) + 1, max(max(lengths), step))


class GraphedDecoder:
    """The layers of a causal model, from tokens to the last hidden state, whose passes forward and back are recordings.

    Gradients of `weights` are added up in buffers of this object, which it makes their .grad whenever that is None.
    """

    def __init__(self, decoder: Any, weights: Sequence[Any], padding: Padding, tell: Callable[[str], None] = lambda text: None) -> None:
        import torch

        self.decoder, self.weights, self.padding, self.plain, self.tell = decoder, list(weights), padding, decoder.forward, tell
        self.places = [weight.data_ptr() for weight in self.weights]
        most, device = padding.sizes[-1], self.weights[0].device
        self.gradients = [torch.zeros_like(weight) for weight in self.weights]
        self.ids = torch.zeros((1, most), dtype=torch.int64, device=device)
        self.positions = torch.zeros((1, most), dtype=torch.int64, device=device)
        self.starts = torch.zeros(padding.slots + 1, dtype=torch.int32, device=device)
        embedded = decoder.get_input_embeddings().weight
        self.hidden = torch.zeros((1, most, embedded.shape[1]), dtype=embedded.dtype, device=device)
        self.outer = torch.zeros_like(self.hidden)
        self.anchor = torch.zeros((), device=device, requires_grad=True)  # without an input that wants a gradient, autograd would not come back
        self.forwards: dict[int, Callable[[], None]] = {}
        self.backwards: dict[int, Callable[[], None]] = {}

    def record(self, recorder: Record) -> None:
        """Record every size, the largest first: it takes the memory that the others then share."""
        for size in reversed(self.padding.sizes):
            self._fill_starts(size)
            out: list[Any] = []
            self.forwards[size] = recorder(functools.partial(self._forward, size, out))
            self.backwards[size] = recorder(functools.partial(self._backward, size, out))

    def try_sizes(self) -> None:
        """One pass of every size that is not recorded: kernels are compiled and loaded, and memory is found to suffice."""
        for size in reversed(self.padding.sizes):
            self._fill_starts(size)
            out: list[Any] = []
            self._forward(size, out)
            self._backward(size, out)

    def install(self) -> None:
        """Let the decoder use the recordings for rows of training."""
        self.decoder.forward = self.run

    def remove(self) -> None:
        """Let the decoder do without; its memory is free when nothing else holds this object."""
        self.decoder.__dict__.pop("forward", None)
        self.forwards.clear()
        self.backwards.clear()

    def run(self, *args: Any, input_ids: Any = None, position_ids: Any = None, cu_seq_lens_q: Any = None, **kwargs: Any) -> Any:
        """What the decoder's forward does: by a recording where it is a padded row of training."""
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPast

        size = input_ids.shape[1] if input_ids is not None else 0
        recorded = self.decoder.training and torch.is_grad_enabled() and size in self.forwards
        if not recorded or (self.weights[0].grad is None and not self._attach()):
            return self.plain(*args, input_ids=input_ids, position_ids=position_ids, cu_seq_lens_q=cu_seq_lens_q, **kwargs)
        self.ids[:, :size].copy_(input_ids, non_blocking=True)
        self.positions[:, :size].copy_(position_ids, non_blocking=True)
        self.starts.copy_(cu_seq_lens_q, non_blocking=True)
        return BaseModelOutputWithPast(last_hidden_state=_replay()(self.anchor, self, size))

    def _attach(self) -> bool:
        """Start a step with gradients of zero. False, without recordings from then on, when a weight is no longer where they read it."""
        import torch

        if [weight.data_ptr() for weight in self.weights] != self.places:
            self.remove()
            self.tell("passes are no longer recorded as CUDA graphs: the adapter's weights have been replaced")
            return False
        torch._foreach_zero_(self.gradients)
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            weight.grad = gradient
        return True

    def _fill_starts(self, size: int) -> None:
        """A row of equal examples of at most `longest` tokens: what is read while nothing is learnt."""
        import torch

        bounds = [min(size, self.padding.longest * number) for number in range(self.padding.slots + 1)]
        bounds[-1] = size
        self.starts.copy_(torch.tensor(bounds, dtype=torch.int32))

    def _forward(self, size: int, out: list[Any]) -> None:
        longest = self.padding.longest
        found = self.plain(
            input_ids=self.ids[:, :size], position_ids=self.positions[:, :size], use_cache=False, cu_seq_lens_q=self.starts, cu_seq_lens_k=self.starts,
            max_length_q=longest, max_length_k=longest,
        ).last_hidden_state  # fmt: skip
        self.hidden[:, :size].copy_(found.detach())
        out.append(found)

    def _backward(self, size: int, out: list[Any]) -> None:
        import torch

        found = torch.autograd.grad(out.pop(), self.weights, self.outer[:, :size])
        torch._foreach_add_(self.gradients, found)


@functools.cache
def _replay() -> Any:
    import torch

    class Replay(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
        """The recordings of one size as a function of autograd; gradients of the weights go into their buffers."""

        @staticmethod
        def forward(ctx: Any, anchor: Any, graphed: GraphedDecoder, size: int) -> Any:
            ctx.graphed, ctx.size = graphed, size
            graphed.forwards[size]()
            return graphed.hidden[:, :size].detach()

        @staticmethod
        def backward(ctx: Any, outer: Any) -> Any:  # type: ignore[override, unused-ignore]
            ctx.graphed.outer[:, : ctx.size].copy_(outer)
            ctx.graphed.backwards[ctx.size]()
            return None, None, None

    return Replay.apply


def record_on_gpu(graphed: GraphedDecoder) -> None:
    """Try all sizes, then record them in one pool of memory, on a stream of their own as CUDA asks.

    Raises torch.OutOfMemoryError when a pass does not fit, RuntimeError for a model whose passes cannot be recorded (one that reads
    a number back from the GPU).
    """
    import torch

    stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graphed.try_sizes()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.empty_cache()  # what the trials held is not there for recordings

    def recorder(call: Callable[[], None]) -> Callable[[], None]:
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording, pool=pool, stream=stream):
            call()
        replay: Callable[[], None] = recording.replay
        return replay

    graphed.record(recorder)


def lengthened(lengths: Iterable[int], padding: Padding) -> tuple[int, list[int]]:
    """(tokens of padding, bounds of all slots) for examples of these lengths: padding is one more example, the rest of the slots are empty."""
    bounds = [0]
    for length in lengths:
        bounds.append(bounds[-1] + length)
    size = padding.size_for(bounds[-1])
    return size - bounds[-1], bounds + [size] * (padding.slots + 1 - len(bounds))
