"""Rasterisation and barycentric coordinates in plain torch: the reference for tests.

Homogeneous edge functions (Olano & Greer 1997, "Triangle Scan Conversion using 2D Homogeneous Coordinates"): with
corners p = (X, Y, w), X and Y in pixels times w, the part of the triangle in front of the eye covers pixel
q = (x, y, 1) exactly where the three (p_j x p_k) . q have the sign of det(p_0, p_1, p_2). Corners behind the eye need
no clipping.
"""

import torch
from torch import Tensor

# A fragment's key is (depth step << FACE_BITS) | face, so its minimum is the nearest face, the lower index on a tie.
DEPTH_STEPS = 2**30  # per unit of z / w, which lies in [-1, 1]
FACE_BITS = 31
EMPTY = 2**63 - 1
# Triangles with a relative determinant below this (about 1e-6 square pixels) are rounding noise and not drawn.
DEGENERATE = 1e-13
_CHUNK_ELEMENTS = 2**21


def screen_vertices(clip: Tensor, height: int, width: int) -> Tensor:
    """Screen positions [B, V, 4] float64 (X, Y, w, z) of clip positions; pixel = (X / w, Y / w), y down."""
    x, y, z, w = clip.double().unbind(-1)
    return torch.stack([(w + x) * (0.5 * width), (w - y) * (0.5 * height), w, z], dim=-1).contiguous()


def face_index_of(keys: Tensor) -> Tensor:
    """Face (int32) of each key, -1 where empty."""
    return torch.where(keys == EMPTY, -1, keys & (2**FACE_BITS - 1)).int()


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Nearest face [B, H, W] int32, by testing every pixel against every triangle: O(B F H W), in chunks of faces."""
    y, x = torch.meshgrid(
        torch.arange(height, device=clip.device, dtype=torch.float64) + 0.5,
        torch.arange(width, device=clip.device, dtype=torch.float64) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    chunk = max(1, _CHUNK_ELEMENTS // (height * width))
    images = []
    for vertices in screen_vertices(clip, height, width):
        nearest = torch.full((height * width,), EMPTY, dtype=torch.int64, device=clip.device)
        for start in range(0, len(faces), chunk):
            keys = _fragment_keys(vertices[faces[start : start + chunk]], pixels, start)
            nearest = torch.minimum(nearest, keys.amin(0))
        images.append(face_index_of(nearest).view(height, width))
    return torch.stack(images)


def _fragment_keys(corners: Tensor, pixels: Tensor, first_face: int) -> Tensor:
    """Keys [F, N] of triangles `corners` [F, 3, 4] at `pixels` [3, N]; EMPTY where not covered."""
    p, z = corners[..., :3], corners[..., 3]
    edges = torch.stack([torch.linalg.cross(p[:, (i + 1) % 3], p[:, (i + 2) % 3]) for i in range(3)], dim=1)
    det = (edges[:, 0] * p[:, 0]).sum(-1)
    extent = p.abs().amax(1).prod(-1)
    drawn = (det.abs() > DEGENERATE * extent) & extent.isfinite()
    at_pixel = (edges * det.sign()[:, None, None]) @ pixels
    depth = ((edges * z[..., None]).sum(1) / det[:, None]) @ pixels
    covered = drawn[:, None] & (at_pixel >= 0).all(1) & (depth >= -1) & (depth <= 1)
    step = ((depth + 1) * DEPTH_STEPS).where(covered, torch.zeros_like(depth)).long()
    face = first_face + torch.arange(len(corners), device=corners.device)
    return torch.where(covered, (step << FACE_BITS) | face[:, None], EMPTY)


def pixel_centres(pixel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """NDC x (right) and y (up), float64, of flat pixel indices b H W + i W + j."""
    row, column = pixel // width % height, pixel % width
    return (2 * column + 1).double() / width - 1, 1 - (2 * row + 1).double() / height


def barycentrics(clip: Tensor, faces: Tensor, pixel: Tensor, face: Tensor, height: int, width: int) -> Tensor:
    """Perspective-correct barycentric coordinates [P, 3] of the pixel centres, differentiable w.r.t. clip [B, V, 4].

    With u_k = (x_k - ndc_x w_k, y_k - ndc_y w_k), the weights are a_0 = u_1 x u_2 and so on, divided by their sum:
    those of the point of the triangle where u is zero. Computed in float64, returned in the dtype of `clip`.
    """
    vertex_count = clip.shape[1]
    corner = (pixel // (height * width) * vertex_count)[:, None] + faces[face]
    corners = clip.reshape(-1, 4).index_select(0, corner.reshape(-1)).view(-1, 3, 4).double()
    x, y = pixel_centres(pixel, height, width)
    u = corners[..., 0] - x[:, None] * corners[..., 3]
    v = corners[..., 1] - y[:, None] * corners[..., 3]
    (u0, u1, u2), (v0, v1, v2) = u.unbind(1), v.unbind(1)
    weights = torch.stack([u1 * v2 - v1 * u2, u2 * v0 - v2 * u0, u0 * v1 - v0 * u1], dim=1)
    total = weights.sum(1, keepdim=True)
    return (weights / torch.where(total == 0, 1, total)).to(clip.dtype)
