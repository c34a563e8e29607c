"""Scan conversion and barycentric coordinates on the CPU, in bands of rows; the formulas are in `reference`."""

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from liftstudio.ops.rasterization import reference
from liftstudio.ops.threads import parallel_for

DEPTH_STEPS = float(reference.DEPTH_STEPS)
FACE_BITS = reference.FACE_BITS
DEGENERATE = reference.DEGENERATE
EMPTY = reference.EMPTY
_SLACK = 1e-6  # pixels added around bounding boxes against rounding of X / w

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """See `reference.rasterize`."""
    vertices = screen_vertices(clip, height, width)
    triangles = faces.contiguous().numpy()
    batch = len(vertices)
    boxes = np.empty((batch, len(triangles), 4), np.int32)
    parallel_for(
        lambda begin, end: _bound_faces(vertices, triangles, height, width, boxes, begin, end),
        batch * len(triangles),
        grain=2048,
    )
    image = np.empty((batch * height, width), np.int32)
    parallel_for(
        lambda begin, end: _draw_rows(vertices, triangles, boxes, height, image, begin, end), batch * height, grain=16
    )
    return torch.from_numpy(image).view(batch, height, width)


def screen_vertices(clip: Tensor, height: int, width: int) -> Floats:
    """`reference.screen_vertices` as an array; avoids torch's thread overhead on small inputs."""
    positions = clip.contiguous().numpy()
    screen = np.empty(positions.shape, np.float64)
    _to_screen(positions.reshape(-1, 4), height, width, screen.reshape(-1, 4))
    return screen


@njit(nogil=True, cache=True)
def _to_screen(clip: NDArray[np.float32], height: int, width: int, screen: Floats) -> None:
    for n in range(len(clip)):
        x, y, z, w = np.float64(clip[n, 0]), np.float64(clip[n, 1]), np.float64(clip[n, 2]), np.float64(clip[n, 3])
        screen[n, 0], screen[n, 1] = (w + x) * (0.5 * width), (w - y) * (0.5 * height)
        screen[n, 2], screen[n, 3] = w, z


@njit(nogil=True, cache=True)
def _pixel_range(a: float, b: float, c: float, size: int) -> tuple[int, int]:
    """First and last pixel whose centre is within the extent of coordinates a, b, c (pixels), clamped to the image."""
    low = min(max(min(a, min(b, c)) - 0.5 - _SLACK, 0.0), float(size))
    high = min(max(max(a, max(b, c)) - 0.5 + _SLACK, -1.0), size - 1.0)
    return math.ceil(low), math.floor(high)


@njit(nogil=True, cache=True)
def _bound_faces(
    vertices: Floats, faces: Ints, height: int, width: int, boxes: NDArray[np.int32], begin: int, end: int
) -> None:
    """Set boxes[b, f] to the first and last row, first and last column that face f may touch; last < first for none."""
    for item in range(begin, end):
        batch, face = item // len(faces), item % len(faces)
        p, q, r = vertices[batch, faces[face, 0]], vertices[batch, faces[face, 1]], vertices[batch, faces[face, 2]]
        box = boxes[batch, face]
        if p[2] > 0 and q[2] > 0 and r[2] > 0:
            box[0], box[1] = _pixel_range(p[1] / p[2], q[1] / q[2], r[1] / r[2], height)
            box[2], box[3] = _pixel_range(p[0] / p[2], q[0] / q[2], r[0] / r[2], width)
        elif p[2] > 0 or q[2] > 0 or r[2] > 0:
            box[0], box[1], box[2], box[3] = 0, height - 1, 0, width - 1
        else:
            box[0], box[1] = 0, -1
        if box[3] < box[2]:
            box[0], box[1] = 0, -1


