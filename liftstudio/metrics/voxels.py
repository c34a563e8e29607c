"""Occupancy of a mesh on a grid, and the volume IoU of the SyncDreamer / HarmonyView mesh evaluation."""

import numba
import numpy as np
from numpy.typing import NDArray

from liftstudio.data.mesh import Mesh

Array = NDArray[np.float64]
Floats = NDArray[np.float32]

_SLACK = 1e-3  # margin around a triangle, in cells: far above float32 rounding errors within [-1, 1]
_ZERO, _ONE, _MIN_AREA = np.float32(0), np.float32(1), np.float32(1e-30)


def occupancy(mesh: Mesh, size: int = 64) -> NDArray[np.bool_]:
    """Which grid points are inside the mesh, by ray parity: [size, size, size] bool, indexed x, y, z.

    Grid point i lies at -1 + 2 i / size on each axis. A ray in +x runs along every grid line; a point is inside after
    an odd number of crossings, unless it lies on a face, at a distance that float32 rounds to zero. The result for
    open meshes is arbitrary. It equals `mesh2sdf.compute(size=size, fix=False) < 0` (Bridson's SDFGen), which the
    published figures use. Points on faces matter: a true mesh scaled to a side of 1 ends on grid planes.

    Args:
        mesh: in world units; parts outside [-1, 1] count as crossings but have no grid points.
        size: grid points per axis.
    """
    corners = mesh.corners().detach().cpu().float().numpy()
    crossings = np.zeros((size, size, size), np.uint8)
    _mark_crossings((corners.astype(np.float64) + 1.0) * (size / 2), crossings)
    inside = np.bitwise_xor.accumulate(crossings, axis=0).astype(bool)
    _clear_touched(corners, inside)
    return inside


def volume_iou(prediction: Mesh, truth: Mesh, size: int = 64) -> float:
    """Intersection over union of the two `occupancy` grids, in [0, 1]; 0 if neither mesh encloses a grid point."""
    a, b = occupancy(prediction, size), occupancy(truth, size)
    return float((a & b).sum() / max((a | b).sum(), 1))


@numba.njit(nogil=True, cache=True)
def _side(ay: float, az: float, by: float, bz: float, y: float, z: float) -> int:
    """Side of the edge a -> b that the point (y, z) is on: -1 or 1, and 0 only for an edge of zero length.

    A point on the edge is treated as shifted by (t, t^2) with t -> 0+. The edge is always evaluated in the same
    direction, so both triangles at an edge agree, and every ray crosses a closed mesh an even number of times.
    """
    if (by, bz) < (ay, az):
        return -_side(by, bz, ay, az, y, z)
    value = (by - ay) * (z - az) - (bz - az) * (y - ay)
    if value == 0.0:
        value = az - bz if az != bz else by - ay
    return int(value > 0.0) - int(value < 0.0)


@numba.njit(nogil=True, cache=True)
def _mark_crossings(corners: Array, crossings: NDArray[np.uint8]) -> None:
    """Flip `crossings[i, y, z]` for every triangle crossed by the line (y, z) between grid points i-1 and i."""
    size = crossings.shape[0]
    for face in range(corners.shape[0]):
        a, b, c = corners[face, 0], corners[face, 1], corners[face, 2]
        y_low, y_high = max(np.ceil(min(a[1], b[1], c[1])), 0.0), min(max(a[1], b[1], c[1]), size - 1.0)
        z_low, z_high = max(np.ceil(min(a[2], b[2], c[2])), 0.0), min(max(a[2], b[2], c[2]), size - 1.0)
        for y in range(int(y_low), int(np.floor(y_high)) + 1):
            for z in range(int(z_low), int(np.floor(z_high)) + 1):
                side = _side(a[1], a[2], b[1], b[2], y, z)
                if (
                    side != 0
                    and side == _side(b[1], b[2], c[1], c[2], y, z)
                    and side == _side(c[1], c[2], a[1], a[2], y, z)
                ):
                    first_behind = np.ceil(_crossing_x(a, b, c, y, z))
                    if first_behind < size:
                        crossings[max(int(first_behind), 0), y, z] ^= 1


@numba.njit(nogil=True, cache=True)
def _crossing_x(a: Array, b: Array, c: Array, y: float, z: float) -> float:
    """The x at which the line (y, z) meets the triangle's plane; divided before summing, to round as SDFGen does."""
    wa = (b[2] - z) * (c[1] - y) - (b[1] - y) * (c[2] - z)
    wb = (c[2] - z) * (a[1] - y) - (c[1] - y) * (a[2] - z)
    wc = (a[2] - z) * (b[1] - y) - (a[1] - y) * (b[2] - z)
    total = wa + wb + wc
    if total == 0.0:  # a sliver, crossed only due to rounding
        return a[0]
    return wa / total * a[0] + wb / total * b[0] + wc / total * c[0]


@numba.njit(nogil=True, cache=True)
def _clear_touched(corners: Floats, inside: NDArray[np.bool_]) -> None:
    """Unset the grid points that lie on a triangle of `corners` [F, 3, 3]."""
    size = inside.shape[0]
    step = np.float32(2 / size)
    point = np.empty(3, np.float32)
    for face in range(corners.shape[0]):
        a, b, c = corners[face, 0], corners[face, 1], corners[face, 2]
        first, last = np.empty(3, np.int64), np.empty(3, np.int64)
        for axis in range(3):
            low, high = min(a[axis], b[axis], c[axis]), max(a[axis], b[axis], c[axis])
            first[axis] = max(np.ceil((low + 1.0) / step - _SLACK), 0.0)
            last[axis] = min(np.floor((high + 1.0) / step + _SLACK), size - 1.0)
        for x in range(first[0], last[0] + 1):
            for y in range(first[1], last[1] + 1):
                for z in range(first[2], last[2] + 1):
                    if inside[x, y, z]:
                        point[0], point[1], point[2] = x * step - 1, y * step - 1, z * step - 1
                        inside[x, y, z] = _squared_distance(point, a, b, c) > 0


@numba.njit(nogil=True, cache=True)
def _squared_distance(p: Floats, a: Floats, b: Floats, c: Floats) -> np.float32:
    """Squared distance from a point to a triangle, in float32 and SDFGen's order of operations, to round as it does."""
    ac, bc, pc = a - c, b - c, p - c
    aa, bb, ab, ap, bp = _dot(ac, ac), _dot(bc, bc), _dot(ac, bc), _dot(ac, pc), _dot(bc, pc)
    scale = _ONE / max(aa * bb - ab * ab, _MIN_AREA)
    u, v = scale * (bb * ap - ab * bp), scale * (aa * bp - ab * ap)
    w = _ONE - u - v
    if u >= 0 and v >= 0 and w >= 0:
        offset = p - (u * a + v * b + w * c)
        return _dot(offset, offset)
    edges = _squared_distance_to_edge(p, a, b), _squared_distance_to_edge(p, a, c), _squared_distance_to_edge(p, b, c)
    return min(min(edges[0], edges[1]), edges[2])


@numba.njit(nogil=True, cache=True)
def _squared_distance_to_edge(p: Floats, a: Floats, b: Floats) -> np.float32:
    side = b - a
    squared_length = np.float64(_dot(side, side))
    along = np.float32(_dot(b - p, side) / squared_length) if squared_length > 0 else _ONE
    along = min(max(along, _ZERO), _ONE)
    offset = p - (along * a + (_ONE - along) * b)
    return _dot(offset, offset)


@numba.njit(nogil=True, cache=True)
def _dot(a: Floats, b: Floats) -> np.float32:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
