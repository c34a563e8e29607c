"""Weighted sum of three table rows in plain torch."""

from torch import Tensor


def interpolate(table: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
    """Sum [P, C] over k of weights[p, k] * table[corners[p, k]]; table [N, C], corners and weights [P, 3]."""
    rows = table.index_select(0, corners.reshape(-1)).view(-1, 3, table.shape[1])
    return (weights[..., None] * rows).sum(1)
