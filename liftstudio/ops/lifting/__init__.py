"""Lifting: the features of several views gathered at points of space."""

from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.ops.backends import backend_for
from liftstudio.ops.lifting import reference


def lift(features: Tensor, projections: Tensor, points: Tensor) -> Tensor:
    """Mean, then variance over the views of their features at each point: [B, N, 2 C].

    features: [B, T, H, W, C] float, T >= 1. projections: [B, T, 3, 4] from (x, 1) to (u w, v w, w) with u, v in [-1, 1]
    over the image and w the depth (held at 0.001 or more). points: [N, 3]. Samples are bilinear between pixel centres;
    beyond the image its border goes on. Differentiable w.r.t. `features`.

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
