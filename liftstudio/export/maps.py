"""Normal and ambient-occlusion maps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.directions import fibonacci_sphere
from liftstudio.data.mesh import Mesh
from liftstudio.export.asset import Bytes
from liftstudio.export.bake import Texels, chart_fragments, texture_of
from liftstudio.export.unwrap import UvMesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image

STEEPEST = 0.02  # least component of a mapped normal along the normal of the surface
DIRECTIONS = 192  # from which the surroundings are looked at for the occlusion; half of them are above a point
PIXELS = 512  # across the pictures of the depth that are taken for it
LIFT = 2.0  # distance of a point from the surface where its occlusion is judged, pixels of these pictures


def bake_normal_map(uv_mesh: UvMesh, normals: Tensor, tangents: Tensor, texels: Texels) -> Bytes:
    """Return the tangent-space normals [size, size, 3] as (n + 1) / 2, for which the surface shows those of `texels`.

    A renderer interpolates normal, tangent and bitangent = sign * cross(normal, tangent) over a face, makes each a unit
    vector, and adds them up, times the three components (glTF 2.0, section 3.9.3). Here that is solved for the
    components, so that it reproduces the normal exactly but for the eight bits.

    normals, tangents: at the vertices of `uv_mesh`, see `Skin`. texels: of `uv_mesh`, with the normals to show.
    """
    bitangents = tangents[:, 3:] * torch.linalg.cross(normals, tangents[:, :3])
    frame = torch.cat([tangents[:, :3], bitangents, normals], dim=1)
    attributes = interpolate(frame, uv_mesh.mesh.faces, chart_fragments(uv_mesh, texels.size))
    axes = F.normalize(attributes.view(-1, 3, 3), dim=-1)  # rows: tangent, bitangent, normal
    is_flat = torch.linalg.det(axes).abs() < 1e-3
    axes = torch.where(is_flat[:, None, None], torch.eye(3), axes)
    local = torch.linalg.solve(axes.transpose(1, 2), texels.normals[..., None])[..., 0]
    local = torch.cat([local[:, :2], local[:, 2:].clamp_min(STEEPEST)], dim=1)
    local = torch.where(is_flat[:, None], torch.tensor([0.0, 0.0, 1.0]), F.normalize(local, dim=-1))
    return texture_of(_bytes(0.5 + 0.5 * local), texels)


def bake_occlusion(surface: Mesh, texels: Texels) -> Bytes:
    """Return the share of the surroundings [size, size] that the surface does not hide, weighted by the cosine."""
    return texture_of(_bytes(visibility(surface, texels.points, texels.normals)[:, None]), texels)[..., 0]


def visibility(surface: Mesh, points: Tensor, normals: Tensor) -> Tensor:
    """Return how much of the hemisphere above each point [N, 3] is free of the surface, [N] in [0, 1].

    It is the mean over directions that are spread evenly, weighted by their cosine with the unit normal. What is hidden
    is found in orthographic depth pictures, one for each direction.
    """
    low, high = surface.vertices.aminmax(dim=0)
    middle, radius = (low + high) / 2, 0.5 * (high - low).norm() * 1.02
    shift = LIFT * 2 * radius / PIXELS
    lifted = torch.cat([points + shift * normals, torch.ones(len(points), 1)], dim=1)
    vertices = F.pad(surface.vertices, (0, 1), value=1.0)
    free, total = torch.zeros(len(points)), torch.zeros(len(points))
    for direction in fibonacci_sphere(DIRECTIONS):
        cosine = (normals @ direction).clamp_min(0)
        clip_from_world = _orthographic(direction, middle, radius)
        depth = _depth_picture(vertices @ clip_from_world.T, surface.faces)
        x, y, z, _ = (lifted @ clip_from_world.T).unbind(1)
        column = ((x + 1) / 2 * PIXELS).long().clamp(0, PIXELS - 1)
        row = ((1 - y) / 2 * PIXELS).long().clamp(0, PIXELS - 1)
        free += cosine * (z <= depth[row, column])
        total += cosine
    return free / total.clamp_min(1e-9)


def _orthographic(direction: Tensor, middle: Tensor, radius: Tensor) -> Tensor:
    """Return the matrix [4, 4] from world to clip space of a parallel view from `direction`; z grows away from it."""
    up = F.one_hot(direction.abs().argmin(), 3).to(direction)
    right = F.normalize(torch.linalg.cross(up, direction), dim=0)
    axes = torch.stack([right, torch.linalg.cross(direction, right), -direction]) / radius
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, -axes @ middle
    return matrix


def _depth_picture(clip: Tensor, faces: Tensor) -> Tensor:
    """Return the depth z [PIXELS, PIXELS] of the nearest face; 2, which is behind all, where there is none."""
    visible = fragments(clip[None], faces, rasterize(clip[None], faces, PIXELS, PIXELS))
    return scatter_image(interpolate(clip[:, 2:3].contiguous(), faces, visible), visible, 2.0)[0, ..., 0]


def _bytes(values: Tensor) -> Bytes:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
