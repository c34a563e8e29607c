"""Search for visible silhouette crossings on the CPU, one camera per job; the formulas are in `reference`."""

import math

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.antialiasing import reference
from liftstudio.ops.rasterization.cpu import cross, screen_vertices
from liftstudio.ops.rasterization.reference import DEPTH_STEPS, EMPTY
from liftstudio.ops.threads import parallel_for

EDGE_BITS = reference.EDGE_BITS
MIN_W = reference.MIN_W

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def find_crossings(
    clip: Tensor, faces: Tensor, face_index: Tensor, edge_vertices: Tensor, opposite: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.find_crossings`."""
    batch, height, width = face_index.shape
    keys = np.full((batch, 2, height, width), EMPTY, np.int64)
    arrays = [array.contiguous().numpy() for array in (faces, face_index, edge_vertices, opposite)]
    vertices = screen_vertices(clip, height, width)
    parallel_for(lambda begin, end: _walk_cameras(vertices, *arrays, keys, begin, end), batch)
    inner, outer, edge = _unpack(keys)
    return torch.from_numpy(inner), torch.from_numpy(outer), torch.from_numpy(edge)


@njit(nogil=True, cache=True)
def _walk_cameras(
    vertices: Floats, faces: Ints, face_index: NDArray[np.int32], edge_vertices: Ints, opposite: Ints,
    keys: Ints, begin: int, end: int,
) -> None:  # fmt: skip
    for image in range(begin, end):
        for edge in range(len(edge_vertices)):
            a, b = vertices[image, edge_vertices[edge, 0]], vertices[image, edge_vertices[edge, 1]]
            line = cross(a, b)
            side = _side(line, vertices[image, opposite[edge, 0]])
            other = side if opposite[edge, 1] < 0 else _side(line, vertices[image, opposite[edge, 1]])
            if side * other > 0:
                steep = abs(line[0]) >= abs(line[1])
                for axis in range(2):
                    label = edge << 2 | ((axis == 0) != steep) << 1 | ((line[axis] > 0) == (side > 0))
                    _walk_edge(a, b, axis, label, vertices[image], faces, face_index[image], keys[image, axis])


@njit(nogil=True, cache=True, inline="always")
def _side(line: tuple[float, float, float], p: Floats) -> float:
    return line[0] * p[0] + line[1] * p[1] + line[2] * p[2]


@njit(nogil=True, cache=True)
def _walk_edge(
    a: Floats, b: Floats, axis: int, label: int, vertices: Floats, faces: Ints, seen: NDArray[np.int32], keys: Ints
) -> None:
    """Follow a silhouette edge over the rows (axis 0) or columns (axis 1) of pixel centres that it crosses."""
    across = 1 - axis
    first, last = _lines_crossed(a[across], a[2], b[across], b[2], seen.shape[axis])
    for line in range(first, last):
        v_a, v_b = a[across] - (line + 0.5) * a[2], b[across] - (line + 0.5) * b[2]
        scale = a[2] * v_b - b[2] * v_a
        crossing, depth = (a[axis] * v_b - b[axis] * v_a) / scale, (a[3] * v_b - b[3] * v_a) / scale
        if not (crossing >= 0.5 and crossing < seen.shape[across] - 0.5 and depth >= -1 and depth <= 1):
            continue
        place = math.floor(crossing - 0.5)
        row, column = (line, place) if axis == 0 else (place, line)
        key = np.int64((depth + 1) * DEPTH_STEPS) << EDGE_BITS | label
        if key < keys[row, column] and _is_visible(depth, row, column, axis, label & 1, vertices, faces, seen):
            keys[row, column] = key


@njit(nogil=True, cache=True, inline="always")
def _lines_crossed(y_a: float, w_a: float, y_b: float, w_b: float, count: int) -> tuple[int, int]:
    """Half-open range of the lines of pixel centres between two homogeneous coordinates."""
    min_w = MIN_W * max(w_a, w_b)
    if not min_w > 0:
        return 0, 0
    # An end behind the eye is moved along the edge to where w = `min_w`.
    end_a = y_a / w_a if w_a >= min_w else (y_a + (min_w - w_a) / (w_b - w_a) * (y_b - y_a)) / min_w
    end_b = y_b / w_b if w_b >= min_w else (y_b + (min_w - w_b) / (w_a - w_b) * (y_a - y_b)) / min_w
    if not (math.isfinite(end_a) and math.isfinite(end_b)):
        return 0, 0
    low, high = min(end_a, end_b) - 0.5, max(end_a, end_b) - 0.5
    return math.ceil(min(max(low, 0.0), float(count))), math.ceil(min(max(high, 0.0), float(count)))


@njit(nogil=True, cache=True)
def _is_visible(
    depth: float, row: int, column: int, axis: int, inner_second: int,
    vertices: Floats, faces: Ints, seen: NDArray[np.int32],
) -> bool:  # fmt: skip
    """Whether the surface at the outer pixel lies behind both the edge and the surface at the inner pixel."""
    first = _depth(row, column, vertices, faces, seen)
    second = _depth(row + axis, column + 1 - axis, vertices, faces, seen)
    inner, outer = (second, first) if inner_second else (first, second)
    return inner < outer and depth < outer


@njit(nogil=True, cache=True)
def _depth(row: int, column: int, vertices: Floats, faces: Ints, seen: NDArray[np.int32]) -> float:
    """Depth z / w of the visible face's plane at a pixel's centre, infinite where empty."""
    face = seen[row, column]
    if face < 0:
        return math.inf
    p, q, r = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
    a, b, c = cross(q, r), cross(r, p), cross(p, q)
    x, y = column + 0.5, row + 0.5
    det = a[0] * p[0] + a[1] * p[1] + a[2] * p[2]
    zx = a[0] * p[3] + b[0] * q[3] + c[0] * r[3]
    zy = a[1] * p[3] + b[1] * q[3] + c[1] * r[3]
    zz = a[2] * p[3] + b[2] * q[3] + c[2] * r[3]
    return (zx * x + zy * y + zz) / det


@njit(nogil=True, cache=True)
def _unpack(keys: Ints) -> tuple[Ints, Ints, Ints]:
    _, _, height, width = keys.shape
    count = 0
    for key in keys.flat:
        count += _counts(key)
    inner, outer, edges = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    found = 0
    for pair, key in enumerate(keys.flat):
        if _counts(key):
            pixels = height * width
            first = pair // (2 * pixels) * pixels + pair % pixels
            second = first + (width if pair // pixels % 2 else 1)
            inner[found], outer[found] = (second, first) if key & 1 else (first, second)
            edges[found] = (key & ((1 << EDGE_BITS) - 1)) >> 2
            found += 1
    return inner, outer, edges


@njit(nogil=True, cache=True, inline="always")
def _counts(key: int) -> bool:
    return key != EMPTY and key & 2 == 0
