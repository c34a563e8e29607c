"""Edge adjacency in linear time: two stable counting sorts of the faces' sides."""

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


def edge_adjacency(faces: Tensor, vertex_count: int) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.edge_adjacency`."""
    vertices, faces_of, opposite = _edge_adjacency(faces.contiguous().numpy(), vertex_count)
    return torch.from_numpy(vertices), torch.from_numpy(faces_of), torch.from_numpy(opposite)


@njit(nogil=True, cache=True)
def _side(faces: Ints, side: int) -> tuple[int, int]:
    """Vertices, lower index first, of side `3 * face + corner`: the side opposite to that corner."""
    face, corner = side // 3, side % 3
    a, b = faces[face, (corner + 1) % 3], faces[face, (corner + 2) % 3]
    return min(a, b), max(a, b)


@njit(nogil=True, cache=True, inline="always")
def _is_real(corners: Ints) -> bool:
    return corners[0] != corners[1] and corners[1] != corners[2] and corners[2] != corners[0]


@njit(nogil=True, cache=True)
def _stable_order(keys: NDArray[np.int32], order: NDArray[np.int32], key_count: int) -> NDArray[np.int32]:
    """The permutation `order`, stably rearranged so that `keys[order]` ascends (counting sort)."""
    slots = np.zeros(key_count + 1, np.int32)
    for item in order:
        slots[keys[item] + 1] += 1
    for key in range(key_count):
        slots[key + 1] += slots[key]
    arranged = np.empty_like(order)
    for item in order:
        arranged[slots[keys[item]]] = item
        slots[keys[item]] += 1
    return arranged


@njit(nogil=True, cache=True)
def _edge_adjacency(faces: Ints, vertex_count: int) -> tuple[Ints, Ints, Ints]:
    sides = 3 * len(faces)
    low, high, order = np.empty(sides, np.int32), np.empty(sides, np.int32), np.empty(sides, np.int32)
    real = 0
    for side in range(sides):
        low[side], high[side] = _side(faces, side)
        if _is_real(faces[side // 3]):
            order[real] = side
            real += 1
    order = _stable_order(low, _stable_order(high, order[:real], vertex_count), vertex_count)

    vertices = np.empty((real, 2), np.int64)
    faces_of, opposite = np.empty_like(vertices), np.empty_like(vertices)
    edges, at = 0, 0
    while at < real:
        side = order[at]
        vertices[edges, 0], vertices[edges, 1] = low[side], high[side]
        faces_of[edges, 0], opposite[edges, 0] = side // 3, faces[side // 3, side % 3]
        faces_of[edges, 1] = opposite[edges, 1] = -1
        at += 1
        if at < real and low[order[at]] == low[side] and high[order[at]] == high[side]:
            partner = order[at]
            faces_of[edges, 1], opposite[edges, 1] = partner // 3, faces[partner // 3, partner % 3]
            at += 1
        edges += 1
    return vertices[:edges], faces_of[:edges], opposite[:edges]
