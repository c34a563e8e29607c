# mypy: disable-error-code="no-untyped-def, valid-type, index, misc"
# Kernels are written in Warp's language, which the type checker reads as Python.
"""Hash-grid kernels in Warp, for CUDA; in tests also for CPU tensors, single-threaded.

Scatters use atomics: on CUDA the last bits of their sums vary from run to run.
"""

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import warp as wp
from torch import Tensor

from liftstudio.ops.hash_grid.spec import PRIMES, HashGridSpec
from liftstudio.ops.warp_runtime import launch

PRIME_Y, PRIME_Z = wp.constant(wp.uint32(PRIMES[1])), wp.constant(wp.uint32(PRIMES[2]))


@wp.struct
class Level:
    """One level of the layout; see HashGridSpec."""

    scale: wp.float32
    resolution: wp.uint32
    size: wp.uint32
    offset: wp.uint32
    hashed: wp.uint32


@wp.func
def axis_cell(position: float):
    """Cell of a position given in cells; 0 for NaN."""
    return wp.uint32(wp.where(position >= 0.0, position, 0.0))


@wp.func
def locate(point: wp.vec3, scale: float):
    """Cell (x, y, z) and fractions (x, y, z) of a point; fractions of NaN coordinates are NaN."""
    position = point * scale + wp.vec3(0.5)
    cell = wp.vec3ui(axis_cell(position[0]), axis_cell(position[1]), axis_cell(position[2]))
    return cell, position - wp.vec3(float(cell[0]), float(cell[1]), float(cell[2]))


@wp.func
def corner_row(cell: wp.vec3ui, corner: int, level: Level):
    """Table row of a cell's corner 0..7; bit 0 is x, bit 1 is y, bit 2 is z."""
    x = cell[0] + wp.uint32(corner & 1)
    y = cell[1] + wp.uint32((corner >> 1) & 1)
    z = cell[2] + wp.uint32(corner >> 2)
    row = x + level.resolution * (y + level.resolution * z)
    if level.hashed != wp.uint32(0):
        row = x ^ (y * PRIME_Y) ^ (z * PRIME_Z)
    return int(level.offset + row % level.size)


@wp.func
def corner_weights(fraction: wp.vec3, corner: int):
    """Linear weights of a corner along each axis."""
    return wp.vec3(
        wp.where((corner & 1) != 0, fraction[0], 1.0 - fraction[0]),
        wp.where(((corner >> 1) & 1) != 0, fraction[1], 1.0 - fraction[1]),
        wp.where((corner >> 2) != 0, fraction[2], 1.0 - fraction[2]),
    )


@wp.func
def corner_slopes(scale: float, corner: int):
    """Derivatives of `corner_weights` w.r.t. the point."""
    return wp.vec3(
        wp.where((corner & 1) != 0, scale, -scale),
        wp.where(((corner >> 1) & 1) != 0, scale, -scale),
        wp.where((corner >> 2) != 0, scale, -scale),
    )


@wp.func
def weight_gradient(w: wp.vec3, s: wp.vec3):
    """Gradient of the trilinear weight w.x w.y w.z."""
    return wp.vec3(s[0] * w[1] * w[2], w[0] * s[1] * w[2], w[0] * w[1] * s[2])


@wp.func
def weight_hessian_product(w: wp.vec3, s: wp.vec3, u: wp.vec3):
    """Hessian of the trilinear weight, which has only mixed terms, times `u`."""
    return wp.vec3(
        s[0] * (u[1] * s[1] * w[2] + u[2] * w[1] * s[2]),
        s[1] * (u[0] * s[0] * w[2] + u[2] * w[0] * s[2]),
        s[2] * (u[0] * s[0] * w[1] + u[1] * w[0] * s[1]),
    )


