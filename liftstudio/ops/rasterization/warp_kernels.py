# mypy: disable-error-code="no-untyped-def, valid-type, arg-type, call-overload, index, misc, operator"
# Kernels are written in Warp's language, which the type checker reads as Python.
"""Scan conversion in Warp: a few threads per triangle; the nearest fragment is an atomic minimum of packed 64-bit keys.

Runs on CUDA and on Warp's CPU device; the formulas are in `reference`.
"""

import torch
import warp as wp
from torch import Tensor

from liftstudio.ops.rasterization import reference
from liftstudio.ops.warp_runtime import launch

LANES = 8  # threads that share the rows of one triangle
DEPTH_STEPS = wp.constant(wp.float64(reference.DEPTH_STEPS))
FACE_BITS = wp.constant(wp.int64(reference.FACE_BITS))
DEGENERATE = wp.constant(wp.float64(reference.DEGENERATE))
SLACK = wp.constant(wp.float64(1e-6))  # pixels added around bounding boxes against rounding of X / w


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """See `reference.rasterize`."""
    vertices = reference.screen_vertices(clip, height, width)
    batch = len(vertices)
    keys = torch.full((batch, height, width), reference.EMPTY, dtype=torch.int64, device=clip.device)
    dim = (batch, len(faces), LANES)
    launch(draw, dim, vertices, faces.contiguous(), height, width, keys, device=clip.device)
    return reference.face_index_of(keys)


@wp.func
def corner(vertices: wp.array3d(dtype=wp.float64), batch: int, index: wp.int64):
    i = int(index)
    return wp.vec4d(vertices[batch, i, 0], vertices[batch, i, 1], vertices[batch, i, 2], vertices[batch, i, 3])


@wp.func
def side(p: wp.vec3d, q: wp.vec3d, index_p: wp.int64, index_q: wp.int64):
    # Both triangles of an edge use the same order of operands: fused multiply-adds would break the antisymmetry.
    if index_p < index_q:
        return wp.cross(p, q)
    return -wp.cross(q, p)


@wp.func
def span(a: wp.float64, b: wp.float64, c: wp.float64, size: int):
    """First and last pixel whose centre is within the extent of a, b, c, clamped to the image."""
    half = wp.float64(0.5)
    low = wp.clamp(wp.min(a, wp.min(b, c)) - half - SLACK, wp.float64(0.0), wp.float64(size))
    high = wp.clamp(wp.max(a, wp.max(b, c)) - half + SLACK, wp.float64(-1.0), wp.float64(size - 1))
    return wp.vec2i(int(wp.ceil(low)), int(wp.floor(high)))


@wp.func
def axis_extent(a: wp.float64, b: wp.float64, c: wp.float64):
    return wp.max(wp.abs(a), wp.max(wp.abs(b), wp.abs(c)))


@wp.kernel(enable_backward=False)
def draw(
    vertices: wp.array3d(dtype=wp.float64),
    faces: wp.array2d(dtype=wp.int64),
    height: int,
    width: int,
    keys: wp.array3d(dtype=wp.int64),
):
    batch, face, lane = wp.tid()
    ip, iq, ir = faces[face, 0], faces[face, 1], faces[face, 2]
    p4, q4, r4 = corner(vertices, batch, ip), corner(vertices, batch, iq), corner(vertices, batch, ir)
    p, q, r = wp.vec3d(p4[0], p4[1], p4[2]), wp.vec3d(q4[0], q4[1], q4[2]), wp.vec3d(r4[0], r4[1], r4[2])
    zero = wp.float64(0.0)
    one = wp.float64(1.0)
    if p[2] <= zero and q[2] <= zero and r[2] <= zero:
        return
    rows, columns = wp.vec2i(0, height - 1), wp.vec2i(0, width - 1)
    if p[2] > zero and q[2] > zero and r[2] > zero:
        rows = span(p[1] / p[2], q[1] / q[2], r[1] / r[2], height)
        columns = span(p[0] / p[2], q[0] / q[2], r[0] / r[2], width)

    a, b, c = side(q, r, iq, ir), side(r, p, ir, ip), side(p, q, ip, iq)
    det = wp.dot(a, p)
    extent = axis_extent(p[0], q[0], r[0]) * axis_extent(p[1], q[1], r[1]) * axis_extent(p[2], q[2], r[2])
    if not (wp.abs(det) > DEGENERATE * extent) or not wp.isfinite(extent):
        return
    plane = (a * p4[3] + b * q4[3] + c * r4[3]) / det
    sign = wp.sign(det)
    for row in range(rows[0] + lane, rows[1] + 1, LANES):
        y = wp.float64(row) + wp.float64(0.5)
        for column in range(columns[0], columns[1] + 1):
            pixel = wp.vec3d(wp.float64(column) + wp.float64(0.5), y, one)
            if sign * wp.dot(a, pixel) >= zero and sign * wp.dot(b, pixel) >= zero and sign * wp.dot(c, pixel) >= zero:
                depth = wp.dot(plane, pixel)
                if depth >= -one and depth <= one:
                    key = (wp.int64((depth + one) * DEPTH_STEPS) << FACE_BITS) | wp.int64(face)
                    wp.atomic_min(keys, batch, row, column, key)
