"""Inside/outside of a mesh on a grid, and the volume IoU of the SyncDreamer / HarmonyView mesh evaluation."""

import numba
import numpy as np
from numpy.typing import NDArray

from liftstudio.mesh import Mesh

Array = NDArray[np.float64]


def occupancy(mesh: Mesh, size: int = 64) -> NDArray[np.bool_]:
    """[size, size, size] bool, indexed (x, y, z): which grid points are inside the mesh, by ray parity.

    Grid point i lies at -1 + 2 i / size on each axis. From the side of least x a ray runs along every grid line;
    a point is inside after an odd number of crossings. Open meshes therefore give what they give, the same as the
    signs of `mesh2sdf.compute(size=size, fix=False)` (Bridson's SDFGen), which the published figures rest on.
    Grid points exactly on the surface may fall either way.

    Args:
        mesh: in world units; the parts outside [-1, 1] count as crossings but have no grid points.
    """
    vertices = mesh.vertices.detach().cpu().float().double().numpy()
    grid = np.ascontiguousarray((vertices + 1.0) * (size / 2))
    crossings = np.zeros((size, size, size), np.uint8)
    _mark_crossings(grid[mesh.faces.cpu().numpy()], crossings)
    return np.bitwise_xor.accumulate(crossings, axis=0).astype(bool)


def volume_iou(prediction: Mesh, truth: Mesh, size: int = 64) -> float:
    """Intersection over union of the two `occupancy` grids, in [0, 1]; 0 where neither mesh encloses a grid point."""
    a, b = occupancy(prediction, size), occupancy(truth, size)
    return float((a & b).sum() / max((a | b).sum(), 1))


@numba.njit(nogil=True, cache=True)
def _side(ay: float, az: float, by: float, bz: float, y: float, z: float) -> int:
    """Which side of the edge a -> b the point (y, z) is on: -1 or 1, and 0 only for an edge of no length.

    A point on the edge counts as shifted by (t, t^2) with t -> 0+. The edge is evaluated in one fixed direction, so
    both triangles at an edge agree, and every ray crosses a closed mesh an even number of times.
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
    """x at which the line (y, z) meets the triangle's plane."""
    wa = (c[1] - b[1]) * (z - b[2]) - (c[2] - b[2]) * (y - b[1])
    wb = (a[1] - c[1]) * (z - c[2]) - (a[2] - c[2]) * (y - c[1])
    wc = (b[1] - a[1]) * (z - a[2]) - (b[2] - a[2]) * (y - a[1])
    return (wa * a[0] + wb * b[0] + wc * c[0]) / (wa + wb + wc)
