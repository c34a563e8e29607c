"""Projection of points onto a mesh along given directions."""

import importlib

from torch import Tensor

from liftstudio.core.checks import check_indices, check_shape
from liftstudio.ops.backends import backend_for

_MODULES = {"reference": "reference", "warp": "warp_kernels"}


def project(vertices: Tensor, faces: Tensor, points: Tensor, directions: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Return face [N] int64 and barycentric coordinates [N, 3] of the points of a mesh that belong to `points`.

    That is the nearer of the two hits along +direction and -direction within `reach`. A first hit on a face that looks
    against the direction belongs to another part of the surface and is not used. Without a hit it is the closest point.
    Not differentiable.

    vertices: [V, 3]. faces: [F, 3] int64, not empty. points: [N, 3]. directions: [N, 3], unit. All on one device.
    reach: in the unit of the vertices.

    Raises:
        ValueError: for a wrong shape, or an index out of range.
    """
    check_shape("vertices", vertices, ("V", 3))
    check_shape("faces", faces, ("F", 3))
    check_shape("points", points, ("N", 3))
    check_shape("directions", directions, (len(points), 3))
    check_indices("faces", faces, len(vertices))
    module = importlib.import_module(f"{__name__}.{_MODULES[backend_for('projection', points)]}")
    return module.project(vertices.detach(), faces, points.detach(), directions.detach(), reach)
