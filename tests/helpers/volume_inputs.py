"""Random inputs of the priors that lift images into volumes, and random weights for them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.priors.projections import projections


def perturb(network: nn.Module, generator: torch.Generator) -> None:
    """Add noise to all weights, so that no zero hides a fault."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def random_cameras(count: int, generator: torch.Generator, height: int = 24, width: int = 32) -> Cameras:
    """Return pinhole cameras around the origin, with unequal focal lengths and off-centre principal points."""
    azimuth, elevation, distance = torch.rand(3, count, generator=generator)
    cameras = orbit_cameras(360 * azimuth, 160 * elevation - 80, 2.5 + 2 * distance, 40.0, height, width)
    return replace(cameras, fx=cameras.fx * 1.3, cx=cameras.cx + 3.3, cy=cameras.cy - 2.7)


def random_rays(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rays [1, N, 3] from a sphere of radius 3 to points in and around the middle of the volume."""
    origins = 3 * F.normalize(torch.randn(1, count, 3, generator=generator), dim=-1)
    targets = 2.4 * torch.rand(1, count, 3, generator=generator) - 1.2
    return origins, F.normalize(targets - origins, dim=-1)


def random_views(views: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return, for two objects, input image and projection (arguments of `look`), and the other arguments of `lift`."""
    matrices = projections(random_cameras(2 * views + 2, generator, size, size))
    images = torch.rand(2, 4, size, size, generator=generator) * 2 - 1
    noisy = 3 * torch.randn(2, views, 4, size, size, generator=generator)
    sigma, yes = torch.tensor([3.0, 20.0]), torch.ones(2, dtype=torch.bool)
    return [images, matrices[:2], noisy, matrices[2:].unflatten(0, (2, views)), sigma, yes, yes]
