"""Which rows each step reads: a function of seed and step alone, so that a resumed stage goes on with the right ones.

Every epoch goes through all rows in an order of its own; a step may reach over the end of one.
"""

from __future__ import annotations

from forge.errors import ArtifactDamaged


def rows_of_step(step: int, rows_per_step: int, rows: int, seed: int, *, versions: int = 1) -> list[int]:
    """Which rows a step (from 1) reads. Raises ArtifactDamaged when there are none.

    versions: of every row, laid one after the other (all rows, then all rows again); each epoch reads the next one.
    """
    import torch

    if rows == 0:
        raise ArtifactDamaged("there are no rows to train on", next="forge resume --from shape")
    picked, orders = [], {}
    for position in range((step - 1) * rows_per_step, step * rows_per_step):
        epoch, index = divmod(position, rows)
        if epoch not in orders:
            orders[epoch] = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        picked.append(epoch % versions * rows + int(orders[epoch][index]))
    return picked
