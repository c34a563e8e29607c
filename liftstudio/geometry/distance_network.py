"""Signed distance as a multi-layer perceptron, as in NeuS."""

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
    """The signed-distance network of NeuS (Wang et al. 2021, appendix B)."""

    layers: Annotated[int, Range(1, 64)] = 8  # hidden layers
    hidden: PositiveInt = 256  # width of the hidden layers
    skip: NonNegativeInt = 4  # index (from 0) of the hidden layer that receives the input again; 0: none
    frequencies: Annotated[int, Range(0, 16)] = 6  # octaves of the positional encoding, besides the point itself

    def __post_init__(self) -> None:
        check_range("skip", self.skip, 0, self.layers - 1)
        minimum = 3 + 6 * self.frequencies + 1 if self.skip else 1
        if self.hidden < minimum:
            raise InputError(f"hidden: expected {minimum} or more, to leave room for the skip input, got {self.hidden}")


class DistanceNetwork(nn.Module):
    """Maps points [N, 3] in about [-1, 1]^3 to signed distances [N, 1]; initially those of a sphere."""

    def __init__(self, config: DistanceNetworkConfig, features: int = 0) -> None:
        """Build the network; features: width of the feature that comes with each distance."""
        super().__init__()
        self.config = config
        self.inputs = 3 + 6 * config.frequencies
        sizes = [self.inputs, *[config.hidden] * config.layers, 1 + features]
        outputs = [size - self.inputs if i == config.skip - 1 else size for i, size in enumerate(sizes[1:])]
        self.layers = nn.ModuleList(
            weight_norm(nn.Linear(size_in, size_out)) for size_in, size_out in zip(sizes, outputs, strict=False)
        )

    @torch.no_grad()
    def reset(self, radius: float, generator: torch.Generator) -> None:
        """Draw all parameters such that the output approximates a sphere (Atzmon and Lipman 2020, SAL, theorem 1).

        The weights of the sines and cosines start at zero: at first the distance depends on the point alone.
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
            layer.weight = weight  # sets both parts of the weight normalisation

    def forward(self, points: Tensor) -> Tensor:
        """Signed distance [N, 1] in the units of the points [N, 3]."""
        return self.with_features(points)[:, :1]

    def with_features(self, points: Tensor) -> Tensor:
        """Signed distance, as by `forward`, and feature [N, 1 + features] of points [N, 3]."""
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