@njit(nogil=True, cache=True)
def _draw_rows(
    vertices: Floats,
    faces: Ints,
    boxes: NDArray[np.int32],
    height: int,
    image: NDArray[np.int32],
    begin: int,
    end: int,
) -> None:
    """Draw all faces into the rows [begin, end) of the stacked images."""
    keys = np.full((end - begin, image.shape[1]), EMPTY, np.int64)
    for batch in range(begin // height, (end - 1) // height + 1):
        first, last = max(begin - batch * height, 0), min(end - batch * height, height) - 1
        for face in range(len(faces)):
            top, bottom = boxes[batch, face, 0], boxes[batch, face, 1]
            if top <= last and bottom >= first:
                rows = max(top, first), min(bottom, last)
                columns = boxes[batch, face, 2], boxes[batch, face, 3]
                _draw_face(vertices[batch], faces, face, rows, columns, keys[batch * height - begin + first :], first)
    for row in range(end - begin):
        for column in range(image.shape[1]):
            key = keys[row, column]
            image[begin + row, column] = -1 if key == EMPTY else key & ((1 << FACE_BITS) - 1)


@njit(nogil=True, cache=True, inline="always")
def cross(p: Floats, q: Floats) -> tuple[float, float, float]:
    """The cross product of two 3-vectors."""
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


@njit(nogil=True, cache=True, inline="always")
def _extent(p: Floats, q: Floats, r: Floats) -> float:
    """Product over the axes of the largest absolute coordinate: the scale of the determinant's rounding error."""
    return (
        max(abs(p[0]), max(abs(q[0]), abs(r[0])))
        * max(abs(p[1]), max(abs(q[1]), abs(r[1])))
        * max(abs(p[2]), max(abs(q[2]), abs(r[2])))
    )


@njit(nogil=True, cache=True)
def _draw_face(
    vertices: Floats,
    faces: Ints,
    face: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    keys: Ints,
    first_row: int,
) -> None:
    """Draw one face within the given first and last rows and columns; `keys` starts at `first_row`."""
    p, q, r = vertices[faces[face, 0]], vertices[faces[face, 1]], vertices[faces[face, 2]]
    ax, ay, az = cross(q, r)
    bx, by, bz = cross(r, p)
    cx, cy, cz = cross(p, q)
    det = ax * p[0] + ay * p[1] + az * p[2]
    extent = _extent(p, q, r)
    if not (abs(det) > DEGENERATE * extent and extent < math.inf):
        return
    zx = (ax * p[3] + bx * q[3] + cx * r[3]) / det
    zy = (ay * p[3] + by * q[3] + cy * r[3]) / det
    zz = (az * p[3] + bz * q[3] + cz * r[3]) / det
    sign = 1.0 if det > 0 else -1.0
    for row in range(rows[0], rows[1] + 1):
        y = row + 0.5
        a_row, b_row, c_row = sign * (ay * y + az), sign * (by * y + bz), sign * (cy * y + cz)
        z_row = zy * y + zz
        for column in range(columns[0], columns[1] + 1):
            x = column + 0.5
            if sign * ax * x + a_row >= 0 and sign * bx * x + b_row >= 0 and sign * cx * x + c_row >= 0:
                depth = zx * x + z_row
                if depth >= -1.0 and depth <= 1.0:
                    key = (np.int64((depth + 1.0) * DEPTH_STEPS) << FACE_BITS) | face
                    if key < keys[row - first_row, column]:
                        keys[row - first_row, column] = key


class Barycentrics(torch.autograd.Function):
    """`reference.barycentrics` with a compiled backward."""

    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, pixel: Tensor, face: Tensor, height: int, width: int) -> Tensor:
        """Barycentric coordinates [P, 3] of the pixel centres."""
        arrays = (clip.detach().contiguous(), faces.contiguous(), pixel, face)
        views = [array.numpy() for array in arrays]
        out = torch.empty(len(pixel), 3, dtype=clip.dtype)
        result = out.numpy()
        parallel_for(lambda begin, end: _weigh(*views, height, width, result, begin, end), len(pixel), grain=2048)
        ctx.save_for_backward(*arrays)
        ctx.size = height, width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient w.r.t. `clip` [B, V, 4], given that w.r.t. the coordinates [P, 3]."""
        arrays = ctx.saved_tensors
        grad_clip = torch.zeros_like(arrays[0])
        views = [array.numpy() for array in arrays]
        _weigh_backward(*views, *ctx.size, grad.contiguous().numpy(), grad_clip.numpy())
        return grad_clip, None, None, None, None, None


@njit(nogil=True, cache=True, inline="always")
def _relative(vertex: NDArray[np.float32], x: float, y: float) -> tuple[float, float]:
    """The coordinates (u, v) of a clip position relative to NDC (x, y): zero where it projects there."""
    return vertex[0] - x * vertex[3], vertex[1] - y * vertex[3]


@njit(nogil=True, cache=True, inline="always")
def _centre(pixel: int, height: int, width: int) -> tuple[float, float]:
    return (2.0 * (pixel % width) + 1.0) / width - 1.0, 1.0 - (2.0 * (pixel // width % height) + 1.0) / height


@njit(nogil=True, cache=True)
def _weigh(
    clip: NDArray[np.float32], faces: Ints, pixel: Ints, face: Ints, height: int, width: int,
    out: NDArray[np.float32], begin: int, end: int,
) -> None:  # fmt: skip
    for n in range(begin, end):
        vertices, corner = clip[pixel[n] // (height * width)], faces[face[n]]
        x, y = _centre(pixel[n], height, width)
        u0, v0 = _relative(vertices[corner[0]], x, y)
        u1, v1 = _relative(vertices[corner[1]], x, y)
        u2, v2 = _relative(vertices[corner[2]], x, y)
        a, b, c = u1 * v2 - v1 * u2, u2 * v0 - v2 * u0, u0 * v1 - v0 * u1
        total = a + b + c
        scale = 1.0 / total if total != 0 else 1.0
        out[n, 0], out[n, 1], out[n, 2] = a * scale, b * scale, c * scale


@njit(nogil=True, cache=True, inline="always")
def _add_corner(grad: NDArray[np.float32], gu: float, gv: float, x: float, y: float) -> None:
    grad[0] += gu
    grad[1] += gv
    grad[3] -= gu * x + gv * y


@njit(nogil=True, cache=True)
def _weigh_backward(
    clip: NDArray[np.float32], faces: Ints, pixel: Ints, face: Ints, height: int, width: int,
    grad: NDArray[np.float32], grad_clip: NDArray[np.float32],
) -> None:  # fmt: skip
    # One thread: any fragment may belong to any vertex, and a fixed order of summation keeps results bit-identical.
    for n in range(len(pixel)):
        image, corner = pixel[n] // (height * width), faces[face[n]]
        vertices = clip[image]
        x, y = _centre(pixel[n], height, width)
        u0, v0 = _relative(vertices[corner[0]], x, y)
        u1, v1 = _relative(vertices[corner[1]], x, y)
        u2, v2 = _relative(vertices[corner[2]], x, y)
        a, b, c = u1 * v2 - v1 * u2, u2 * v0 - v2 * u0, u0 * v1 - v0 * u1
        total = a + b + c
        if total == 0:
            continue
        mean = (grad[n, 0] * a + grad[n, 1] * b + grad[n, 2] * c) / total
        ga, gb, gc = (grad[n, 0] - mean) / total, (grad[n, 1] - mean) / total, (grad[n, 2] - mean) / total
        _add_corner(grad_clip[image, corner[0]], gc * v1 - gb * v2, gb * u2 - gc * u1, x, y)
        _add_corner(grad_clip[image, corner[1]], ga * v2 - gc * v0, gc * u0 - ga * u2, x, y)
        _add_corner(grad_clip[image, corner[2]], gb * v0 - ga * v1, ga * u1 - gb * u0, x, y)


def barycentrics(clip: Tensor, faces: Tensor, pixel: Tensor, face: Tensor, height: int, width: int) -> Tensor:
    """See `reference.barycentrics`."""
    return Barycentrics.apply(clip, faces, pixel, face, height, width)
