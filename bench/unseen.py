"""Unseen objects for benchmarks, and statistics over them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from liftstudio.synthetic import Kind, Split, TexturedObject, make_object, split
from liftstudio.training.rigs import RigConfig

RIG = RigConfig()  # the ranges in which priors are trained


def uniform(least: float, most: float, generator: torch.Generator) -> float:
    """Draw a number from [least, most)."""
    return least + (most - least) * torch.rand((), generator=generator).item()


def turned(obj: TexturedObject, angle_deg: float) -> TexturedObject:
    """Return the object and its light rotated about z, counter-clockwise seen from above."""
    angle = math.radians(angle_deg)
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    back = np.block([[turn.T, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])  # textures use unrotated points
    x, y, z = turn @ obj.light.direction
    return replace(
        obj,
        vertices=(obj.vertices @ turn.T).astype(np.float32),
        normals=(obj.normals @ turn.T).astype(np.float32),
        frames=np.ascontiguousarray(obj.frames @ back),
        light=replace(obj.light, direction=(x, y, z)),
    )


def canonical(kind: Kind, index: int, part: Split = "unseen") -> TexturedObject:
    """Return object `index`, its front at azimuth 0."""
    return make_object(kind, split(index, kind, part))


def front_deg(index: int) -> float:
    """Return the azimuth of the front of object `index` relative to its input view: within 46 degrees."""
    return uniform(-RIG.input_azimuth_deg, RIG.input_azimuth_deg, torch.Generator().manual_seed(index))


def prompted(kind: Kind, index: int, part: Split = "unseen") -> TexturedObject:
    """Return object `index`, rotated so that its input view has azimuth 0."""
    return turned(canonical(kind, index, part), front_deg(index))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error (NaN for fewer than two values)."""
    spread = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return float(np.mean(values)), float(spread / math.sqrt(len(values)))


def with_error(values: Sequence[float], digits: int) -> str:
    """Return mean ± standard error as text."""
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f}" if math.isnan(error) else f"{mean:.{digits}f} ± {error:.{digits}f}"