@functools.cache
def _kernels(features: int) -> SimpleNamespace:
    """The kernels for a fixed number of features: a table row, or a level's part of an encoding, is one vector."""
    row_type = wp.types.vector(length=features, dtype=wp.float32)
    kernel = functools.partial(wp.kernel, enable_backward=False, module="unique")

    @kernel
    def encode(
        points: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=row_type),
        levels: wp.array(dtype=Level),
        output: wp.array2d(dtype=row_type),
    ):
        index, n = wp.tid()
        level = levels[index]
        cell, fraction = locate(points[n], level.scale)
        value = row_type()
        for corner in range(8):
            w = corner_weights(fraction, corner)
            value += w[0] * w[1] * w[2] * table[corner_row(cell, corner, level)]
        output[n, index] = value

    @kernel
    def table_gradient(
        points: wp.array(dtype=wp.vec3),
        grad_output: wp.array2d(dtype=row_type),
        levels: wp.array(dtype=Level),
        grad_table: wp.array(dtype=row_type),
    ):
        index, n = wp.tid()
        level = levels[index]
        cell, fraction = locate(points[n], level.scale)
        for corner in range(8):
            w = corner_weights(fraction, corner)
            wp.atomic_add(grad_table, corner_row(cell, corner, level), w[0] * w[1] * w[2] * grad_output[n, index])

    @kernel
    def points_gradient(
        points: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=row_type),
        grad_output: wp.array2d(dtype=row_type),
        levels: wp.array(dtype=Level),
        grad_points: wp.array(dtype=wp.vec3),
    ):
        n = wp.tid()
        gradient = wp.vec3()
        for index in range(levels.shape[0]):
            level = levels[index]
            cell, fraction = locate(points[n], level.scale)
            for corner in range(8):
                value = wp.dot(table[corner_row(cell, corner, level)], grad_output[n, index])
                gradient += value * weight_gradient(
                    corner_weights(fraction, corner), corner_slopes(level.scale, corner)
                )
        grad_points[n] = gradient

    @kernel
    def directional(
        points: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=row_type),
        grad_output: wp.array2d(dtype=row_type),
        directions: wp.array(dtype=wp.vec3),
        levels: wp.array(dtype=Level),
        derivative: wp.array2d(dtype=row_type),
        grad_points: wp.array(dtype=wp.vec3),
    ):
        n = wp.tid()
        gradient = wp.vec3()
        for index in range(levels.shape[0]):
            level = levels[index]
            cell, fraction = locate(points[n], level.scale)
            slope = row_type()
            for corner in range(8):
                row = table[corner_row(cell, corner, level)]
                w, s = corner_weights(fraction, corner), corner_slopes(level.scale, corner)
                slope += wp.dot(directions[n], weight_gradient(w, s)) * row
                gradient += wp.dot(row, grad_output[n, index]) * weight_hessian_product(w, s, directions[n])
            derivative[n, index] = slope
        grad_points[n] = gradient

    @kernel
    def directional_table_gradient(
        points: wp.array(dtype=wp.vec3),
        grad_output: wp.array2d(dtype=row_type),
        directions: wp.array(dtype=wp.vec3),
        levels: wp.array(dtype=Level),
        grad_table: wp.array(dtype=row_type),
    ):
        index, n = wp.tid()
        level = levels[index]
        cell, fraction = locate(points[n], level.scale)
        for corner in range(8):
            gradient = weight_gradient(corner_weights(fraction, corner), corner_slopes(level.scale, corner))
            slope = wp.dot(directions[n], gradient)
            wp.atomic_add(grad_table, corner_row(cell, corner, level), slope * grad_output[n, index])

    return SimpleNamespace(
        row_type=row_type,
        encode=encode,
        table_gradient=table_gradient,
        points_gradient=points_gradient,
        directional=directional,
        directional_table_gradient=directional_table_gradient,
    )


def encode(points: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    views = _Views(spec, points.device)
    output = points.new_empty(len(points), spec.output_size)
    arguments = views.vectors(points), views.rows(table), views.levels, views.grid(output)
    launch(views.kernels.encode, (spec.levels, len(points)), *arguments, device=points.device)
    return output


def table_gradient(points: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    views = _Views(spec, points.device)
    grad_table = points.new_zeros(spec.entries, spec.features)
    arguments = views.vectors(points), views.grid(grad_output), views.levels, views.rows(grad_table)
    launch(views.kernels.table_gradient, (spec.levels, len(points)), *arguments, device=points.device)
    return grad_table


def points_gradient(points: Tensor, table: Tensor, grad_output: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    views = _Views(spec, points.device)
    grad_points = torch.empty_like(points)
    inputs = views.vectors(points), views.rows(table), views.grid(grad_output), views.levels
    launch(views.kernels.points_gradient, len(points), *inputs, views.vectors(grad_points), device=points.device)
    return grad_points


def directional(
    points: Tensor, table: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec
) -> tuple[Tensor, Tensor]:
    """See `autograd.Kernels`."""
    views = _Views(spec, points.device)
    derivative, grad_points = torch.empty_like(grad_output), torch.empty_like(points)
    inputs = views.vectors(points), views.rows(table), views.grid(grad_output), views.vectors(directions), views.levels
    outputs = views.grid(derivative), views.vectors(grad_points)
    launch(views.kernels.directional, len(points), *inputs, *outputs, device=points.device)
    return derivative, grad_points


def directional_table_gradient(points: Tensor, grad_output: Tensor, directions: Tensor, spec: HashGridSpec) -> Tensor:
    """See `autograd.Kernels`."""
    views = _Views(spec, points.device)
    grad_table = points.new_zeros(spec.entries, spec.features)
    inputs = views.vectors(points), views.grid(grad_output), views.vectors(directions), views.levels
    kernel, dim = views.kernels.directional_table_gradient, (spec.levels, len(points))
    launch(kernel, dim, *inputs, views.rows(grad_table), device=points.device)
    return grad_table


class _Views:
    """Warp views of tensors for one layout."""

    def __init__(self, spec: HashGridSpec, device: torch.device) -> None:
        self.spec, self.kernels, self.levels = spec, _kernels(spec.features), _levels(spec, device)

    def vectors(self, tensor: Tensor) -> Any:
        """View of a tensor [N, 3] as N vectors."""
        return wp.from_torch(tensor.detach(), dtype=wp.vec3)

    def rows(self, table: Tensor) -> Any:
        """View of a table [entries, features] as rows."""
        return wp.from_torch(table.detach(), dtype=self.kernels.row_type)

    def grid(self, encoding: Tensor) -> Any:
        """View of an encoding [N, levels * features] as N x levels rows."""
        split = encoding.detach().view(-1, self.spec.levels, self.spec.features)
        return wp.from_torch(split, dtype=self.kernels.row_type)


@functools.cache
def _levels(spec: HashGridSpec, device: torch.device) -> Any:
    layout: Any = Level
    levels = np.empty(spec.levels, layout.numpy_dtype())
    levels["scale"], levels["resolution"], levels["size"] = spec.scales, spec.resolutions, spec.sizes
    levels["offset"], levels["hashed"] = spec.offsets, spec.hashed
    return wp.array(levels, dtype=Level, device=wp.device_from_torch(device))
