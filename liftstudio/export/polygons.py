"""Quads in meshes of triangles: their halves follow one another, cut from the first corner."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def face_corners(faces: Ints, quads: bool) -> list[Ints]:
    """Return the corners of the faces, as indices into the flattened `faces` [3 F].

    They select from any array with a row for every corner. quads: faces (a, b, c) and (a, c, d) after one another are
    put together. Returns quads [Q, 4] and the remaining triangles [T, 3]; each only if there are any.
    """
    if not quads:
        return [np.arange(faces.size).reshape(-1, 3)]
    is_pair = (faces[:-1, 0] == faces[1:, 0]) & (faces[:-1, 2] == faces[1:, 1])
    firsts = list[int]()
    for face in np.flatnonzero(is_pair).tolist():
        if not firsts or face > firsts[-1] + 1:
            firsts.append(face)
    first = np.array(firsts, np.int64)
    single = np.setdiff1d(np.arange(len(faces)), [first, first + 1])
    pairs, rest = 3 * first[:, None] + np.array([0, 1, 2, 5]), 3 * single[:, None] + np.array([0, 1, 2])
    return [shape for shape in (pairs, rest) if len(shape)]
