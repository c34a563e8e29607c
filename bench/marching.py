"""Ray marching through a spherical shell: 16,384 rays, occupancy 128^3, about 1.3 M samples."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing import Case
from liftstudio.ops.backends import use_backend
from liftstudio.ops.marching import Samples, march

RAYS, RESOLUTION, STEP_SIZE = 16_384, 128, 0.0045


def shell_scene(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return origins and directions of rays into the box [-1, 1]^3, the occupancy of a shell, and the box."""
    generator = torch.Generator().manual_seed(0)
    origins = 2.5 * F.normalize(torch.randn(RAYS, 3, generator=generator), dim=1)
    directions = F.normalize(1.6 * torch.rand(RAYS, 3, generator=generator) - 0.8 - origins, dim=1)
    centres = (torch.arange(RESOLUTION) + 0.5) * 2 / RESOLUTION - 1
    radius = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij")).norm(dim=0)
    occupancy = (radius > 0.55) & (radius < 0.72)
    aabb = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    return origins.to(device), directions.to(device), occupancy.to(device), aabb.to(device)


def cases(device: torch.device) -> list[Case]:
    """Return one case: the fast backend of `device` against looking up every lattice sample in torch."""
    origins, directions, occupancy, aabb = shell_scene(device)

    def fast() -> Samples:
        return march(origins, directions, occupancy, aabb, STEP_SIZE)

    def reference() -> Samples:
        with use_backend("reference"):
            return fast()

    size = f"{RAYS} rays, {RESOLUTION}^3, {len(fast().t_start)} samples"
    return [Case("marching", size, fast, reference, "vectorised torch", target_ratio=5.0)]
