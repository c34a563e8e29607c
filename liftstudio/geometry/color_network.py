"""Colour as a multi-layer perceptron of point, viewing direction, normal and feature, as in NeuS."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from liftstudio.core.ranges import PositiveInt, Range


@dataclass
class ColorNetworkConfig:
    """The colour network of NeuS (Wang et al. 2021, appendix B)."""

    layers: Annotated[int, Range(1, 64)] = 4  # hidden layers
    hidden: PositiveInt = 256  # width of the hidden layers, and of the distance network's feature
    frequencies: Annotated[int, Range(0, 16)] = 4  # octaves of the encoding of directions, besides the direction itself


class ColorNetwork(nn.Module):
    """Maps points, directions and normals, each [N, 3], and features [N, hidden] to colours before the sigmoid.

    The direction is that in which the viewer would be mirrored at the surface, as in SyncDreamer's release.
    """

    def __init__(self, config: ColorNetworkConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        inputs = 3 + 3 * (1 + 2 * config.frequencies) + 3 + config.hidden
        sizes = [inputs, *[config.hidden] * config.layers, outputs]
        self.layers = nn.ModuleList(weight_norm(nn.Linear(*pair)) for pair in itertools.pairwise(sizes))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw new random values for all parameters."""
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            weight = torch.empty_like(layer.weight)
            nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
            layer.weight = weight  # sets both parts of the weight normalisation
            nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor, viewers: Tensor, normals: Tensor, features: Tensor) -> Tensor:
        """Return [N, outputs]; viewers: unit directions [N, 3] from the points to the cameras."""
        mirrored = 2 * (viewers * normals).sum(-1, keepdim=True) * normals - viewers
        hidden = torch.cat([points, *self._encoded(mirrored), normals, features], dim=-1)
        *layers, last = self.layers
        for layer in layers:
            hidden = F.relu(layer(hidden))
        output: Tensor = last(hidden)
        return output

    def _encoded(self, directions: Tensor) -> Iterator[Tensor]:
        yield directions
        for octave in range(self.config.frequencies):
            yield from (torch.sin(2.0**octave * directions), torch.cos(2.0**octave * directions))
