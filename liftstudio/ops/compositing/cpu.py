"""Compositing on the CPU: numba jobs over rays, bit-identical on repeat.

Each ray is processed column by column (one short loop per channel): a loop over channels inside the loop over samples
takes three times as long.
"""

import sys
from typing import Any

import numba
import numpy as np
from torch import Tensor

from liftstudio.ops.compositing import Composite, autograd
from liftstudio.ops.compositing.autograd import Sums
from liftstudio.ops.marching import Samples
from liftstudio.ops.threads import parallel_for

_RAYS_PER_JOB = 64
_ZERO, _ONE, _HALF, _TWO, _THIRD = (np.float32(x) for x in (0, 1, 0.5, 2, 1 / 3))


def composite(sigma: Tensor, values: Tensor, samples: Samples, distortion: bool) -> Composite:
    """See the package's `composite`; float32."""
    return autograd.composite(sys.modules[__name__], sigma, values, samples, distortion)


def forward(alpha: Tensor, values: Tensor, samples: Samples, transmittance: Tensor, sums: Sums) -> None:
    """See `autograd.Kernels`."""
    arrays = _numpy(alpha, values, samples.t_start, samples.t_end, samples.offsets, transmittance, *vars(sums).values())
    parallel_for(lambda begin, end: _forward(begin, end, *arrays), len(transmittance), grain=_RAYS_PER_JOB)


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
    arrays = _numpy(values, samples.t_start, samples.t_end, samples.offsets, transmittance)
    totals = _numpy(sums.weights, sums.opacity, sums.depth)
    gradients = _numpy(*vars(grads).values(), grad_sigma, grad_values)
    parallel_for(
        lambda begin, end: _backward(begin, end, *arrays, *totals, *gradients),
        len(transmittance),
        grain=_RAYS_PER_JOB,
    )


def _numpy(*tensors: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.detach().numpy() for tensor in tensors)


@numba.njit(nogil=True, cache=True)
def _forward(  # type: ignore[no-untyped-def]
    begin, end, alpha, values, t_start, t_end, offsets, behind, weights, opacity, totals, depth, distortion
):
    for ray in range(begin, end):
        first, last = offsets[ray], offsets[ray + 1]
        w, start, stop = weights[first:last], t_start[first:last], t_end[first:last]
        behind[ray], opacity[ray], depth[ray] = _scan(alpha[first:last], start, stop, w)
        for c in range(values.shape[1]):
            totals[ray, c] = _dot(w, values[first:last, c])
        if len(distortion) > 0:
            distortion[ray] = _distortion(w, start, stop)


@numba.njit(nogil=True, cache=True)
def _scan(alpha, t_start, t_end, weights):  # type: ignore[no-untyped-def]
    """Write the weights of one ray; return the transmittance behind it, its opacity and its depth."""
    transmittance, opacity, depth = _ONE, _ZERO, _ZERO
    for i in range(len(alpha)):
        weight = transmittance * alpha[i]
        # Not `*= 1 - alpha`: the rounding error of 1 - alpha has the same sign at every step of a uniform section.
        transmittance -= weight
        opacity += weight
        depth += weight * (_HALF * (t_start[i] + t_end[i]))
        weights[i] = weight
    return transmittance, opacity, depth


@numba.njit(nogil=True, cache=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    """Dot product with four independent partial sums, since additions to a single one would wait for each other."""
    s0, s1, s2, s3 = _ZERO, _ZERO, _ZERO, _ZERO
    quads = len(a) >> 2
    for quad in range(quads):
        i = 4 * quad
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
    for i in range(4 * quads, len(a)):
        s0 += a[i] * b[i]
    return (s0 + s1) + (s2 + s3)


@numba.njit(nogil=True, cache=True)
def _distortion(weights, t_start, t_end):  # type: ignore[no-untyped-def]
    """Distortion (eq. 15) in one pass; `moment` is sum_{j < i} w_j (m_i - m_j), updated from midpoint to midpoint."""
    total, moment, weight_sum, previous = _ZERO, _ZERO, _ZERO, _ZERO
    for i in range(len(weights)):
        t_mid = _HALF * (t_start[i] + t_end[i])
        moment += weight_sum * (t_mid - previous)
        total += weights[i] * (_TWO * moment + weights[i] * (t_end[i] - t_start[i]) * _THIRD)
        weight_sum += weights[i]
        previous = t_mid
    return total


@numba.njit(nogil=True, cache=True)
def _backward(  # type: ignore[no-untyped-def]
    begin,
    end,
    values,
    t_start,
    t_end,
    offsets,
    behind,
    weights,
    opacity,
    depth,
    grad_weights,
    grad_opacity,
    grad_totals,
    grad_depth,
    grad_distortion,
    grad_sigma,
    grad_values,
):
    for ray in range(begin, end):
        first, last = offsets[ray], offsets[ray + 1]
        w, start, stop, grad = weights[first:last], t_start[first:last], t_end[first:last], grad_sigma[first:last]
        if len(grad_values) > 0:
            for c in range(values.shape[1]):
                _scale(grad_values[first:last, c], grad_totals[ray, c], w)
        # grad_sigma first holds the gradients w.r.t. the weights.
        for i in range(len(grad)):
            grad[i] = grad_opacity[ray] + grad_depth[ray] * _HALF * (start[i] + stop[i])
        for c in range(values.shape[1]):
            _add_scaled(grad, grad_totals[ray, c], values[first:last, c])
        if len(grad_weights) > 0:
            _add_scaled(grad, _ONE, grad_weights[first:last])
        if len(grad_distortion) > 0:
            _add_distortion(grad, grad_distortion[ray], w, start, stop, opacity[ray], depth[ray])
        _to_sigma(grad, behind[ray], w, start, stop)


@numba.njit(nogil=True, cache=True)
def _add_scaled(target, factor, source):  # type: ignore[no-untyped-def]
    for i in range(len(target)):
        target[i] += factor * source[i]


@numba.njit(nogil=True, cache=True)
def _scale(target, factor, source):  # type: ignore[no-untyped-def]
    for i in range(len(target)):
        target[i] = factor * source[i]


@numba.njit(nogil=True, cache=True)
def _add_distortion(grad, factor, weights, t_start, t_end, opacity, depth):  # type: ignore[no-untyped-def]
    """Add dL/dw_i = 2 sum_j w_j |m_i - m_j| + 2/3 w_i (t_end_i - t_start_i) times `factor`."""
    moment, weight_sum, previous = _ZERO, _ZERO, _ZERO
    for i in range(len(grad) - 1, -1, -1):
        t_mid = _HALF * (t_start[i] + t_end[i])
        # sum_{j > i} w_j (m_j - m_i); twice that plus sum_j w_j (m_i - m_j) is the sum of the absolute values.
        moment += weight_sum * (previous - t_mid)
        spread = _TWO * moment + t_mid * opacity - depth
        grad[i] += factor * _TWO * (spread + weights[i] * (t_end[i] - t_start[i]) * _THIRD)
        weight_sum += weights[i]
        previous = t_mid


@numba.njit(nogil=True, cache=True)
def _to_sigma(grad, behind, weights, t_start, t_end):  # type: ignore[no-untyped-def]
    """Convert the gradients w.r.t. the weights of one ray, in place, to those w.r.t. sigma."""
    transmittance, weighted = behind, _ZERO
    for i in range(len(grad) - 1, -1, -1):
        share = weights[i] * grad[i]
        grad[i] = (t_end[i] - t_start[i]) * (transmittance * grad[i] - weighted)
        weighted += share
        transmittance += weights[i]
