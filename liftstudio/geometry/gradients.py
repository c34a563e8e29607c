"""Gradients of scalar fields at points, themselves differentiable so that losses can use them."""

from collections.abc import Callable

import torch
from torch import Tensor

ScalarField = Callable[[Tensor], Tensor]  # points [N, 3] -> values [N, 1]


def analytic_gradient(field: ScalarField, points: Tensor) -> Tensor:
    """Gradient [N, 3] of `field` at `points` [N, 3] by autograd; differentiable again when gradients are enabled."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points if points.requires_grad else points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(field(points).sum(), points, create_graph=create_graph)
    return gradient


def difference_gradient(field: ScalarField, points: Tensor, step: float) -> Tensor:
    """Gradient [N, 3] of `field` at `points` [N, 3] by finite differences from four evaluations.

    The field is evaluated at every other corner of a cube of half side `step` around each point. These corners form a
    tetrahedron; their directions d sum to zero, and sum d d^T = 4 I.
    """
    corners = points.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    shifted = points[None] + step * corners[:, None]
    values = field(shifted.reshape(-1, 3)).reshape(4, -1, 1)
    return (values * corners[:, None]).sum(0) / (4 * step)
