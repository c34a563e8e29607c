"""Tests of the distribution of random values."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

DEVIATION = 2.2  # of `distance_to`, exceeded with probability 1e-4


def distance_to(values: Tensor, cumulative: Callable[[Tensor], Tensor]) -> float:
    """Return the Kolmogorov-Smirnov distance times sqrt(n) of values [n] from a cumulative distribution function."""
    ranked = values.double().sort().values
    ranks = torch.arange(1, len(ranked) + 1, dtype=torch.float64) / len(ranked)
    return (ranks - cumulative(ranked)).abs().max().item() * math.sqrt(len(ranked))
