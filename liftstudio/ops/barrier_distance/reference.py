"""The sweeps pixel by pixel, all channels at once."""

import torch
from torch import Tensor

STEPS = (1, -1, 1, -1)  # directions of the sweeps


def barrier_distance(image: Tensor) -> Tensor:
    """See `ops.barrier_distance`."""
    height, width, _ = image.shape
    distance = torch.full_like(image, torch.inf)
    distance[[0, -1]], distance[:, [0, -1]] = 0.0, 0.0
    highest, lowest = image.clone(), image.clone()
    for step in STEPS:
        rows, columns = (range(1, size - 1)[::step] for size in (height, width))
        for y in rows:
            for x in columns:
                for row, column in ((y - step, x), (y, x - step)):
                    high = torch.maximum(highest[row, column], image[y, x])
                    low = torch.minimum(lowest[row, column], image[y, x])
                    is_less = high - low < distance[y, x]
                    distance[y, x] = torch.where(is_less, high - low, distance[y, x])
                    highest[y, x] = torch.where(is_less, high, highest[y, x])
                    lowest[y, x] = torch.where(is_less, low, lowest[y, x])
    return distance.sum(-1)
