"""Rasterisation: the visible face at every pixel, and the barycentric coordinates on it.

Clip space is OpenGL's: [x, y, z, w] after projection, visible where -w <= x, y, z <= w, y up. The centre of pixel
(row i, column j) is at NDC x = 2 (j + 0.5) / W - 1, y = 1 - 2 (i + 0.5) / H: row 0 is the top of the image.
"""

import importlib
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_indices, check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.rasterization import reference

_MODULES = {"reference": "reference", "numba": "cpu", "warp": "warp_kernels", "nvdiffrast": "nvdiffrast"}


@dataclass(frozen=True)
class Fragments:
    """The covered pixels of a batch of images.

    pixel:       [P] int64, flat index b H W + i W + j, ascending.
    face:        [P] int64, the visible face.
    barycentric: [P, 3] perspective-correct coordinates on that face, summing to one; differentiable w.r.t. clip.
    shape:       (B, H, W).
    """

    pixel: Tensor
    face: Tensor
    barycentric: Tensor
    shape: tuple[int, int, int]


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """The nearest face [B, H, W] int32 at every pixel centre, -1 where empty; not differentiable.

    clip: [B, V, 4] float. faces: [F, 3] int64. Both windings are drawn. Triangles that cross the near or far plane, or
    reach behind the eye, are clipped; degenerate and non-finite ones are skipped. On equal z / w (to 2^-30) the lower
    face index wins.

    Raises:
        ValueError: for a wrong shape or a vertex index out of range.
    """
    check_shape("clip", clip, ("B", "V", 4))
    check_shape("faces", faces, ("F", 3))
    check_indices("faces", faces, clip.shape[1])
    if len(faces) == 0 or len(clip) == 0:
        return torch.full((len(clip), height, width), -1, dtype=torch.int32, device=clip.device)
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('rasterization', clip)]}")
    return module.rasterize(clip.detach(), faces, height, width)


def fragments(clip: Tensor, faces: Tensor, face_index: Tensor) -> Fragments:
    """The covered pixels of `face_index` [B, H, W] (from `rasterize`) with their barycentric coordinates.

    Raises:
        ValueError: for a wrong shape or an index out of range.
    """
    check_shape("clip", clip, ("B", "V", 4))
    check_shape("faces", faces, ("F", 3))
    check_shape("face_index", face_index, (len(clip), "H", "W"))
    check_indices("faces", faces, clip.shape[1])
    batch, height, width = face_index.shape
    flat = face_index.reshape(-1)
    pixel = (flat >= 0).nonzero()[:, 0]
    face = flat[pixel].long()
    check_indices("face_index", face, len(faces))
    if backend_for("rasterization", clip) == "numba":
        from liftstudio.ops.rasterization import cpu

        barycentric = cpu.barycentrics(clip, faces, pixel, face, height, width)
    else:
        barycentric = reference.barycentrics(clip, faces, pixel, face, height, width)
    return Fragments(pixel, face, barycentric, (batch, height, width))


def scatter_image(values: Tensor, fragments: Fragments, background: float | Tensor = 0.0) -> Tensor:
    """Dense image [B, H, W, C] of the fragments' `values` [P, C]; `background` (broadcast) at all other pixels."""
    check_shape("values", values, (len(fragments.pixel), "C"))
    shape = (*fragments.shape, values.shape[1])
    image = torch.as_tensor(background, dtype=values.dtype, device=values.device).expand(shape)
    return image.reshape(-1, shape[-1]).index_copy(0, fragments.pixel, values).view(shape)
