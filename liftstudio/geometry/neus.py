"""NeuS: a signed distance field that is rendered as a volume."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.config import ExportOnly
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.data.mesh import Mesh
from liftstudio.geometry.base import Features, Geometry, NormalStep, Radius
from liftstudio.geometry.color_network import ColorNetwork, ColorNetworkConfig
from liftstudio.geometry.distance_network import DistanceNetwork, DistanceNetworkConfig
from liftstudio.geometry.gradients import analytic_gradient, difference_gradient
from liftstudio.geometry.hash_field import HashField, HashFieldConfig, HashLevels, HashResolution, check_levels_used
from liftstudio.ops.marching_cubes import marching_cubes

CHUNK = 1 << 18  # points evaluated at a time without gradients
SHARPEST = 1e6  # per world unit
GRADIENT_POINTS = 2048  # points of `sdf_gradients`
CANDIDATES = 4  # points drawn for each point kept

SurfaceResolution = Annotated[int, Range(2, 1024), ExportOnly()]


@dataclass
class DistanceGridConfig(HashFieldConfig):
    """Hash grid of the distance: coarser than the appearance grid, as textures are finer and unused detail is noise."""

    levels: HashLevels = 12  # resolution levels of the hash grid
    finest_resolution: HashResolution = 128  # cells per side at the finest level
    precision: Literal["auto", "bfloat16", "float32"] = "float32"  # the 8 bits of bfloat16 are too few for a distance


@register("neus")
class NeuS(Geometry):
    """Signed distance as a hash grid or a network, rendered as a volume by the renderer `neus` (NeuS)."""

    @dataclass
    class Config(Geometry.Config):
        radius: Radius = 1.0  # half the side of the cube that may hold the object, world units
        distance: Literal["hash-grid", "network"] = "hash-grid"  # representation of the signed distance
        distance_grid: DistanceGridConfig = field(default_factory=DistanceGridConfig)  # for `distance: hash-grid`
        levels_used: Schedule | None = None  # number of its coarsest levels in use, by step; none: always all
        network: DistanceNetworkConfig = field(default_factory=DistanceNetworkConfig)  # for `distance: network`
        colors: Literal["hash-grid", "network"] = "hash-grid"  # appearance: of points, or of viewing directions as well
        color_network: ColorNetworkConfig = field(default_factory=ColorNetworkConfig)  # for `colors: network`
        grid: HashFieldConfig = field(default_factory=HashFieldConfig)  # appearance field, for `colors: hash-grid`
        features: Features = 3  # appearance features per point
        sphere_radius: Annotated[float, Range(0.01, 1)] = 0.5  # initial sphere, as a fraction of `radius`
        sharpness: Annotated[float, Range(1e-3, SHARPEST)] = 20.0  # initial s, learned; surface width 1/s, world units
        normals: Literal["finite-difference", "analytic"] = "finite-difference"  # how gradients are computed
        normal_step: NormalStep = 0.01  # half the span of differences, fraction of `radius`; at least half a hash cell
        surface_resolution: SurfaceResolution = 192  # cells per side of the cube for the export

        def __post_init__(self) -> None:
            check_levels_used(self.levels_used, self.distance_grid)
            if self.colors == "network" and self.distance != "network":
                raise InputError(
                    "colors: expected hash-grid, since only `distance: network` has the network's features"
                )

    def __init__(self, config: Config, *, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        corner = torch.full((3,), config.radius, device=device)
        self.register_buffer("box", torch.stack([-corner, corner]))
        self.distance: HashField | DistanceNetwork
        if config.distance == "network":
            width = config.color_network.hidden if config.colors == "network" else 0
            self.distance = DistanceNetwork(config.network, width).to(device)
            self.distance.reset(config.sphere_radius, generator)
        else:
            self.distance = HashField(config.distance_grid, 1, self.box).to(device)
            self.distance.reset(generator)
        if config.colors == "network":
            self.color_network = ColorNetwork(config.color_network, config.features).to(device)
            self.color_network.reset(generator)
        else:
            self.hash_field = HashField(config.grid, 1 + config.features, self.box).to(device)
            self.hash_field.reset(generator)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness), device=device))

    def update(self, step: int) -> None:
        """Use the number of hash levels that `levels_used` gives for this step (0-based in the stage)."""
        if self.config.levels_used is not None and isinstance(self.distance, HashField):
            self.distance.use_levels(self.config.levels_used(step))

    def sharpness(self) -> Tensor:
        """See `Geometry.sharpness`."""
        return self.log_sharpness.exp().clamp_max(SHARPEST)

    def signed_distance(self, points: Tensor) -> Tensor:
        """See `Geometry.signed_distance`."""
        if isinstance(self.distance, DistanceNetwork):
            return self.config.radius * self.distance(points / self.config.radius)
        sphere = points.norm(dim=-1, keepdim=True) - self.config.radius * self.config.sphere_radius
        return sphere + self.config.radius * self.distance(points)

    def features(self, points: Tensor) -> Tensor:
        """Appearance features [N, F] at world points [N, 3]; points outside the box are clamped to its border.

        With `colors: network` as seen along the normal, as SyncDreamer's release colours the vertices of its meshes.
        """
        if self.config.colors == "network":
            normals = self.normals(points)
            return self._colors(points, normals, normals)
        return self.hash_field(points)[:, 1:]

    def features_seen(self, points: Tensor, viewers: Tensor) -> Tensor:
        """See `Geometry.features_seen`; only `colors: network` depends on the direction."""
        if self.config.colors == "network":
            return self._colors(points, viewers, self.normals(points))
        return self.features(points)

    def _colors(self, points: Tensor, viewers: Tensor, normals: Tensor) -> Tensor:
        assert isinstance(self.distance, DistanceNetwork), "checked by the config"
        unit = points / self.config.radius
        features = self.distance.with_features(unit)[:, 1:]
        colors: Tensor = self.color_network(unit, viewers, normals, features)
        return colors

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [N, 1] (per world unit) of eq. 10 for rays perpendicular to the surface, and features [N, F]."""
        sharpness = self.sharpness()
        return sharpness * torch.sigmoid(-sharpness * self.signed_distance(points)), self.features(points)

    def normals(self, points: Tensor) -> Tensor:
        """Normalised gradient [N, 3] of the distance; differentiable when gradients are enabled."""
        return F.normalize(self._gradient(points), dim=-1, eps=1e-8)

    def sdf_gradients(self, generator: torch.Generator) -> Tensor:
        """Gradients [N, 3] at random points of the box: of all points drawn, those nearest to the surface."""
        unit = torch.rand(CANDIDATES * GRADIENT_POINTS, 3, generator=generator, device=self.box.device)
        points = self.box[0] + (self.box[1] - self.box[0]) * unit
        with torch.no_grad():
            distance = self.signed_distance(points)[:, 0].abs()
        return self._gradient(points[distance.topk(GRADIENT_POINTS, largest=False).indices])

    def _gradient(self, points: Tensor) -> Tensor:
        if self.config.normals == "analytic":
            return analytic_gradient(self.signed_distance, points)
        return difference_gradient(self.signed_distance, points, self.config.radius * self._step())

    def _step(self) -> float:
        """Finite-difference step, fraction of `radius`; spans at least a cell (Li et al. 2023, Neuralangelo)."""
        if isinstance(self.distance, DistanceNetwork):
            return self.config.normal_step
        spec = self.distance.spec
        used = int(self.distance.level_weights.count_nonzero()) // spec.features
        return max(self.config.normal_step, 1 / spec.scales[max(used, 1) - 1])

    @torch.no_grad()
    def mesh(self) -> Mesh:
        """The zero level set, without gradients. The border counts as outside, so the surface is closed."""
        distances = F.pad(self._lattice()[1:-1, 1:-1, 1:-1], [1] * 6, value=self.config.radius)
        return marching_cubes(distances, self.box)

    def _lattice(self) -> Tensor:
        """Signed distances [R + 1, R + 1, R + 1] at the corners of the cells."""
        count = self.config.surface_resolution + 1
        side = torch.linspace(-self.config.radius, self.config.radius, count, device=self.box.device)
        slabs = (torch.cartesian_prod(part, side, side) for part in side.split(max(1, CHUNK // count**2)))
        return torch.cat([self.signed_distance(points) for points in slabs]).view(count, count, count)

    @torch.no_grad()
    def describe_level(self) -> str:
        """The range of the signed distance, and settings that keep the surface from vanishing."""
        low, high = (end.item() for end in self._lattice().aminmax())
        return (
            f"the signed distance ranges from {low:.3g} to {high:.3g} and never crosses 0; "
            f"lower {self.key}.optimizer.lr or raise lambda_mask in {self.key}.guidance"
        )
