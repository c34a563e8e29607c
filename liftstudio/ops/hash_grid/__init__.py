"""Multiresolution hash-grid encoding of points (Mueller et al. 2022, "Instant Neural Graphics Primitives")."""

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.hash_grid import reference
from liftstudio.ops.hash_grid.autograd import Encode, Kernels
from liftstudio.ops.hash_grid.spec import HashGridSpec

__all__ = ["HashGridSpec", "hash_encode"]


def hash_encode(points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """Encode points by trilinear interpolation of the hash grid's rows, level by level.

    Differentiable w.r.t. points and table; the gradient w.r.t. the points is itself differentiable once, as required
    by losses on analytic normals. That gradient is piecewise smooth, taken from the cell a point falls into; second
    derivatives along a single axis are therefore zero.

    Args:
        points: [N, 3], in [0, 1]. Points outside are clamped, with zero gradient along the clamped axes; NaN gives a
            NaN encoding.
        table: [spec.entries, spec.features], of the points' dtype and device; rows as laid out by HashGridSpec.
            float32 runs on the compiled kernels, other types on the plain torch reference.
        spec: the layout.

    Returns:
        [N, spec.levels * spec.features], level-major.

    Raises:
        ValueError: for wrong shapes, or if points and table differ in dtype or device.
    """
    check_shape("points", points, ("N", 3))
    check_shape("table", table, (spec.entries, spec.features))
    if points.dtype != table.dtype or points.device != table.device:
        raise ValueError(
            f"points ({points.dtype}, {points.device}) and table ({table.dtype}, {table.device}) must match"
        )
    points = points.clamp(0, 1)
    backend = backend_for("hash_grid", table) if table.dtype == torch.float32 else "reference"
    if backend == "reference":
        return reference.hash_encode(points, table, spec)
    if backend == "tinycudann":
        from liftstudio.ops.hash_grid import tinycudann

        # Its kernels exist only for some numbers of features, and do not launch on empty inputs.
        if spec.features in tinycudann.FEATURES and len(points):
            return tinycudann.hash_encode(points, table, spec)
    encoding: Tensor = Encode.apply(points.contiguous(), table.contiguous(), _kernels(backend), spec)
    return encoding


def _kernels(backend: str) -> Kernels:
    # Imported on first use: numba and Warp are slow to load.
    if backend == "numba":
        from liftstudio.ops.hash_grid import cpu

        return cpu
    from liftstudio.ops.hash_grid import warp_kernels

    return warp_kernels
