"""Marching on the CPU: numba jobs over rays that look up every lattice step, 64 at a time.

Computing 64 positions at a time in vector registers costs 0.8 ns per step. Walking from cell to cell saves look-ups,
but is one chain of dependent operations: 23 ns per visited cell. So no steps are skipped, and the result is
bit-identical to the reference.
"""

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.ops.marching import GridRays, Samples
from liftstudio.ops.threads import parallel_for

_RAYS_PER_JOB = 64
_WORD = 64  # lattice steps per look-up, one bit each
_HALF = np.float32(0.5)


def march(rays: GridRays, occupancy: Tensor, step_size: float) -> Samples:
    """Samples of `rays` in the occupied cells of `occupancy` [G, G, G]; float32."""
    origins, directions, t_first, steps = (t.numpy() for t in (rays.origins, rays.directions, rays.t_first, rays.steps))
    step, total = np.float32(step_size), len(steps)
    words = _offsets(-(-steps.astype(np.int64) // _WORD))
    kept, counts = np.empty(words[-1], np.uint64), np.empty(total, np.int64)
    cells = occupancy.numpy().view(np.uint8)
    parallel_for(
        lambda begin, end: _look_up(begin, end, origins, directions, t_first, steps, step, cells, words, kept, counts),
        total,
        grain=_RAYS_PER_JOB,
    )
    offsets = _offsets(counts)
    ray_index = np.empty(offsets[-1], np.int64)
    t_start, t_end = np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.float32)
    parallel_for(
        lambda begin, end: _fill(begin, end, t_first, step, words, kept, offsets, ray_index, t_start, t_end),
        total,
        grain=_RAYS_PER_JOB,
    )
    return Samples(*(torch.from_numpy(a) for a in (ray_index, t_start, t_end, offsets)))


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


@numba.njit(nogil=True, cache=True)
def _look_up(begin, end, origins, directions, t_first, steps, step, cells, words, kept, counts):  # type: ignore[no-untyped-def]
    """Set bit i of word w of a ray if its lattice step 64 w + i is in an occupied cell; count such steps."""
    resolution = np.int32(len(cells))
    flat = cells.reshape(-1)
    index = np.empty(_WORD, np.int32)
    for ray in range(begin, end):
        ox, oy, oz = origins[ray, 0], origins[ray, 1], origins[ray, 2]
        dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
        count = np.int64(0)
        for w in range(words[ray + 1] - words[ray]):
            for i in range(_WORD):
                t = t_first[ray] + (np.float32(np.int32(_WORD * w + i)) + _HALF) * step
                x = _cell(ox, dx, t, resolution)
                y = _cell(oy, dy, t, resolution)
                z = _cell(oz, dz, t, resolution)
                index[i] = (x * resolution + y) * resolution + z
            word = np.uint64(0)
            for i in range(min(_WORD, steps[ray] - _WORD * w)):
                occupied = np.uint64(flat[index[i]])
                word |= occupied << np.uint64(i)
                count += np.int64(occupied)
            kept[words[ray] + w] = word
        counts[ray] = count


@numba.njit(nogil=True, cache=True)
def _cell(origin, direction, t, resolution):  # type: ignore[no-untyped-def]
    """Cell along an axis; clamped, as rounding may put a border point just outside."""
    return min(max(np.int32(origin + t * direction), np.int32(0)), np.int32(resolution - 1))


@numba.njit(nogil=True, cache=True)
def _fill(begin, end, t_first, step, words, kept, offsets, ray_index, t_start, t_end):  # type: ignore[no-untyped-def]
    for ray in range(begin, end):
        s = offsets[ray]
        for w in range(words[ray + 1] - words[ray]):
            word = kept[words[ray] + w]
            k = _WORD * w
            while word:
                if word & np.uint64(1):
                    ray_index[s] = ray
                    t_start[s] = t_first[ray] + np.float32(k) * step
                    t_end[s] = t_first[ray] + np.float32(k + 1) * step
                    s += 1
                word >>= np.uint64(1)
                k += 1
