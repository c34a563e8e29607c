"""Small shapes, fields and scenes whose images are known in closed form."""

import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from liftstudio.backgrounds.solid_color import SolidColor
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.geometry.base import Geometry
from liftstudio.geometry.hash_field import HashFieldConfig
from liftstudio.lights.base import Light
from liftstudio.lights.uniform import Uniform
from liftstudio.materials.diffuse import Diffuse
from liftstudio.ops.edges import edge_adjacency
from liftstudio.renderers.scene import Scene

TINY_GRID = HashFieldConfig(levels=4, log2_table_size=9, base_resolution=4, finest_resolution=16, hidden=16)
COLOR = torch.tensor([0.7, 0.4, 0.2])


class Solid(Geometry):
    """Constant density inside a sphere, and any mesh, both of one colour; `density` and `radius` in world units."""

    def __init__(self, density: float = 0.0, radius: float = 0.5, mesh: Mesh | None = None) -> None:
        super().__init__()
        self.density, self.radius, self._mesh = density, radius, mesh
        self.register_buffer("box", torch.tensor([[-1.0] * 3, [1.0] * 3]))

    def inside(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True) < self.radius

    def field(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.density * self.inside(points).float(), self.features(points)

    def features(self, points: Tensor) -> Tensor:
        return torch.logit(COLOR).expand(len(points), 3)

    def normals(self, points: Tensor) -> Tensor:
        return F.normalize(points, dim=-1)

    def mesh(self) -> Mesh:
        assert self._mesh is not None
        return self._mesh


def scene_of(
    geometry: Geometry, light: Light | None = None, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Scene:
    """Return a scene of the geometry with diffuse material, under uniform light unless another is given."""
    return Scene(
        geometry,
        Diffuse(Diffuse.Config()),
        light or Uniform(Uniform.Config()),
        SolidColor(SolidColor.Config(background)),
    )


def from_trimesh(shape: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.from_numpy(shape.vertices).float(), torch.from_numpy(shape.faces).long())


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.detach().double().numpy(), mesh.faces.numpy(), process=False)


def ball(radius: float = 0.5, subdivisions: int = 3) -> Mesh:
    return from_trimesh(trimesh.creation.icosphere(subdivisions, radius))


def orbit(count: int, size: int, elevation_deg: float | list[float] = 20.0, distance: float = 3.0) -> Cameras:
    """Return `count` square views around the origin, cycling through the elevations."""
    elevations = torch.tensor([elevation_deg] if isinstance(elevation_deg, float) else elevation_deg)
    index = torch.arange(count)
    return orbit_cameras(index * 360.0 / count, elevations[index % len(elevations)], distance, 40.0, size, size)


def sphere_hits(cameras: Cameras, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Intersect rays with a sphere at the origin: near and far distance, and whether they hit, each [B, H, W, 1]."""
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1, keepdim=True)
    half_squared = radius**2 - origins.square().sum(-1, keepdim=True) + middle.square()
    half = half_squared.clamp_min(0).sqrt()
    return middle - half, middle + half, half_squared > 0


def sphere_views(count: int, size: int, radius: float = 0.5) -> ReferenceViews:
    """Return images of a sphere coloured by its normals, all of them training views."""
    cameras = orbit(count, size, [-25.0, 35.0])
    origins, directions = cameras.rays()
    near, _, hit = sphere_hits(cameras, radius)
    normal = F.normalize(origins + near * directions, dim=-1)
    nothing_held_out = torch.zeros(count, dtype=torch.bool)
    return ReferenceViews(0.5 + 0.4 * normal, hit.float(), cameras, tuple(map(str, range(count))), nothing_held_out)


def volume_of(mesh: Mesh) -> float:
    """Return the signed volume; positive if the faces wind outwards."""
    a, b, c = mesh.corners().detach().unbind(1)
    return (a * torch.linalg.cross(b, c)).sum().item() / 6


def is_closed(mesh: Mesh) -> bool:
    """Return whether every edge has a face on both sides."""
    return bool((edge_adjacency(mesh.faces, len(mesh.vertices)).faces >= 0).all())
