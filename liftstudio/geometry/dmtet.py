"""DMTet: a signed distance on a deformable tetrahedral grid."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, Range, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.shares import OrShare
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.geometry.base import PRIOR, Features, Geometry, Radius
from liftstudio.geometry.depth_fusion import FusedShape, fuse_depth, shape_inside
from liftstudio.geometry.hash_field import HashField, HashFieldConfig
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, subdivide, subdivided_resolution, tet_grid

FINEST = 256  # largest resolution of the grid
CELLS_ACROSS = 1.25  # cells across the thinnest object whose surface stays in one piece
MOST_MOVED = 0.9  # share of the largest deformation with which vertices start
KEPT_SHARE = 0.25  # of a shape's volume that must be left on the grid

TetResolution = Annotated[int, Range(2, FINEST), OrShare()]


@register("dmtet")
class DMTet(Geometry):
    """Surface of an explicit signed distance on a deformable tetrahedral grid (Shen et al. 2021)."""

    @dataclass
    class Config(Geometry.Config):
        radius: Radius = 1.0  # half the side of the cube that may hold the object, world units
        resolution: TetResolution = 64  # of the tetrahedral grid: 64 has 37k vertices, 128 has 273k
        subdivide: bool = False  # start with the cells of the dmtet of `from`, cut in two along each axis
        sphere_radius: UnitFloat = 0.5  # initial sphere, as a fraction of `radius`; used if no stage gives the shape
        margin: NonNegativeFloat = 0.08  # free space around the shape of a previous stage, fraction of its longest side
        grid: HashFieldConfig = field(default_factory=HashFieldConfig)  # appearance field
        features: Features = 3  # appearance features per point

        def __post_init__(self) -> None:
            if self.subdivide and self.from_ in ("", PRIOR):
                raise InputError("subdivide: expected false, since `from` names no stage whose cells could be cut")

        def following(self, source: Geometry.Config) -> "DMTet.Config":
            """See `Geometry.Config.following`; with `subdivide`, the resolution follows that of the source, too."""
            resolution = self.resolution
            if self.subdivide:
                if not isinstance(source, DMTet.Config):
                    raise InputError("subdivide: expected false, since `from` names a stage without tetrahedra")
                resolution = subdivided_resolution(source.resolution)
                if resolution > FINEST:
                    raise InputError(f"subdivide: {resolution} from {source.resolution} is above the finest, {FINEST}")
            return dataclasses.replace(cast(DMTet.Config, super().following(source)), resolution=resolution)

    def __init__(self, config: Config, *, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.grid = tet_grid(config.resolution).to(device)
        corner = torch.full((3,), config.radius, device=device)
        self.register_buffer("box", torch.stack([-corner, corner]))
        unit = self.grid.vertices  # in [-1, 1]
        self.sdf = nn.Parameter(unit.norm(dim=-1) - config.sphere_radius)  # in units of the box's half side
        self.deformation = nn.Parameter(torch.zeros_like(unit))  # before tanh, in units of `half_spacing`
        self.border = (unit.abs() == 1).any(-1)
        edges = unit[self.grid.edges[:, 0].long()] - unit[self.grid.edges[:, 1].long()]
        self.half_spacing = 0.5 * edges.norm(dim=-1).min().item()  # half the shortest edge
        self.hash_field = HashField(config.grid, 1 + config.features, self.box).to(device)
        self.hash_field.reset(generator)
        self.is_training_step = False  # from `update` to the optimiser's step, while the parameters do not change
        self.extracted: Mesh | None = None  # the surface in this training step

    def update(self, step: int) -> None:
        """From now on until the optimiser's step, extract the surface only once; all callers share it."""
        self.is_training_step, self.extracted = True, None

    def parameters_changed(self) -> None:
        """Drop the shared surface; until the next training step, each caller gets a new one."""
        self.is_training_step, self.extracted = False, None

    def _positions(self) -> Tensor:
        unit = self.grid.vertices + torch.tanh(self.deformation) * self.half_spacing
        return self.box.mean(0) + unit * (self.box[1] - self.box[0]) / 2

    def mesh(self) -> Mesh:
        """The zero level set. The border of the grid counts as outside, so the surface is closed."""
        if not self.is_training_step:
            return self._extract()
        wants_graph = torch.is_grad_enabled() and not self.holds_shape
        if self.extracted is None or (wants_graph and not self.extracted.vertices.requires_grad):
            self.extracted = self._extract()
        return self.extracted if wants_graph else self.extracted.detach()

    def _extract(self) -> Mesh:
        closed = torch.where(self.border, self.sdf.abs(), self.sdf)
        return marching_tetrahedra(self._positions(), closed, self.grid)

    def sdf_gradients(self, generator: torch.Generator) -> Tensor:
        """Gradients [N, 3], one for each tetrahedron that the surface crosses; the signed distance is linear in it."""
        tets = self.grid.tets.long()
        inside = self.sdf.detach()[tets] < 0
        crossed = tets[inside.any(1) & ~inside.all(1)]
        corners, values = self._positions()[crossed], self.sdf[crossed] * (self.box[1, 0] - self.box[0, 0]) / 2
        a, b, c = (corners[:, 1:] - corners[:, :1]).unbind(1)
        rise = (values[:, 1:] - values[:, :1])[..., None]
        normals = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=1)
        six_volumes = (a * normals[:, 0]).sum(-1, keepdim=True)
        return (rise * normals).sum(1) / six_volumes

    def features(self, points: Tensor) -> Tensor:
        """Appearance features [N, F] at world points [N, 3]; points outside the box are clamped to its border."""
        return self.hash_field(points)[:, 1:]

    def describe_level(self) -> str:
        """The range of the signed distance, and settings that keep the surface from vanishing."""
        low, high = self.sdf.min().item(), self.sdf.max().item()
        return (
            f"the signed distance on the grid ranges from {low:.3g} to {high:.3g} (middle: {(low + high) / 2:.3g}) and "
            f"never crosses 0; lower {self.key}.optimizer.groups[geometry.sdf].lr, "
            f"or raise lambda_mask in {self.key}.guidance"
        )

    @torch.no_grad()
    def initialize(self, other: Geometry, cameras: Cameras, seen: Render, inside: Tensor | None = None) -> None:
        """Fuse the renders of `other` into a closed shape and fit the grid's box to it; or subdivide its cells.

        The appearance field is copied from `other.hash_field`; if there is none, it starts from scratch.

        Raises:
            InputError: see `fuse_depth`; or the shape is too thin for the cells of the grid.
        """
        if self.config.subdivide and isinstance(other, DMTet):
            self._take_cells(other)
        else:
            self._take_shape(fuse_depth(seen, cameras, other.box, inside))
        appearance = getattr(other, "hash_field", None)
        if isinstance(appearance, HashField):
            self.hash_field.load_state_dict(appearance.state_dict())
            self.hash_field.use_levels(self.hash_field.spec.levels)

    @torch.no_grad()
    def initialize_inside(self, inside: Tensor) -> None:
        """See `Geometry.initialize_inside`; the grid's box is fitted to the shape, the appearance starts from scratch.

        Raises:
            InputError: the shape is too thin for the cells of the grid.
        """
        self._take_shape(shape_inside(inside.to(self.box.device)))

    def _take_shape(self, shape: FusedShape) -> None:
        """Fit the grid's box to a shape and sample its signed distance."""
        self.box.copy_(shape.bounding_box(self.config.margin))
        half_side = (self.box[1, 0] - self.box[0, 0]) / 2
        self.sdf.copy_(shape.sample(self._positions()) / half_side)
        self._check_thickness(shape)

    def _take_cells(self, coarser: "DMTet") -> None:
        """Subdivide the cells of a grid with half as many.

        A vertex in the middle of a deformed edge may be farther from its place than this grid allows. It is moved to
        where it may be; the surface there changes by less than the difference.
        """
        self.box.copy_(coarser.box)
        half_side = (self.box[1] - self.box[0]) / 2
        moved = (coarser._positions() - self.box.mean(0)) / half_side - coarser.grid.vertices
        values = subdivide(torch.cat([coarser.sdf[:, None], moved], dim=1), coarser.grid, self.grid)
        self.sdf.copy_(values[:, 0])
        self.deformation.copy_(torch.atanh((values[:, 1:] / self.half_spacing).clamp(-MOST_MOVED, MOST_MOVED)))

    def _check_thickness(self, fused: FusedShape) -> None:
        """Raise an InputError if the grid has lost most of the shape."""
        if _volume(self._extract()) > KEPT_SHARE * fused.volume:
            return
        side = (self.box[1, 0] - self.box[0, 0]).item()
        resolution = self.config.resolution
        cells = max(CELLS_ACROSS * side / fused.thickness, 0.5 * resolution)  # `tet_grid` has 0.4 * resolution
        wanted = 16 * math.ceil(cells / 0.4 / 16)
        advice = (
            f"raise {self.key}.geometry.resolution from {resolution} to {wanted}"
            if wanted <= FINEST
            else f"even {self.key}.geometry.resolution={FINEST} is too coarse for it"
        )
        share = 100 * fused.thickness / side * (1 + 2 * self.config.margin)
        raise InputError(
            f"the object is too thin for the tetrahedral grid: about {share:.1f} % of its longest side thick; {advice}"
        )


def _volume(mesh: Mesh) -> float:
    a, b, c = mesh.corners().unbind(1)
    return (a * torch.linalg.cross(b, c)).sum().item() / 6
