"""Orthogonal starts."""

import torch
from jaxtyping import Float
from torch import Tensor


def orthogonal_rows(
    fresh: Float[Tensor, "m f"], former: Float[Tensor, "n f"]
) -> Float[Tensor, "m f"]:
    """Return the fresh rows at length 1, orthogonal to the former ones and to each other.

    Gram-Schmidt in float64, each row freed twice of what it shares with the others. A row that has
    no direction left to go, as all are taken, keeps its own.
    """
    basis = torch.linalg.qr(former.double().T).Q.T
    rows = []
    for row in fresh.double():
        rest = row / row.norm()
        for _ in range(2):
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() > 1e-6:
            rest = rest / rest.norm()
            basis = torch.cat([basis, rest[None]])
        else:
            rest = row / row.norm()
        rows.append(rest)
    return torch.stack(rows).float()
