"""Several LoRA adapters over one frozen base, trained in the same passes: what each computes alone, at a fraction of the launches.

A pass reads the same packed row once for each adapter, all copies laid end to end; the frozen matrices see one long row, and every
adapter sees only its own copy. Ranks are padded to the largest: padded places start at zero on both sides, so their gradients are
zero and they stay zero. Each adapter has its own gradient norm, learning rate and Adam moments; AdamW is elementwise, so it takes the
steps that it would take by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""torch's and the Trainer's defaults."""


class Candidate(NamedTuple):
    """One setting of a sweep."""

    name: str
    rank: int
    alpha: int
    learning_rate: float


class Place(NamedTuple):
    """Where a layer's A and B lie in the flat buffers: (first value, inputs or outputs)."""

    name: str
    a: int
    b: int
    inputs: int
    outputs: int


class Stack:
    """The adapters of all candidates: flat buffers (candidates, values), of which every layer's A and B are views.

    weights, gradients: what the model computes with (bfloat16 on a GPU). masters, first, second: float32 weights and Adam's moments.
    """

    def __init__(self, base: Any, candidates: Sequence[Candidate], initial: Sequence[dict[str, torch.Tensor]], *, low: bool) -> None:
        """initial: for each candidate, peft's lora_A by module name. low: compute in bfloat16 with float32 masters."""
        import torch

        self.base, self.candidates = base, list(candidates)
        self.rank = max(one.rank for one in candidates)
        self.places = _places(base, list(initial[0]), self.rank)
        size = self.places[-1].b + self.rank * self.places[-1].outputs
        device = next(base.parameters()).device
        self.masters = torch.zeros(len(candidates), size, device=device)
        for row, (one, weights) in enumerate(zip(candidates, initial, strict=True)):
            for place in self.places:
                self._view(self.masters[row : row + 1], place.a, place.inputs, self.rank)[0, :, : one.rank] = weights[place.name].T.to(device, torch.float32)
        self.first, self.second = torch.zeros_like(self.masters), torch.zeros_like(self.masters)
        self.low, self.steps = low, 0
        self.norms = torch.zeros(len(candidates), device=device)
        self._modules = {place.name: _replace(base, place.name) for place in self.places}
        self._bind()

    def step(self, share: float, max_norm: float) -> None:
        """One AdamW step of every adapter; `share` of its learning rate is what the schedule gives."""
        import torch

        with torch.no_grad():
            gradient = self.gradients.float()
            self.norms = gradient.norm(dim=1)
            gradient *= (max_norm / (self.norms + 1e-6)).clamp(max=1.0)[:, None]
            self.steps += 1
            self.first.lerp_(gradient, 1 - BETAS[0])
            self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            rates = torch.tensor([one.learning_rate * share / (1 - BETAS[0] ** self.steps) for one in self.candidates], device=gradient.device)
            spread = (self.second / (1 - BETAS[1] ** self.steps)).sqrt_().add_(EPSILON)
            self.masters -= rates[:, None] * self.first / spread
            if self.weights is not self.masters:
                self.weights.copy_(self.masters)
            self.gradients.zero_()

    def keep(self, chosen: Sequence[int]) -> None:
        """Go on with some of the candidates only, by their place."""
        index = list(chosen)
        self.candidates = [self.candidates[place] for place in index]
        self.masters, self.first, self.second = (buffer[index].contiguous() for buffer in (self.masters, self.first, self.second))
        self._bind()

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"masters": self.masters, "first": self.first, "second": self.second, "steps": self.steps, "names": [one.name for one in self.candidates]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; candidates that it no longer has are dropped."""
        by_name = {one.name: place for place, one in enumerate(self.candidates)}
        self.keep([by_name[name] for name in state["names"]])
        for name in ("masters", "first", "second"):
            getattr(self, name).copy_(state[name])
        self.steps = int(state["steps"])
        self._bind()

    def adapter(self, which: int) -> dict[str, torch.Tensor]:
        """One candidate's weights under peft's names (module.lora_A.weight, module.lora_B.weight), float32, on the CPU."""
        rank, row, found = self.candidates[which].rank, self.masters[which : which + 1], {}
        for place in self.places:
            a, b = self._view(row, place.a, place.inputs, self.rank)[0], self._view(row, place.b, self.rank, place.outputs)[0]
            found[f"{place.name}.lora_A.weight"] = a[:, :rank].T.contiguous().cpu()
            found[f"{place.name}.lora_B.weight"] = b[:rank].T.contiguous().cpu()
        return found

    def release(self) -> Any:
        """The base as it was."""
        for module in self._modules.values():
            _set(self.base, module.name, module.inner)
        return self.base

    def _bind(self) -> None:
        """Point every layer at its views of the present buffers."""
        import torch

        count = len(self.candidates)
        self.weights = self.masters.to(torch.bfloat16) if self.low else self.masters
        self.gradients = torch.zeros_like(self.weights)
        scale = torch.tensor([one.alpha / one.rank for one in self.candidates], device=self.weights.device, dtype=self.weights.dtype)[:, None, None]
        for place in self.places:
            module = self._modules[place.name]
            module.count, module.scale = count, scale
            for side, at, shape in (("a", place.a, (place.inputs, self.rank)), ("b", place.b, (self.rank, place.outputs))):
                weight = torch.nn.Parameter(self._view(self.weights, at, *shape))
                weight.grad = self._view(self.gradients, at, *shape)
                setattr(module, side, weight)

    @staticmethod
    def _view(buffer: torch.Tensor, at: int, first: int, second: int) -> torch.Tensor:
        return buffer[:, at : at + first * second].view(-1, first, second)


@functools.cache
def _layer_class() -> Any:
    import torch

    class MultiLoRALinear(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        """A frozen linear layer beside `count` adapters. input: (1, count * tokens, size), copy after copy."""

        a: torch.nn.Parameter
        b: torch.nn.Parameter

        def __init__(self, name: str, inner: torch.nn.Module) -> None:
            super().__init__()
            self.name, self.inner = name, inner
            self.count, self.scale = 1, torch.ones(())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            copies = x.reshape(self.count, -1, x.shape[-1]).to(self.a.dtype)
            delta = torch.bmm(torch.bmm(copies, self.a), self.b) * self.scale
            out = self.inner(x)
            result: torch.Tensor = out + delta.reshape(out.shape).to(out.dtype)
            return result

    return MultiLoRALinear


def _places(base: Any, names: Sequence[str], rank: int) -> list[Place]:
    found, at = [], 0
    for name in names:
        inner = base.get_submodule(name)
        found.append(Place(name, at, at + rank * inner.in_features, inner.in_features, inner.out_features))
        at += rank * (inner.in_features + inner.out_features)
    return found


def _replace(base: Any, name: str) -> Any:
    module = _layer_class()(name, base.get_submodule(name))
    _set(base, name, module)
    return module


def _set(base: Any, name: str, module: Any) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(base.get_submodule(parent), leaf, module)
