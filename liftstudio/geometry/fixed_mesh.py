"""A mesh from a file, with a field as its texture and optionally movable vertices."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.geometry.base import Features, Geometry, Radius
from liftstudio.geometry.hash_field import HashField, HashFieldConfig


@register("mesh")
class FixedMesh(Geometry):
    """A mesh from a file with a texture field; its vertices are fixed unless `movable`."""

    @dataclass
    class Config(Geometry.Config):
        path: str = ""  # mesh file (obj, ply, glb, off, stl), world axes of the views
        movable: bool = False  # whether vertices are optimised
        radius: Radius = 1.0  # half the side of the cube that holds the mesh, world units
        grid: HashFieldConfig = field(default_factory=HashFieldConfig)  # appearance field
        features: Features = 3  # appearance features per point

        def __post_init__(self) -> None:
            if not self.path:
                raise InputError("path: missing; expected a mesh file")

    faces: Tensor

    def __init__(self, config: Config, *, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        mesh = read_mesh(input_path(config.path)).to(device)
        corner = torch.full((3,), config.radius, device=device)
        self.register_buffer("box", torch.stack([-corner, corner]))
        self.register_buffer("faces", mesh.faces)
        self.vertices = nn.Parameter(mesh.vertices, requires_grad=config.movable)
        self.hash_field = HashField(config.grid, 1 + config.features, self.box).to(device)
        self.hash_field.reset(generator)

    def mesh(self) -> Mesh:
        """The mesh; its vertices require gradients if `movable`."""
        return Mesh(self.vertices.detach() if self.holds_shape else self.vertices, self.faces)

    def features(self, points: Tensor) -> Tensor:
        """Appearance features [N, F] at world points [N, 3]; points outside the box are clamped to its border."""
        return self.hash_field(points)[:, 1:]
