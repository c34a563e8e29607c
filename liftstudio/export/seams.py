"""The colour along the seams of a texture: how far it jumps there, and how to even it out."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu

from liftstudio.export.asset import Bytes
from liftstudio.export.unwrap import UvMesh

MENDED_PER_TEXEL, MEASURED_PER_TEXEL = 2, 3  # points along a seam; measured between those that are mended
STAY = 0.01  # weight of a texel's own value, relative to that of a point on a seam

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def seam_differences(uv_mesh: UvMesh, texture: Bytes) -> Floats:
    """Return the jumps of the colour across the seams [N], in levels of 255: the largest of the three channels'.

    Points are spread evenly over the edges whose two faces lie in different places of the texture [size, size, 3]. At
    each the texture is read from both sides, with bilinear filtering. Empty without seams.
    """
    jumps, used = _jumps(uv_mesh, len(texture), MEASURED_PER_TEXEL)
    return np.abs(jumps @ texture.reshape(-1, 3)[used].astype(float)).max(axis=1)


def mended(uv_mesh: UvMesh, texture: Bytes) -> Bytes:
    """Return the texture [size, size, 3] with its texels along the seams changed so that the colour hardly jumps there.

    The changes are the least squares solution for no jumps at points of the seams and small changes of the texels.
    """
    jumps, used = _jumps(uv_mesh, len(texture), MENDED_PER_TEXEL)
    if not len(used):
        return texture
    flat = texture.reshape(-1, 3).copy()
    values = flat[used].astype(float)
    system = jumps.T @ jumps + diags_array(np.full(len(used), STAY))
    changes = splu(system.tocsc()).solve(-(jumps.T @ (jumps @ values)))
    flat[used] = (values + changes).round().clip(0, 255)
    return flat.reshape(texture.shape)


def _jumps(uv_mesh: UvMesh, size: int, per_texel: int) -> tuple[csr_array, Ints]:
    """Return the matrix [N, T] from the values of texels to the jumps at points of the seams, and the texels [T]."""
    sides = [_texels(uv, size) for uv in _seam_points(uv_mesh, size, per_texel)]
    used, column = np.unique(np.concatenate([texels for texels, _ in sides], axis=1), return_inverse=True)
    weights = np.concatenate([sides[0][1], -sides[1][1]], axis=1)
    row = np.repeat(np.arange(len(weights)), weights.shape[1])
    return csr_array((weights.ravel(), (row, column.ravel())), shape=(len(weights), len(used))), used


def _seam_points(uv_mesh: UvMesh, size: int, per_texel: int) -> tuple[Floats, Floats]:
    """Return the coordinates [N, 2] of points on the seams, on either side."""
    uv = uv_mesh.uv.double().numpy()
    edges = _cut_edges(uv_mesh)
    ends = uv[edges]  # [E, side, end, 2]
    lengths = np.linalg.norm(ends[:, :, 1] - ends[:, :, 0], axis=-1).max(axis=1) * size
    counts = np.ceil(lengths * per_texel).astype(int).clip(1)
    edge = np.repeat(np.arange(len(edges)), counts)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    along = ((step + 0.5) / counts[edge])[:, None, None]
    points = ends[edge, :, 0] * (1 - along) + ends[edge, :, 1] * along
    return points[:, 0], points[:, 1]


def _cut_edges(uv_mesh: UvMesh) -> Ints:
    """Return the vertices [E, 2, 2] of the cut mesh on both sides of each cut edge, both from the same end."""
    faces = uv_mesh.mesh.faces.numpy()
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    ends = uv_mesh.source.numpy()[edges]
    edges = np.where((ends[:, 0] > ends[:, 1])[:, None], edges[:, ::-1], edges)
    _, group, count = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True, return_counts=True)
    pairs = edges[np.argsort(group, kind="stable")][np.repeat(count, count) == 2].reshape(-1, 2, 2)
    return pairs[(pairs[:, 0] != pairs[:, 1]).any(axis=1)]


def _texels(uv: Floats, size: int) -> tuple[Ints, Floats]:
    """Return the four texels [N, 4] that bilinear filtering reads at coordinates [N, 2], v up, and their weights."""
    x, y = (uv * [1, -1] + [0, 1]).T * size - 0.5
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, down = x - column, y - row
    near, far = (np.stack([(1 - right) * share, right * share], axis=1) for share in (1 - down, down))
    columns = np.stack([column, column + 1], axis=1).clip(0, size - 1)
    rows = [each.clip(0, size - 1)[:, None] * size for each in (row, row + 1)]
    return np.concatenate([rows[0] + columns, rows[1] + columns], axis=1), np.concatenate([near, far], axis=1)
