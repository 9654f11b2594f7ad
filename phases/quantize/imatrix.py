"""How much each input channel of each matrix matters: the mean square of what flows into it on training rows.

llama.cpp's K-quants then place their rounding error where it is multiplied by little ("importance matrix"). Measured by
hooks under transformers, since llama-cpp-python has no call for it; q and k are permuted along their outputs only, so the
channels keep their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge.errors import ForgeError
from forge.phase import Context
from forge.phases.quantize.gguf_shape import read_shape
from forge.phases.quantize.reference import ChatTokenizer, load_model
from forge.phases.quantize.rows import Row, encode_row

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def collect_importance(model: Path, rows: Sequence[Row], target: Path, ctx: Context) -> None:
    """Write `target` (.npz): GGUF tensor name -> (inputs,) float32, mean squares over all tokens of the rows."""
    import numpy as np

    tokenizer, watched = ChatTokenizer(model), _Watch(load_model(model).eval())
    for done, row in enumerate(rows):
        ctx.check_stop()
        ctx.progress(done, len(rows), "measuring which weights matter on training rows")
        encoded = encode_row(row, tokenizer)
        watched.run((*encoded.prompt, *encoded.answer))
    importance = watched.means(model)
    if not importance or not all(np.isfinite(values).all() for values in importance.values()):
        raise ForgeError("the importance of the weights could not be measured", next="forge resume --set quantize.imatrix_rows=0")
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **importance)
    partial.replace(target)


class _Watch:
    """Sums the squares of every linear layer's inputs, in double precision."""

    def __init__(self, model: Any) -> None:
        import torch

        self.model, self.tokens = model, 0
        self.sums: dict[str, Any] = {}
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(self._hook(name))

    def run(self, ids: Sequence[int]) -> None:
        """One row, all its tokens."""
        import torch

        with torch.inference_mode():
            self.model(torch.tensor([list(ids)]), use_cache=False)
        self.tokens += len(ids)

    def means(self, folder: Path) -> dict[str, Array]:
        """GGUF name -> (inputs,) float32. Layers that GGUF has no name for are left out."""
        import gguf
        import numpy as np

        shape = read_shape(folder)
        names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, shape.architecture.upper()), shape.layers)
        found = {names.get_name(f"{layer}.weight", try_suffixes=(".weight",)): total for layer, total in self.sums.items()}
        return {name: (total / max(1, self.tokens)).numpy().astype(np.float32) for name, total in sorted(found.items()) if name}

    def _hook(self, name: str) -> Any:
        def add(module: Any, inputs: tuple[Any, ...]) -> None:
            squares = inputs[0].detach().double().square().flatten(0, -2).sum(0).cpu()
            self.sums[name] = self.sums[name] + squares if name in self.sums else squares

        return add
