"""Faces on the CPU: one pass over the tetrahedra, most of which need only four loads."""

import numpy as np
from numba import njit
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from liftstudio.ops.threads import parallel_for

GRAIN = 1 << 15  # minimum tetrahedra per job


def face_edges(states: Tensor, tets: Tensor, tet_edges: Tensor, table: Tensor) -> Tensor:
    """See `liftstudio.ops.marching_tetrahedra.face_edges`; same order."""
    arrays = states.numpy(), tets.numpy(), tet_edges.numpy(), table.numpy()
    found: dict[int, NDArray[np.int64]] = {}

    def job(begin: int, end: int) -> None:
        found[begin] = _faces_of(*arrays, begin, end)

    parallel_for(job, len(tets), grain=GRAIN)
    return from_numpy(np.concatenate([found[begin] for begin in sorted(found)]))


@njit(nogil=True, cache=True)
def _faces_of(
    states: NDArray[np.uint8],
    tets: NDArray[np.int32],
    tet_edges: NDArray[np.int32],
    table: NDArray[np.int64],
    begin: int,
    end: int,
) -> NDArray[np.int64]:
    out = np.empty((2 * (end - begin), 3), np.int64)
    count = 0
    for tet in range(begin, end):
        a, b, c, d = tets[tet]
        state = states[a] | states[b] << 1 | states[c] << 2 | states[d] << 3
        if state == 0 or state == 15:
            continue
        for face in range(2):
            if table[state, face, 0] < 0:
                break
            for corner in range(3):
                out[count, corner] = tet_edges[tet, table[state, face, corner]]
            count += 1
    return out[:count]
