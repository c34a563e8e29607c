"""Small fully connected networks."""

import itertools

from torch import nn


def mlp(inputs: int, hidden: int, layers: int, outputs: int) -> nn.Sequential:
    """A ReLU network with `layers` hidden layers."""
    sizes = [inputs] + [hidden] * layers
    blocks: list[nn.Module] = []
    for size_in, size_out in itertools.pairwise(sizes):
        blocks += [nn.Linear(size_in, size_out), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks, nn.Linear(sizes[-1], outputs))
