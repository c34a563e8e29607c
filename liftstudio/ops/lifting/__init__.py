"""Lifting: features of several views, gathered at points in space."""

from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.lifting import reference


def lift(features: Tensor, projections: Tensor, points: Tensor) -> Tensor:
    """Mean and variance over the views of the features at each point, concatenated [B, N, 2 C].

    features: [B, T, H, W, C] float, T >= 1. projections: [B, T, 3, 4] from (x, 1) to (u w, v w, w) with u, v in [-1, 1]
    over the image and w the depth (clamped to at least 0.001). points: [N, 3]. Samples are bilinear between pixel
    centres; outside the image, border pixels are repeated. Differentiable w.r.t. `features`.

    Raises:
        ValueError: for a wrong shape; on the CPU also for projections or points that are not finite.
    """
    check_shape("features", features, ("B", "T", "H", "W", "C"))
    check_shape("projections", projections, (*features.shape[:2], 3, 4))
    check_shape("points", points, ("N", 3))
    if backend_for("lifting", features) == "numba":
        from liftstudio.ops.lifting import cpu

        return cpu.lift(features, projections, points)
    return reference.lift(features, projections, points)
