"""A signed distance in a plain network, as NeuS has it."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from liftstudio.core.checks import check_range
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range


@dataclass
class DistanceNetworkConfig:
    """The network of NeuS (Wang et al. 2021, appendix B)."""

    layers: Annotated[int, Range(1, 64)] = 8  # hidden layers
    hidden: PositiveInt = 256  # width of the hidden layers
    skip: NonNegativeInt = 4  # hidden layer, from 0, that sees the input once more; 0: none
    frequencies: Annotated[int, Range(0, 16)] = 6  # octaves of sines and cosines the network sees beside the point

    def __post_init__(self) -> None:
        check_range("skip", self.skip, 0, self.layers - 1)
        least = 3 + 6 * self.frequencies + 1 if self.skip else 1
        if self.hidden < least:
            raise InputError(f"hidden: expected {least} or more, so that the skip leaves room, got {self.hidden}")


class DistanceNetwork(nn.Module):
    """Points [N, 3] in about [-1, 1]^3 -> signed distance [N, 1]; a sphere at the start."""

    def __init__(self, config: DistanceNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = 3 + 6 * config.frequencies
        sizes = [self.inputs, *[config.hidden] * config.layers, 1]
        outputs = [size - self.inputs if i == config.skip - 1 else size for i, size in enumerate(sizes[1:])]
        self.layers = nn.ModuleList(
            weight_norm(nn.Linear(size_in, size_out)) for size_in, size_out in zip(sizes, outputs, strict=False)
        )

    @torch.no_grad()
    def reset(self, radius: float, generator: torch.Generator) -> None:
        """Draw all parameters anew, about those of a sphere: Atzmon and Lipman 2020 (SAL), theorem 1.

        The sines and cosines count nothing at first, so that only the point itself tells the distance.
        """
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, nn.Linear)
            weight = torch.empty_like(layer.weight)
            nn.init.normal_(weight, 0.0, math.sqrt(2 / len(weight)), generator=generator)
            if index == 0:
                weight[:, 3:] = 0
            elif index == self.config.skip:
                weight[:, weight.shape[1] - self.inputs + 3 :] = 0
            nn.init.zeros_(layer.bias)
            if index == len(self.layers) - 1:
                nn.init.normal_(weight, math.sqrt(math.pi / weight.shape[1]), 1e-4, generator=generator)
                nn.init.constant_(layer.bias, -radius)
            layer.weight = weight  # sets both parts of the normalised weight

    def forward(self, points: Tensor) -> Tensor:
        """[N, 1] in the unit of the points [N, 3]."""
        encoded = self._encoded(points)
        hidden = encoded
        for index, layer in enumerate(self.layers):
            if index and index == self.config.skip:
                hidden = torch.cat([hidden, encoded], dim=-1) / math.sqrt(2)
            hidden = layer(hidden)
            if index < len(self.layers) - 1:
                hidden = F.softplus(hidden, beta=100)
        return hidden

    def _encoded(self, points: Tensor) -> Tensor:
        octaves = (2.0**octave * points for octave in range(self.config.frequencies))
        return torch.cat([points, *itertools.chain(*((torch.sin(x), torch.cos(x)) for x in octaves))], dim=-1)
