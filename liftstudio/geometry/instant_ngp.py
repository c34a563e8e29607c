"""Instant-NGP: a density field encoded by a hash grid."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.config import ExportOnly
from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.data.mesh import Mesh
from liftstudio.geometry.base import Features, Geometry, NormalStep, Radius
from liftstudio.geometry.gradients import analytic_gradient, difference_gradient
from liftstudio.geometry.hash_field import HashField, HashFieldConfig, check_levels_used
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, tet_grid

OPAQUE_DEPTH = 1.0  # optical depth that counts as a surface
CHUNK = 1 << 18  # points evaluated at a time without gradients

SurfaceLevel = Annotated[float, Range(0), ExportOnly()]
SurfaceResolution = Annotated[int, Range(2, 256), ExportOnly()]


@register("instant-ngp")
class InstantNGP(Geometry):
    """Density field: a hash grid and a small network (Mueller et al. 2022), with a blob as the initial shape."""

    @dataclass
    class Config(Geometry.Config):
        radius: Radius = 1.0  # half the side of the cube that may hold the object, world units
        grid: HashFieldConfig = field(default_factory=HashFieldConfig)  # hash grid and network
        levels_used: Schedule | None = None  # number of coarsest hash levels in use, by step; none: always all
        features: Features = 3  # appearance features per point
        density_bias: float = -4.0  # added to the network's output before the softplus; lower: emptier at the start
        blob_density: float = 0.0  # height of the initial blob before the softplus; 0: no blob
        blob_radius: Annotated[float, Range(1e-3)] = 0.5  # radius at half the blob's height, as a fraction of `radius`
        normals: Literal["finite-difference", "analytic"] = "finite-difference"  # how normals are computed
        normal_step: NormalStep = 0.01  # half the span of finite differences, as a fraction of `radius`
        surface_level: SurfaceLevel = 0.0  # density of the exported surface, 1/unit; 0: opaque in 0.05 `radius`
        surface_resolution: SurfaceResolution = 160  # of the tetrahedral grid for export, as in `dmtet`

        def __post_init__(self) -> None:
            check_levels_used(self.levels_used, self.grid)

    def __init__(self, config: Config, *, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        corner = torch.full((3,), config.radius, device=device)
        self.register_buffer("box", torch.stack([-corner, corner]))
        self.hash_field = HashField(config.grid, 1 + config.features, self.box).to(device)
        self.hash_field.reset(generator)

    def update(self, step: int) -> None:
        """Use the number of hash levels that `levels_used` gives for this step (0-based in the stage)."""
        if self.config.levels_used is not None:
            self.hash_field.use_levels(self.config.levels_used(step))

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N, 1] >= 0 (per world unit) and features [N, F] at world points [N, 3]."""
        raw, features = self._raw_field(points)
        # With a slope of 1 per object radius, opacity would need huge outputs; hence the scale relative to the box.
        return F.softplus(raw) * (10.0 / self.config.radius), features

    def _raw_field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density before the softplus [N, 1] and features [N, F]."""
        outputs = self.hash_field(points)
        return outputs[:, :1] + self.config.density_bias + self._blob(points), outputs[:, 1:]

    def _blob(self, points: Tensor) -> Tensor:
        distance = points.norm(dim=-1, keepdim=True) / (self.config.radius * self.config.blob_radius)
        return self.config.blob_density * (1 - 0.5 * distance)

    def normals(self, points: Tensor) -> Tensor:
        """Negated, normalised gradient [N, 3] of the density; differentiable when gradients are enabled.

        It is taken before the softplus: the direction is the same, and the less curved field makes finite differences
        more accurate.
        """
        if self.config.normals == "analytic":
            gradient = analytic_gradient(self._raw_density, points)
        else:
            gradient = difference_gradient(self._raw_density, points, self.config.normal_step * self.config.radius)
        return -F.normalize(gradient, dim=-1, eps=1e-8)

    def _raw_density(self, points: Tensor) -> Tensor:
        return self._raw_field(points)[0]

    def mesh(self) -> Mesh:
        """The surface where the density equals `surface_level`; no gradients."""
        grid = tet_grid(self.config.surface_resolution).to(self.box.device)
        positions = grid.vertices * self.config.radius
        with torch.no_grad():
            return marching_tetrahedra(positions, self._level() - self._densities(positions), grid)

    def _level(self) -> float:
        return self.config.surface_level or OPAQUE_DEPTH / (0.05 * self.config.radius)

    def _densities(self, points: Tensor) -> Tensor:
        return torch.cat([self.field(chunk)[0][:, 0] for chunk in points.split(CHUNK)])

    @torch.no_grad()
    def describe_level(self) -> str:
        """The range of the density, the level of the surface, and a level within the range."""
        positions = tet_grid(self.config.surface_resolution).to(self.box.device).vertices * self.config.radius
        density = self._densities(positions)
        low, high = density.min().item(), density.max().item()
        return (
            f"the density ranges from {low:.3g} to {high:.3g}, the level of the surface is {self._level():.3g}; "
            f"try {self.key}.geometry.surface_level={(low + high) / 2:.3g}"
        )
