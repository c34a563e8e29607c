"""Instant-NGP: a density field in a hash grid."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.geometry.base import Geometry
from liftstudio.geometry.hash_field import HashField, HashFieldConfig
from liftstudio.registry import register


@register("instant-ngp")
class InstantNGP(Geometry):
    """Density field: hash grid and a small network (Mueller et al. 2022), with a blob as the initial shape."""

    @dataclass
    class Config(Geometry.Config):
        radius: float = 1.0  # half the side of the cube that may hold the object, world units
        grid: HashFieldConfig = field(default_factory=HashFieldConfig)  # hash grid and network
        features: int = 3  # appearance features per point
        density_bias: float = -3.0  # added to the network's output before the softplus; lower: emptier at the start
        blob_density: float = 0.0  # height of the initial blob before the softplus; 0: no blob
        blob_radius: float = 0.5  # where the blob falls to half its height, as a part of `radius`

    def __init__(self, config: Config, *, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        corner = torch.full((3,), config.radius, device=device)
        self.register_buffer("box", torch.stack([-corner, corner]))
        self.hash_field = HashField(config.grid, 1 + config.features, self.box).to(device)
        self.hash_field.reset(generator)

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.hash_field(points)
        raw = outputs[:, :1] + self.config.density_bias + self._blob(points)
        # A softplus of slope 1 per object radius would need huge outputs to be opaque: scale to the box.
        density = F.softplus(raw) * (10.0 / self.config.radius)
        return density, outputs[:, 1:]

    def _blob(self, points: Tensor) -> Tensor:
        distance = points.norm(dim=-1, keepdim=True) / (self.config.radius * self.config.blob_radius)
        return self.config.blob_density * (1 - 0.5 * distance)

    def normals(self, points: Tensor) -> Tensor:
        """Analytic: the negated, normalised gradient of the density; differentiable when gradients are enabled."""
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_()
            density = self.field(points)[0]
            (gradient,) = torch.autograd.grad(density.sum(), points, create_graph=create_graph)
        return -F.normalize(gradient, dim=-1, eps=1e-8)
