"""Procedural textures: each part mixes two colours by a function of part coordinates (u, v, w).

w runs from -1 to 1 along the axis of the part, u and v run across it.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Color = tuple[float, float, float]


class Pattern(IntEnum):
    """How the two colours mix, and what `Texture.count` and `Texture.shift` mean."""

    SOLID = 0  # unused; only the first colour
    STRIPES = 1  # count: bands along w
    GRADIENT = 2  # unused; from the first colour at w = -1 to the second at 1
    HALVES = 3  # shift: the second colour is where w > shift
    CHECKS = 4  # count: cells along each axis
    SPOTS = 5  # count: cells along each axis, a ball in each; shift: its radius in cells, below 0.5
    WAVES = 6  # count: half-waves along w; shift: phase in radians


@dataclass(frozen=True)
class Texture:
    """A pattern of two colours, sRGB in [0, 1]."""

    pattern: Pattern
    first: Color
    second: Color = (0.0, 0.0, 0.0)
    count: float = 1.0
    shift: float = 0.0


@njit(nogil=True, cache=True)
def mix(pattern: int, count: float, shift: float, u: float, v: float, w: float) -> float:
    """Return the share of the second colour, in [0, 1], at part coordinates (u, v, w)."""
    if pattern == 1:
        inside = min(max(w, -0.9999), 0.9999)  # flat caps lie at exactly -1 and 1
        return float(math.floor(0.5 * (inside + 1.0) * count) & 1)
    if pattern == 2:
        return min(max(0.5 * (w + 1.0), 0.0), 1.0)
    if pattern == 3:
        return 1.0 if w > shift else 0.0
    if pattern == 4:
        cells = math.floor(0.5 * u * count) + math.floor(0.5 * v * count) + math.floor(0.5 * w * count)
        return float(cells & 1)
    if pattern == 5:
        x, y, z = 0.5 * u * count, 0.5 * v * count, 0.5 * w * count
        x, y, z = x - math.floor(x) - 0.5, y - math.floor(y) - 0.5, z - math.floor(z) - 0.5
        return 1.0 if x * x + y * y + z * z < shift * shift else 0.0
    if pattern == 6:
        bend = 0.35 * math.sin(2.5 * u + shift) + 0.35 * math.sin(2.5 * v + 2.0 * shift)
        return 0.5 + 0.5 * math.sin(0.5 * math.pi * count * (w + bend))
    return 0.0


@njit(nogil=True, cache=True)
def albedo(
    points: Floats, part: NDArray[np.int64], patterns: NDArray[np.int64], settings: Floats, frames: Floats,
    colors: Floats, out: Floats,
) -> None:  # fmt: skip
    """Set out[n] to the sRGB albedo at world points [N, 3] on parts [N]; other arrays as in `TexturedObject`."""
    for n in range(len(points)):
        k, x, y, z = part[n], points[n, 0], points[n, 1], points[n, 2]
        frame = frames[k]
        u = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z + frame[0, 3]
        v = frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z + frame[1, 3]
        w = frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + frame[2, 3]
        share = mix(patterns[k], settings[k, 0], settings[k, 1], u, v, w)
        for channel in range(3):
            out[n, channel] = (1.0 - share) * colors[k, 0, channel] + share * colors[k, 1, channel]
