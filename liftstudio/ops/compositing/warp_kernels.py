"""Compositing on CUDA (and, in tests, Warp's CPU device). No atomics, so bit-identical on repeat.

Work that depends on the order along a ray uses one thread per ray; other work, one per sample or channel.
"""
# `float(0.0)` declares a variable that a loop may change; Warp's annotations are calls, which mypy cannot read.
# ruff: noqa: UP018
# mypy: disable-error-code="valid-type, no-untyped-def, operator, misc"

import sys

import warp as wp
from torch import Tensor

from liftstudio.ops.compositing import Composite, autograd
from liftstudio.ops.compositing.autograd import Sums
from liftstudio.ops.marching import Samples
from liftstudio.ops.warp_runtime import launch


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool) -> Composite:
    """See the package's `composite`; float32."""
    return autograd.composite(sys.modules[__name__], sigma, values, samples, distortion)


def forward(alpha: Tensor, values: Tensor, samples: Samples, transmittance: Tensor, sums: Sums) -> None:
    """See `autograd.Kernels`."""
    rays, device = len(transmittance), alpha.device
    outputs = (transmittance, sums.weights, sums.opacity, sums.depth, sums.distortion)
    launch(_scan, rays, alpha, samples.t_start, samples.t_end, samples.offsets, *outputs, device=device)
    launch(_total, tuple(sums.values.shape), sums.weights, values, samples.offsets, sums.values, device=device)


def backward(
    values: Tensor,
    samples: Samples,
    transmittance: Tensor,
    sums: Sums,
    grads: Sums,
    grad_sigma: Tensor,
    grad_values: Tensor,
) -> None:
    """See `autograd.Kernels`."""
    device = grad_sigma.device
    along = (samples.t_start, samples.t_end)
    gradients = (grads.weights, grads.opacity, grads.values, grads.depth, grad_sigma, grad_values)
    launch(_to_weights, len(grad_sigma), values, samples.ray_index, *along, sums.weights, *gradients, device=device)
    totals = (transmittance, sums.weights, sums.opacity, sums.depth)
    launch(_to_sigma, len(transmittance), *along, samples.offsets, *totals, grads.distortion, grad_sigma, device=device)


@wp.kernel(enable_backward=False)
def _scan(
    alpha: wp.array(dtype=float),
    t_start: wp.array(dtype=float),
    t_end: wp.array(dtype=float),
    offsets: wp.array(dtype=wp.int64),
    behind: wp.array(dtype=float),
    weights: wp.array(dtype=float),
    opacity: wp.array(dtype=float),
    depth: wp.array(dtype=float),
    distortion: wp.array(dtype=float),
):
    """The weights of one ray and their sums; `moment` is sum_{j < i} w_j (m_i - m_j), as in the numba kernel."""
    ray = wp.tid()
    transmittance, weight_sum, depth_sum = float(1.0), float(0.0), float(0.0)
    spread, moment, previous = float(0.0), float(0.0), float(0.0)
    for i in range(int(offsets[ray]), int(offsets[ray + 1])):
        weight = transmittance * alpha[i]
        t_mid = 0.5 * (t_start[i] + t_end[i])
        moment += weight_sum * (t_mid - previous)
        spread += weight * (2.0 * moment + weight * (t_end[i] - t_start[i]) / 3.0)
        transmittance -= weight  # as in the numba kernel: more accurate than *= 1 - alpha
        weight_sum += weight
        depth_sum += weight * t_mid
        weights[i] = weight
        previous = t_mid
    behind[ray] = transmittance
    opacity[ray] = weight_sum
    depth[ray] = depth_sum
    if distortion.shape[0] > 0:
        distortion[ray] = spread


@wp.kernel(enable_backward=False)
def _total(
    weights: wp.array(dtype=float),
    values: wp.array2d(dtype=float),
    offsets: wp.array(dtype=wp.int64),
    totals: wp.array2d(dtype=float),
):
    ray, channel = wp.tid()
    total = float(0.0)
    for i in range(int(offsets[ray]), int(offsets[ray + 1])):
        total += weights[i] * values[i, channel]
    totals[ray, channel] = total


@wp.kernel(enable_backward=False)
def _to_weights(
    values: wp.array2d(dtype=float),
    ray_index: wp.array(dtype=wp.int64),
    t_start: wp.array(dtype=float),
    t_end: wp.array(dtype=float),
    weights: wp.array(dtype=float),
    grad_weights: wp.array(dtype=float),
    grad_opacity: wp.array(dtype=float),
    grad_totals: wp.array2d(dtype=float),
    grad_depth: wp.array(dtype=float),
    grad_sigma: wp.array(dtype=float),
    grad_values: wp.array2d(dtype=float),
):
    """The gradients w.r.t. a sample's values and, without the distortion, its weight; the latter in `grad_sigma`."""
    i = wp.tid()
    ray = int(ray_index[i])
    grad = grad_opacity[ray] + grad_depth[ray] * 0.5 * (t_start[i] + t_end[i])
    for c in range(values.shape[1]):
        grad += grad_totals[ray, c] * values[i, c]
    if grad_weights.shape[0] > 0:
        grad += grad_weights[i]
    grad_sigma[i] = grad
    if grad_values.shape[0] > 0:
        for c in range(values.shape[1]):
            grad_values[i, c] = weights[i] * grad_totals[ray, c]


@wp.kernel(enable_backward=False)
def _to_sigma(
    t_start: wp.array(dtype=float),
    t_end: wp.array(dtype=float),
    offsets: wp.array(dtype=wp.int64),
    behind: wp.array(dtype=float),
    weights: wp.array(dtype=float),
    opacity: wp.array(dtype=float),
    depth: wp.array(dtype=float),
    grad_distortion: wp.array(dtype=float),
    grad_sigma: wp.array(dtype=float),
):
    """Walk one ray from its last sample: add the distortion to the gradients w.r.t. weights, convert them to sigma."""
    ray = wp.tid()
    factor = float(0.0)
    if grad_distortion.shape[0] > 0:
        factor = 2.0 * grad_distortion[ray]
    transmittance = float(behind[ray])
    weighted, moment, weight_sum, following = float(0.0), float(0.0), float(0.0), float(0.0)
    first, last = int(offsets[ray]), int(offsets[ray + 1])
    for k in range(last - first):
        i = last - 1 - k
        weight = weights[i]
        length = t_end[i] - t_start[i]
        t_mid = 0.5 * (t_start[i] + t_end[i])
        # sum_{j > i} w_j (m_j - m_i); twice that plus sum_j w_j (m_i - m_j) is the sum of the absolute values.
        moment += weight_sum * (following - t_mid)
        spread = 2.0 * moment + t_mid * opacity[ray] - depth[ray]
        grad = grad_sigma[i] + factor * (spread + weight * length / 3.0)
        grad_sigma[i] = length * (transmittance * grad - weighted)
        weighted += weight * grad
        weight_sum += weight
        transmittance += weight
        following = t_mid
