"""Random choices for the generators, made from uniform draws of one torch.Generator, so that a seed fixes an object."""

from collections.abc import Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


class Draws:
    """Random numbers and choices; each takes uniform draws in the order of the calls."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, low: float, high: float) -> float:
        """Draw a number from [low, high)."""
        return low + (high - low) * torch.rand((), dtype=torch.float64, generator=self._generator).item()

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform(0.0, 1.0) < probability

    def integer(self, low: int, high: int) -> int:
        """Draw an integer from low to high, both included."""
        return min(int(self.uniform(low, high + 1)), high)

    def choice(self, items: Sequence[T]) -> T:
        """Draw one of the items, all equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def weighted(self, weights: dict[T, float]) -> T:
        """Draw one of the keys, with probability proportional to its weight."""
        left = self.uniform(0.0, sum(weights.values()))
        for item, weight in weights.items():
            left -= weight
            if left < 0:
                return item
        return next(reversed(weights))
