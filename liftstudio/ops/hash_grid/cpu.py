"""Hash-grid kernels for the CPU: numba jobs on the project's thread pool.

Gathers run in parallel over points, scatters over levels. The rows of a level are written by one thread, in the order
of the points, so no atomics are needed and gradients are bit-identical on repeat, for any number of threads.
"""

import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from liftstudio.ops.hash_grid.spec import PRIMES, HashGridSpec
from liftstudio.ops.threads import parallel_for

GRAIN = 256  # minimum points per job

# Rows are unsigned, so that numba omits the wrap-around of negative indices. Float constants are typed: untyped ones
# would turn all arithmetic into float64.
Unsigned = np.uintp
PRIME_Y, PRIME_Z = Unsigned(PRIMES[1]), Unsigned(PRIMES[2])
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)

# Of the fast-math flags only contraction: NaN must stay NaN.
_compile = functools.partial(njit, nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")


class Levels(NamedTuple):
    """The layout as arrays over levels; see HashGridSpec."""

    scales: np.ndarray
    resolutions: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    hashed: np.ndarray


class Level(NamedTuple):
    """One level of `Levels`."""

    scale: Any
    resolution: Any
    size: Any
    offset: Any
    hashed: Any


@functools.cache
def _levels(spec: HashGridSpec) -> Levels:
    return Levels(
        np.array(spec.scales, np.float32),
        np.array(spec.resolutions, Unsigned),
        np.array(spec.sizes, Unsigned),
        np.array(spec.offsets, Unsigned),
        np.array(spec.hashed),
    )


@_compile()
def _level(levels: Any, index: Any) -> Any:
    return Level(
        levels.scales[index],
        levels.resolutions[index],
        levels.sizes[index],
        levels.offsets[index],
        levels.hashed[index],
    )


@_compile()
def _locate_axis(x: Any, scale: Any) -> Any:
    """Cell and fraction along one axis; a NaN coordinate gives cell 0 and a NaN fraction."""
    position = x * scale + HALF
    cell = np.int32(position) if position >= ZERO else np.int32(0)
    return Unsigned(cell), position - np.float32(cell)


@_compile()
def _locate(points: Any, n: Any, scale: Any) -> Any:
    """Cell (x, y, z) and fractions (x, y, z) of a point."""
    x, fraction_x = _locate_axis(points[n, 0], scale)
    y, fraction_y = _locate_axis(points[n, 1], scale)
    z, fraction_z = _locate_axis(points[n, 2], scale)
    return (x, y, z), (fraction_x, fraction_y, fraction_z)


@_compile()
def _row(cell: Any, corner: Any, level: Any) -> Any:
    """Row within the level of a cell's corner 0..7; bit 0 is x, bit 1 is y, bit 2 is z."""
    x, y, z = cell[0] + Unsigned(corner & 1), cell[1] + Unsigned(corner >> 1 & 1), cell[2] + Unsigned(corner >> 2)
    if level.hashed:
        return (x ^ (y * PRIME_Y) ^ (z * PRIME_Z)) & (level.size - Unsigned(1))
    row = x + level.resolution * (y + level.resolution * z)
    # Modulo size: a corner may lie one beyond the grid, never further.
    return row - level.size if row >= level.size else row


@_compile()
def _weights(fraction: Any, corner: Any) -> Any:
    """Linear weights of a corner along each axis."""
    x, y, z = fraction
    return x if corner & 1 else ONE - x, y if corner >> 1 & 1 else ONE - y, z if corner >> 2 else ONE - z


@_compile()
def _slopes(scale: Any, corner: Any) -> Any:
    """Derivatives of `_weights` w.r.t. the point."""
    return scale if corner & 1 else -scale, scale if corner >> 1 & 1 else -scale, scale if corner >> 2 else -scale


@functools.cache
def _jobs(features: int) -> SimpleNamespace:
    """The jobs, compiled for a fixed number of features."""

    @_compile()
    def encode(begin, end, points, table, levels, output):  # type: ignore[no-untyped-def]
        for index in range(len(levels.scales)):
            level = _level(levels, index)
            rows = table[level.offset : level.offset + level.size]
            for n in range(begin, end):
                cell, fraction = _locate(points, n, level.scale)
                for f in range(features):
                    output[n, index * features + f] = ZERO
                for corner in range(8):
                    row = _row(cell, corner, level)
                    wx, wy, wz = _weights(fraction, corner)
                    for f in range(features):
                        output[n, index * features + f] += wx * wy * wz * rows[row, f]

    @_compile()
    def table_gradient(begin, end, points, grad_output, levels, grad_table):  # type: ignore[no-untyped-def]
        for index in range(begin, end):
            level = _level(levels, index)
            grad_rows = grad_table[level.offset : level.offset + level.size]
            grad_rows[:] = ZERO
            for n in range(len(points)):
                cell, fraction = _locate(points, n, level.scale)
                for corner in range(8):
                    row = _row(cell, corner, level)
                    wx, wy, wz = _weights(fraction, corner)
                    for f in range(features):
                        grad_rows[row, f] += wx * wy * wz * grad_output[n, index * features + f]

    @_compile()
    def points_gradient(begin, end, points, table, grad_output, levels, grad_points):  # type: ignore[no-untyped-def]
        grad_points[begin:end] = ZERO
        for index in range(len(levels.scales)):
            level = _level(levels, index)
            rows = table[level.offset : level.offset + level.size]
            for n in range(begin, end):
                cell, fraction = _locate(points, n, level.scale)
                gx = gy = gz = ZERO
                for corner in range(8):
                    row = _row(cell, corner, level)
                    wx, wy, wz = _weights(fraction, corner)
                    sx, sy, sz = _slopes(level.scale, corner)
                    value = ZERO
                    for f in range(features):
                        value += rows[row, f] * grad_output[n, index * features + f]
                    gx += sx * wy * wz * value
                    gy += wx * sy * wz * value
                    gz += wx * wy * sz * value
                grad_points[n, 0] += gx
                grad_points[n, 1] += gy
                grad_points[n, 2] += gz

    @_compile()
    def directional(  # type: ignore[no-untyped-def]
        begin, end, points, table, grad_output, directions, levels, derivative, grad_points
    ):
        grad_points[begin:end] = ZERO
        for index in range(len(levels.scales)):
            level = _level(levels, index)
            rows = table[level.offset : level.offset + level.size]
            for n in range(begin, end):
                cell, fraction = _locate(points, n, level.scale)
                ux, uy, uz = directions[n, 0], directions[n, 1], directions[n, 2]
                gx = gy = gz = ZERO
                for f in range(features):
                    derivative[n, index * features + f] = ZERO
                for corner in range(8):
                    row = _row(cell, corner, level)
                    wx, wy, wz = _weights(fraction, corner)
                    sx, sy, sz = _slopes(level.scale, corner)
                    tx, ty, tz = ux * sx, uy * sy, uz * sz
                    slope_yz = ty * wz + wy * tz
                    slope = tx * wy * wz + wx * slope_yz
                    value = ZERO
                    for f in range(features):
                        derivative[n, index * features + f] += slope * rows[row, f]
                        value += rows[row, f] * grad_output[n, index * features + f]
                    gx += sx * slope_yz * value
                    gy += sy * (tx * wz + wx * tz) * value
                    gz += sz * (tx * wy + wx * ty) * value
                grad_points[n, 0] += gx
                grad_points[n, 1] += gy
                grad_points[n, 2] += gz

    @_compile()
    def directional_table_gradient(  # type: ignore[no-untyped-def]
        begin, end, points, grad_output, directions, levels, grad_table
    ):
        for index in range(begin, end):
            level = _level(levels, index)
            grad_rows = grad_table[level.offset : level.offset + level.size]
            grad_rows[:] = ZERO
            for n in range(len(points)):
                cell, fraction = _locate(points, n, level.scale)
                ux, uy, uz = directions[n, 0], directions[n, 1], directions[n, 2]
                for corner in range(8):
                    row = _row(cell, corner, level)
                    wx, wy, wz = _weights(fraction, corner)
                    sx, sy, sz = _slopes(level.scale, corner)
                    slope = ux * sx * wy * wz + wx * (uy * sy * wz + wy * uz * sz)
                    for f in range(features):
                        grad_rows[row, f] += slope * grad_output[n, index * features + f]

    return SimpleNamespace(
        encode=encode,
        table_gradient=table_gradient,
        points_gradient=points_gradient,
        directional=directional,
        directional_table_gradient=directional_table_gradient,
    )


def encode(points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    output = points.new_empty(len(points), spec.output_size)
    _run(_jobs(spec.features).encode, len(points), GRAIN, points, table, _levels(spec), output)
    return output


def table_gradient(points: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    grad_table = points.new_empty(spec.entries, spec.features)
    _run(_jobs(spec.features).table_gradient, spec.levels, 1, points, grad_output, _levels(spec), grad_table)
    return grad_table


def points_gradient(points: Tensor, table: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    grad_points = torch.empty_like(points)
    job = _jobs(spec.features).points_gradient
    _run(job, len(points), GRAIN, points, table, grad_output, _levels(spec), grad_points)
    return grad_points


def directional(
    points: Tensor, table: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec
) -> tuple[Tensor, Tensor]:
    """See `autograd.Kernels`."""
    derivative, grad_points = torch.empty_like(grad_output), torch.empty_like(points)
    job, inputs = _jobs(spec.features).directional, (points, table, grad_output, directions)
    _run(job, len(points), GRAIN, *inputs, _levels(spec), derivative, grad_points)
    return derivative, grad_points


def directional_table_gradient(points: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    grad_table = points.new_empty(spec.entries, spec.features)
    job = _jobs(spec.features).directional_table_gradient
    _run(job, spec.levels, 1, points, grad_output, directions, _levels(spec), grad_table)
    return grad_table


def _run(job: Any, total: int, grain: int, *arguments: Tensor | Levels) -> None:
    """Run `job(begin, end, *arguments)` over ranges that cover [0, total)."""
    arrays = [item.detach().numpy() if isinstance(item, Tensor) else item for item in arguments]
    parallel_for(lambda begin, end: job(begin, end, *arrays), total, grain=grain)
