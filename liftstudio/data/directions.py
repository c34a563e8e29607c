"""Directions: spread evenly over the sphere, and those of the pixels of environment maps."""

import math

import torch
from torch import Tensor


def fibonacci_sphere(count: int) -> Tensor:
    """Unit vectors [count, 3] spread evenly over the sphere."""
    index = torch.arange(count) + 0.5
    z = 1 - 2 * index / count
    longitude = index * math.pi * (1 + math.sqrt(5))
    ring = torch.sqrt(1 - z**2)
    return torch.stack([ring * torch.cos(longitude), ring * torch.sin(longitude), z], dim=-1)


def equirectangular(height: int) -> tuple[Tensor, Tensor]:
    """Return unit directions [H, 2H, 3] at the pixel centres of an environment map, and their solid angles [H, 1].

    Row 0 is straight up (+z). The middle column looks along +x, where the object's front is; azimuths fall from
    left to right, as for one who stands inside and looks out: +y is at a quarter of the width, -y at three quarters.
    The solid angles of all pixels, in steradians, sum to 4 pi.
    """
    edges = torch.linspace(0, math.pi, height + 1, dtype=torch.float64)
    polar = (edges[:-1] + edges[1:]) / 2
    azimuth = math.pi * (1 - (torch.arange(2 * height, dtype=torch.float64) + 0.5) / height)
    ring, z = torch.sin(polar)[:, None], torch.cos(polar)[:, None].expand(height, 2 * height)
    directions = torch.stack([ring * torch.cos(azimuth), ring * torch.sin(azimuth), z], dim=-1)
    areas = (torch.cos(edges[:-1]) - torch.cos(edges[1:])) * math.pi / height
    return directions.float(), areas[:, None].float()
