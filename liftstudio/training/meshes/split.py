"""Which meshes are trained on and which are measured: meshes of one shape are on one side."""

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from liftstudio.synthetic.assembly import Floats
from liftstudio.training.meshes.packs import StoredMesh

UNSEEN_SHARE = 0.08  # of the groups
_BINS = 8  # of the radius, and of the height
_ALIKE = 0.015  # distance of the shares of area in all bins, for meshes that are one shape


def shape_profile(mesh: StoredMesh) -> Floats:
    """[64] shares of the area by distance from the vertical axis and by height, the same in any size, place and turn.

    Also of mirror images; colours do not matter.
    """
    profile = np.zeros((_BINS, _BINS))
    _add_area(mesh.vertices.astype(np.float64), mesh.faces, profile)
    return profile.ravel() / max(profile.sum(), 1e-30)


@njit(nogil=True, cache=True)
def _add_area(vertices: Floats, faces: NDArray[np.int32], profile: Floats) -> None:
    """Adds the faces' areas to the bins [radius, height] around them, relative to the mean and the spread of all."""
    count, bins = len(faces), profile.shape[0]
    area, middle = np.empty(count), np.empty((count, 3))
    for f in range(count):
        a, b, c = vertices[faces[f, 0]], vertices[faces[f, 1]], vertices[faces[f, 2]]
        x = (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1])
        y = (b[2] - a[2]) * (c[0] - a[0]) - (b[0] - a[0]) * (c[2] - a[2])
        z = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        area[f] = np.sqrt(x * x + y * y + z * z)
        for axis in range(3):
            middle[f, axis] = (a[axis] + b[axis] + c[axis]) / 3
    total = max(area.sum(), 1e-30)
    spread = 0.0
    for axis in range(3):
        middle[:, axis] -= (area * middle[:, axis]).sum() / total
        spread += (area * middle[:, axis] ** 2).sum() / total
    unit = max(np.sqrt(spread), 1e-30)
    for f in range(count):
        # Shared between two bins each way, so that rounding moves little: radii to 2.5, heights from -2.5 to 2.5.
        r = min(np.sqrt(middle[f, 0] ** 2 + middle[f, 1] ** 2) / unit / 2.5, 0.999) * (bins - 1)
        h = min(max(middle[f, 2] / unit / 5.0 + 0.5, 0.0), 0.999) * (bins - 1)
        i, j = int(r), int(h)
        r, h = r - i, h - j
        profile[i, j] += area[f] * (1 - r) * (1 - h)
        profile[i + 1, j] += area[f] * r * (1 - h)
        profile[i, j + 1] += area[f] * (1 - r) * h
        profile[i + 1, j + 1] += area[f] * r * h


def group_alike(profiles: Floats) -> NDArray[np.int32]:
    """[N] the group of each of N shapes: those whose profiles [N, D] differ little, directly or by way of others."""
    pairs = cKDTree(profiles).query_pairs(_ALIKE, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(profiles), len(profiles)))
    return connected_components(links, directed=False)[1]


def held_out(names: list[str], groups: NDArray[np.int32]) -> list[bool]:
    """[N]: which are measured, by a hash of the first name of their group; never all groups, one at least of several.

    Other meshes in the folder change nothing about these, unless they join their groups.
    """
    first: dict[int, str] = {}
    for name, group in sorted(zip(names, groups.tolist(), strict=True)):
        first.setdefault(group, name)
    order = sorted(first, key=lambda group: place(first[group]))
    count = sum(place(first[group]) < UNSEEN_SHARE for group in order)
    measured = set(order[: min(max(count, 1), len(order) - 1)])
    return [group in measured for group in groups.tolist()]


def place(name: str) -> float:
    """A number in [0, 1) that a name has for ever."""
    return int(hashlib.sha256(f"unseen: {name}".encode()).hexdigest()[:13], 16) / 16**13
