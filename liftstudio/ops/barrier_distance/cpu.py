"""The sweeps compiled, one channel after the other."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.barrier_distance.reference import STEPS

Floats = NDArray[np.float32]


def barrier_distance(image: Tensor) -> Tensor:
    """See `ops.barrier_distance`."""
    return torch.from_numpy(_swept(image.contiguous().numpy(), np.array(STEPS)))


@njit(nogil=True, cache=True)
def _swept(image: Floats, steps: NDArray[np.int64]) -> Floats:
    height, width, channels = image.shape
    total = np.zeros((height, width), np.float32)
    for channel in range(channels):
        values = image[:, :, channel]
        highest, lowest = values.copy(), values.copy()
        distance = np.zeros((height, width), np.float32)
        distance[1:-1, 1:-1] = np.inf
        for step in steps:
            for i in range(1, height - 1):
                y = i if step > 0 else height - 1 - i
                for j in range(1, width - 1):
                    x = j if step > 0 else width - 1 - j
                    for k in range(2):
                        row, column = (y - step, x) if k == 0 else (y, x - step)
                        high, low = max(highest[row, column], values[y, x]), min(lowest[row, column], values[y, x])
                        if high - low < distance[y, x]:
                            distance[y, x], highest[y, x], lowest[y, x] = high - low, high, low
        total += distance
    return total
