"""Texture baking: a colour field on the surface, sampled at the texels of the charts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.images import nearest_filled
from liftstudio.export.unwrap import UvMesh
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize

# A colour field at surface points: (points [N, 3], unit outward normals [N, 3]) -> [N, 3] in [0, 1], display-referred.
Field = Callable[[Tensor, Tensor], Tensor]

POINTS_PER_CHUNK = 1 << 17
Bytes = NDArray[np.uint8]


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


def surface_texels(uv_mesh: UvMesh, normals: Tensor, size: int) -> Texels:
    """Rasterise the charts. normals: [V, 3] at the vertices of `uv_mesh`; size: texels per side of the texture."""
    flat = F.pad(2 * uv_mesh.uv - 1, (0, 1))  # clip space x, y as u, v; z = 0
    clip = F.pad(flat, (0, 1), value=1.0)[None]
    mesh = uv_mesh.mesh
    covered = fragments(clip, mesh.faces, rasterize(clip, mesh.faces, size, size))
    attributes = interpolate(torch.cat([mesh.vertices, normals], dim=1), mesh.faces, covered)
    return Texels(covered.pixel, attributes[:, :3], F.normalize(attributes[:, 3:], dim=-1), size)


def bake_texture(field: Field, texels: Texels) -> Bytes:
    """Texture [size, size, 3] of the field; texels outside the charts take the colour of the nearest one inside.

    Raises:
        InputError: the field is not finite somewhere.
    """
    image = np.zeros((texels.size**2, 3), np.uint8)
    image[texels.pixel.numpy()] = colors(field, texels.points, texels.normals)
    empty = np.ones(texels.size**2, bool)
    empty[texels.pixel.numpy()] = False
    return nearest_filled(image.reshape(texels.size, texels.size, 3), empty.reshape(texels.size, texels.size))


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
