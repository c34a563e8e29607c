"""The encoding and its derivatives as autograd functions over a set of kernels.

The encoding is linear in the table, so the first derivatives need three functions: the encoding, its gradient w.r.t.
the table (the adjoint in the table) and its gradient w.r.t. the points. Differentiating the last one takes two more
kernels; there are no third derivatives.
"""

from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from liftstudio.ops.hash_grid.spec import HashGridSpec


class Kernels(Protocol):
    """The interface of a backend; all tensors are contiguous float32, points are in [0, 1] or NaN.

    Below, `w_c(x)` is the trilinear weight of corner c, `T_c` its table row, `g` the gradient [N, levels * features]
    w.r.t. the encoding, and `u` [N, 3] a direction per point.
    """

    def encode(self, points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
        """Encoding sum_c w_c T_c: [N, levels * features]."""

    def table_gradient(self, points: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
        """Gradient w.r.t. the table, w_c g summed into row c: [entries, features]."""

    def points_gradient(self, points: Tensor, table: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
        """Gradient w.r.t. the points, sum_c grad w_c (T_c . g): [N, 3]."""

    def directional(
        self, points: Tensor, table: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec
    ) -> tuple[Tensor, Tensor]:
        """Gradients of `u . points_gradient` w.r.t. g, sum_c (u . grad w_c) T_c, and w.r.t. points, H(g . encode) u."""

    def directional_table_gradient(
        self, points: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec
    ) -> Tensor:
        """Gradient of `u . points_gradient` w.r.t. the table, (u . grad w_c) g added to row c: [entries, features]."""


class Encode(Function):
    """The encoding: points [N, 3], table [entries, features] -> [N, levels * features]."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, kernels: Kernels, spec: HashGridSpec) -> Tensor:
        """The encoding [N, levels * features]."""
        ctx.save_for_backward(points, table)
        ctx.kernels, ctx.spec = kernels, spec
        return kernels.encode(points, table, spec)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients w.r.t. points and table, given that w.r.t. the encoding [N, levels * features]."""
        points, table = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        to_points, to_table = ctx.needs_input_grad[:2]
        return (
            PointsGradient.apply(points, table, grad_output, ctx.kernels, ctx.spec) if to_points else None,
            TableGradient.apply(points, grad_output, ctx.kernels, ctx.spec) if to_table else None,
            None,
            None,
        )


class TableGradient(Function):
    """Gradient of the encoding w.r.t. the table: points, grad_output [N, levels * features] -> [entries, features]."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, grad_output: Tensor, kernels: Kernels, spec: HashGridSpec) -> Tensor:
        """The gradient of `Encode` w.r.t. its table [entries, features]."""
        ctx.save_for_backward(points, grad_output)
        ctx.kernels, ctx.spec = kernels, spec
        return kernels.table_gradient(points, grad_output, spec)

    @staticmethod
    def backward(ctx: Any, grad_table: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients w.r.t. points and grad_output, given that w.r.t. the table's gradient [entries, features]."""
        points, grad_output = ctx.saved_tensors
        grad_table = grad_table.contiguous()
        to_points, to_output = ctx.needs_input_grad[:2]
        return (
            PointsGradient.apply(points, grad_table, grad_output, ctx.kernels, ctx.spec) if to_points else None,
            Encode.apply(points, grad_table, ctx.kernels, ctx.spec) if to_output else None,
            None,
            None,
        )


class PointsGradient(Function):
    """Gradient of the encoding w.r.t. the points: points, table, grad_output [N, levels * features] -> [N, 3]."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, table: Tensor, grad_output: Tensor, kernels: Kernels, spec: HashGridSpec
    ) -> Tensor:
        """The gradient of `Encode` w.r.t. its points [N, 3]."""
        ctx.save_for_backward(points, table, grad_output)
        ctx.kernels, ctx.spec = kernels, spec
        return kernels.points_gradient(points, table, grad_output, spec)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, directions: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients w.r.t. points, table and grad_output, given that w.r.t. the points' gradient [N, 3]."""
        points, table, grad_output = ctx.saved_tensors
        directions = directions.contiguous()
        to_points, to_table, to_output = ctx.needs_input_grad[:3]
        grad_table = second_grad_output = grad_points = None
        if to_table:
            grad_table = ctx.kernels.directional_table_gradient(points, grad_output, directions, ctx.spec)
        if to_points or to_output:
            second_grad_output, grad_points = ctx.kernels.directional(points, table, grad_output, directions, ctx.spec)
        return grad_points, grad_table, second_grad_output, None, None
