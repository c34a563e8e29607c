"""Hash-grid fields: a hash encoding of points followed by a small network."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.checks import check_range
from liftstudio.core.devices import kind_of
from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.core.schedules import Schedule
from liftstudio.core.shares import OrShare, Share
from liftstudio.ops.backends import fast_bfloat16
from liftstudio.ops.hash_grid import HashGridSpec, hash_encode
from liftstudio.ops.mlp import mlp

HashLevels = Annotated[int, Range(1, 32)]
HashResolution = Annotated[int, Range(1, 1 << 16), OrShare()]


@dataclass
class HashFieldConfig:
    """A multi-resolution hash grid and the network after it (Instant-NGP, Mueller et al. 2022)."""

    levels: HashLevels = 16  # resolution levels of the hash grid
    features_per_level: Annotated[int, Range(1, 8)] = 2  # features per grid vertex
    log2_table_size: Annotated[int, Range(0, 24)] = 0  # log2 of the entries per level; 0: 15 on the CPU, 19 on CUDA
    base_resolution: PositiveInt = 16  # cells per side at the coarsest level
    finest_resolution: HashResolution = 512  # cells per side at the finest level
    hidden: PositiveInt = 64  # width of the network's hidden layers
    layers: NonNegativeInt = 1  # hidden layers of the network
    precision: Literal["auto", "bfloat16", "float32"] = "auto"  # of the network's matrix products; auto: the faster

    def __post_init__(self) -> None:
        if not isinstance(self.finest_resolution, Share):
            check_range("finest_resolution", self.finest_resolution, self.base_resolution)


def check_levels_used(levels_used: Schedule | None, config: HashFieldConfig) -> None:
    """Raise an InputError if a value of the schedule is negative or exceeds the number of levels."""
    for _, value in levels_used.points if levels_used else ():
        check_range("levels_used", value, 0, config.levels)


class HashField(nn.Module):
    """Maps world points [N, 3] in a box to outputs [N, outputs]."""

    box: Tensor
    level_weights: Tensor

    def __init__(self, config: HashFieldConfig, outputs: int, box: Tensor) -> None:
        super().__init__()
        log2_table_size = config.log2_table_size or (19 if kind_of(box.device) == "cuda" else 15)
        self.spec = HashGridSpec(
            config.levels, config.features_per_level, log2_table_size, config.base_resolution, config.finest_resolution
        )
        self.used = self.spec  # the levels that are encoded; finer ones have a weight of 0
        self.register_buffer("box", box.clone())
        self.register_buffer("level_weights", torch.ones(self.spec.output_size, device=box.device))
        self.table = nn.Parameter(torch.empty(self.spec.entries, self.spec.features))
        self.network = mlp(self.spec.output_size, config.hidden, config.layers, outputs)
        self.precision = config.precision

    def reset(self, generator: torch.Generator) -> None:
        """Draw new random values for all parameters."""
        with torch.no_grad():
            self.table.uniform_(-1e-4, 1e-4, generator=generator)
            for layer in self.network:
                if isinstance(layer, nn.Linear):
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
                    nn.init.zeros_(layer.bias)

    def use_levels(self, count: float) -> None:
        """Use only the `count` coarsest levels; a fractional `count` weights the last of them by its fraction."""
        self.used = self.spec.coarsest(min(max(math.ceil(count), 1), self.spec.levels))
        levels = torch.arange(self.spec.levels, device=self.level_weights.device)
        self.level_weights.copy_((count - levels).clamp(0, 1).repeat_interleave(self.spec.features))

    def forward(self, points: Tensor) -> Tensor:
        """Outputs [N, outputs] float32 at world points [N, 3]; points outside the box are clamped to its border."""
        unit = (points - self.box[0]) / (self.box[1] - self.box[0])
        encoded = hash_encode(unit.clamp(0, 1), self.table[: self.used.entries], self.used)
        encoded = F.pad(encoded, (0, self.spec.output_size - self.used.output_size)) * self.level_weights
        device_type = points.device.type
        low = self.precision == "bfloat16" or (self.precision == "auto" and fast_bfloat16(device_type))
        with torch.autocast(device_type, torch.bfloat16, enabled=low):
            return self.network(encoded).float()
