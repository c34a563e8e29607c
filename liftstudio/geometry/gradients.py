"""Gradients of scalar fields at points, where a loss may in turn depend on them."""

from collections.abc import Callable

import torch
from torch import Tensor

ScalarField = Callable[[Tensor], Tensor]  # points [N, 3] -> values [N, 1]


def analytic_gradient(field: ScalarField, points: Tensor) -> Tensor:
    """[N, 3] by differentiation; differentiable once more when gradients are enabled."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = points if points.requires_grad else points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(field(points).sum(), points, create_graph=create_graph)
    return gradient


def difference_gradient(field: ScalarField, points: Tensor, step: float) -> Tensor:
    """[N, 3] by four evaluations, `step` to each side along the axes of a cube whose every other corner they take.

    The directions d to the corners of a tetrahedron sum to zero, and sum d d^T = 4 I.
    """
    corners = points.new_tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    shifted = points[None] + step * corners[:, None]
    values = field(shifted.reshape(-1, 3)).reshape(4, -1, 1)
    return (values * corners[:, None]).sum(0) / (4 * step)
