"""Compositing as an autograd function over kernels that walk each ray.

With g_i = dL/dw_i collected from every output that contains w_i, and because w_i = T_i alpha_i,

    dL/dsigma_i = (t_end_i - t_start_i) * (T_{i+1} g_i - sum_{j > i on the ray} w_j g_j).

A walk back from the last sample accumulates both terms: T_{i+1} is the transmittance behind the last sample plus the
weights passed so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from liftstudio.ops.compositing import Composite
from liftstudio.ops.marching import Samples


@dataclass(frozen=True)
class Sums:
    """Sums along the rays, or the gradients of a loss w.r.t. them.

    weights: [S], opacity: [R], values: [R, C], depth: [R], distortion: [R].
    `distortion` is empty if not requested; missing gradients w.r.t. `weights` and `distortion` are empty.
    """

    weights: Tensor
    opacity: Tensor
    values: Tensor
    depth: Tensor
    distortion: Tensor


class Kernels(Protocol):
    """The interface of a backend's module; all tensors are contiguous float32, and all outputs are overwritten."""

    def forward(self, alpha: Tensor, values: Tensor, samples: Samples, transmittance: Tensor, sums: Sums) -> None:
        """Write the sums, and the transmittance [R] behind each ray's last sample."""

    def backward(
        self,
        values: Tensor,
        samples: Samples,
        transmittance: Tensor,
        sums: Sums,
        grads: Sums,
        grad_sigma: Tensor,
        grad_values: Tensor,
    ) -> None:
        """Write the gradients w.r.t. sigma [S] and values [S, C]; the latter is skipped if `grad_values` is empty."""


def composite(kernels: Kernels, sigma: Tensor, values: Tensor, samples: Samples, distortion: bool) -> Composite:
    """See the package's `composite`; float32."""
    weights, opacity, values, depth, distorted = _Composite.apply(sigma, values, samples, distortion, kernels)
    columns = (opacity[:, None], values, depth[:, None], distorted[:, None] if distortion else None)
    return Composite(weights, *columns)


class _Composite(Function):
    @staticmethod
    def forward(
        ctx: Any, sigma: Tensor, values: Tensor, samples: Samples, distortion: bool, kernels: Kernels
    ) -> tuple[Tensor, ...]:
        values, rays = values.contiguous(), len(samples.offsets) - 1
        alpha = (samples.t_start - samples.t_end).mul_(sigma).expm1_().neg_()
        transmittance, opacity, depth = (sigma.new_empty(rays) for _ in range(3))
        distorted = sigma.new_empty(rays if distortion else 0)
        outputs = (torch.empty_like(alpha), opacity, values.new_empty(rays, values.shape[1]), depth, distorted)
        kernels.forward(alpha, values, samples, transmittance, Sums(*outputs))
        ctx.save_for_backward(values, transmittance, *outputs)
        ctx.samples, ctx.kernels = samples, kernels
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        values, transmittance, *outputs = ctx.saved_tensors
        grad_sigma = torch.empty_like(outputs[0])
        grad_values = torch.empty_like(values) if ctx.needs_input_grad[1] else values.new_empty(0, values.shape[1])
        sums, grad_sums = Sums(*outputs), _filled(Sums(*outputs), grads)
        ctx.kernels.backward(values, ctx.samples, transmittance, sums, grad_sums, grad_sigma, grad_values)
        return grad_sigma, grad_values if ctx.needs_input_grad[1] else None, None, None, None


def _filled(sums: Sums, grads: Sequence[Tensor | None]) -> Sums:
    """The gradients with missing ones filled in: empty for the weights and the distortion, zero otherwise."""
    weights, opacity, totals, depth, distortion = (None if grad is None else grad.contiguous() for grad in grads)
    return Sums(
        weights=sums.weights[:0] if weights is None else weights,
        opacity=torch.zeros_like(sums.opacity) if opacity is None else opacity,
        values=torch.zeros_like(sums.values) if totals is None else totals,
        depth=torch.zeros_like(sums.depth) if depth is None else depth,
        distortion=sums.distortion[:0] if distortion is None else distortion,
    )
