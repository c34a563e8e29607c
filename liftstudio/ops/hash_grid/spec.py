"""Layout of the multiresolution hash grid: the table row of each grid corner."""

import functools
import math
from dataclasses import dataclass, replace

import numpy as np

# Spatial hash primes of Mueller et al. 2022, "Instant Neural Graphics Primitives", eq. 4.
PRIMES = (1, 2654435761, 805459861)


@dataclass(frozen=True)
class HashGridSpec:
    """Layout of a 3D multiresolution hash grid, identical to that of tiny-cuda-nn's `HashGrid`.

    Level `l` has `scale = base_resolution * b^l - 1`, with `b` such that the last level (of all `of_levels`) reaches
    `finest_resolution`, and `resolution = ceil(scale) + 1` corners per axis. A point `x` in [0, 1]^3 lies at
    `x * scale + 0.5` in units of cells. A level owns `min(resolution^3 rounded up to a multiple of 8,
    2^log2_table_size)` consecutive rows; levels are stored one after another, coarsest first. Corner (i, j, k) uses row
    `i + j * resolution + k * resolution^2` if all corners fit (a dense level), otherwise
    `i * 1 xor j * 2654435761 xor k * 805459861`, both modulo the level's number of rows.

    As in tiny-cuda-nn, the last cell of a dense level may reach one corner beyond the grid; that corner uses whatever
    row its index gives.

    Source: Mueller et al. 2022, "Instant Neural Graphics Primitives", sections 3-4.

    Raises:
        ValueError: a field is out of range, or the table would have 2^31 rows or more.
    """

    levels: int = 16
    features: int = 2
    log2_table_size: int = 15
    base_resolution: int = 16
    finest_resolution: int = 2048
    of_levels: int = 0  # levels of the full grid, if this is only its coarsest part; 0: this is the full grid

    def __post_init__(self) -> None:
        for name in ("levels", "features", "log2_table_size", "base_resolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"hash grid: {name} must be at least 1, got {getattr(self, name)}")
        if 0 < self.of_levels < self.levels:
            raise ValueError(f"hash grid: levels {self.levels} exceeds of_levels {self.of_levels}")
        if self.finest_resolution < self.base_resolution:
            raise ValueError(
                f"hash grid: finest_resolution {self.finest_resolution} is below base_resolution {self.base_resolution}"
            )
        if self.entries >= 2**31:
            raise ValueError(f"hash grid: {self.entries} table rows; at most 2^31 - 1 are supported")

    def coarsest(self, levels: int) -> "HashGridSpec":
        """The grid of only the coarsest `levels`, whose rows come first in the table."""
        return replace(self, levels=levels, of_levels=self.of_levels or self.levels)

    @functools.cached_property
    def per_level_scale(self) -> float:
        """Growth factor of the resolution from one level to the next."""
        steps = max((self.of_levels or self.levels) - 1, 1)
        return math.exp(math.log(self.finest_resolution / self.base_resolution) / steps)

    @functools.cached_property
    def scales(self) -> tuple[float, ...]:
        """Cells per unit length of each level, rounded to float32 as tiny-cuda-nn computes them."""
        growth = np.log2(np.float32(self.per_level_scale))
        levels = np.arange(self.levels, dtype=np.float32)
        return tuple((np.exp2(levels * growth) * np.float32(self.base_resolution) - np.float32(1)).tolist())

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Corners per axis of each level."""
        return tuple(math.ceil(scale) + 1 for scale in self.scales)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Table rows of each level."""
        return tuple(min(-(-(r**3) // 8) * 8, 2**self.log2_table_size) for r in self.resolutions)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First table row of each level."""
        return tuple(sum(self.sizes[:level]) for level in range(self.levels))

    @functools.cached_property
    def hashed(self) -> tuple[bool, ...]:
        """Whether each level is hashed, as it has more corners than rows."""
        return tuple(r**3 > size for r, size in zip(self.resolutions, self.sizes, strict=True))

    @property
    def entries(self) -> int:
        """Table rows of all levels."""
        return sum(self.sizes)

    @property
    def output_size(self) -> int:
        """Length of one point's encoding: levels x features, level-major."""
        return self.levels * self.features
