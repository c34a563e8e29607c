"""Texture baking: a colour field on the surface, sampled at the texels of the charts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import nearest_filled
from liftstudio.data.mesh import Mesh
from liftstudio.export.asset import Bytes
from liftstudio.export.cleanup import vertex_normals
from liftstudio.export.unwrap import UvMesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import Fragments, fragments, rasterize

# A colour field at surface points: (points [N, 3], unit outward normals [N, 3]) -> [N, 3] in [0, 1], display-referred.
Field = Callable[[Tensor, Tensor], Tensor]

POINTS_PER_CHUNK = 1 << 17
REACH = 0.03  # distance to which the full surface is looked for along the normals, relative to the longest side


@dataclass(frozen=True)
class Texels:
    """The texels whose centre lies in a chart, with their surface points and normals.

    pixel:           [N] int64, flat index of the texel, row 0 at the top.
    points, normals: [N, 3], world space.
    size:            texels per side of the texture.
    """

    pixel: Tensor
    points: Tensor
    normals: Tensor
    size: int


def chart_fragments(uv_mesh: UvMesh, size: int) -> Fragments:
    """Return the texels whose centre lies in a chart, as pixels of an image of `size` x `size`."""
    flat = F.pad(2 * uv_mesh.uv - 1, (0, 1))  # clip space x, y as u, v; z = 0
    clip = F.pad(flat, (0, 1), value=1.0)[None]
    return fragments(clip, uv_mesh.mesh.faces, rasterize(clip, uv_mesh.mesh.faces, size, size))


def surface_texels(uv_mesh: UvMesh, normals: Tensor, size: int) -> Texels:
    """Rasterise the charts. normals: [V, 3] at the vertices of `uv_mesh`; size: texels per side of the texture."""
    covered = chart_fragments(uv_mesh, size)
    attributes = interpolate(torch.cat([uv_mesh.mesh.vertices, normals], dim=1), uv_mesh.mesh.faces, covered)
    return Texels(covered.pixel, attributes[:, :3], F.normalize(attributes[:, 3:], dim=-1), size)


def projected(points: Tensor, normals: Tensor, onto: Mesh) -> tuple[Tensor, Tensor]:
    """Return the points [N, 3] of another surface that lie along unit normals [N, 3], and its unit normals there."""
    from liftstudio.ops.projection import project  # compiles a kernel when it is first used

    reach = REACH * float((onto.vertices.amax(0) - onto.vertices.amin(0)).max())
    face, weights = project(onto.vertices, onto.faces, points, normals, reach)
    corners = torch.cat([onto.vertices, vertex_normals(onto)], dim=1)[onto.faces[face]]
    found, directions = (weights[:, :, None] * corners).sum(1).split(3, dim=1)
    return found, F.normalize(directions, dim=-1)


def bake_texture(field: Field, texels: Texels) -> Bytes:
    """Texture [size, size, 3] of the field; texels outside the charts take the colour of the nearest one inside.

    Raises:
        InputError: the field is not finite somewhere.
    """
    return texture_of(colors(field, texels.points, texels.normals), texels)


def texture_of(values: Bytes, texels: Texels) -> Bytes:
    """Return values [N, C] at the texels as an image [size, size, C]; the others take the value of the nearest one."""
    image = np.zeros((texels.size**2, values.shape[1]), np.uint8)
    image[texels.pixel.numpy()] = values
    empty = np.ones(texels.size**2, bool)
    empty[texels.pixel.numpy()] = False
    return nearest_filled(image.reshape(texels.size, texels.size, -1), empty.reshape(texels.size, texels.size))


@torch.no_grad()
def colors(field: Field, points: Tensor, normals: Tensor) -> Bytes:
    """Colours [N, 3] uint8 of the field at surface points, evaluated in chunks.

    Raises:
        InputError: the field is not finite somewhere.
    """
    chunks = zip(points.split(POINTS_PER_CHUNK), normals.split(POINTS_PER_CHUNK), strict=True)
    values = torch.cat([field(*chunk).float().cpu() for chunk in chunks])
    if not values.isfinite().all():
        raise InputError("export: the colour field is not finite on the surface (the optimisation diverged)")
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
