"""Split of meshes into training and held-out sets; meshes of the same shape stay on one side."""

import hashlib

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from liftstudio.synthetic.assembly import Floats
from liftstudio.training.meshes.packs import StoredMesh

UNSEEN_SHARE = 0.08  # of the groups are held out
_BINS = 8  # along the radius and along the height
_ALIKE = 0.015  # maximum distance of the profiles of meshes with the same shape


def shape_profile(mesh: StoredMesh) -> Floats:
    """Return the histogram [64] of surface area over distance from the vertical axis and height; it sums to 1.

    It does not depend on position, scale, rotation about the vertical axis, mirroring or colours.
    """
    profile = np.zeros((_BINS, _BINS))
    _add_area(mesh.vertices.astype(np.float64), mesh.faces, profile)
    return profile.ravel() / max(profile.sum(), 1e-30)


@njit(nogil=True, cache=True)
def _add_area(vertices: Floats, faces: NDArray[np.int32], profile: Floats) -> None:
    """Add the face areas to bins [radius, height], relative to the mean and spread of the surface."""
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
        # Linear binning keeps the profile stable under rounding: radii to 2.5, heights from -2.5 to 2.5.
        r = min(np.sqrt(middle[f, 0] ** 2 + middle[f, 1] ** 2) / unit / 2.5, 0.999) * (bins - 1)
        h = min(max(middle[f, 2] / unit / 5.0 + 0.5, 0.0), 0.999) * (bins - 1)
        i, j = int(r), int(h)
        r, h = r - i, h - j
        profile[i, j] += area[f] * (1 - r) * (1 - h)
        profile[i + 1, j] += area[f] * r * (1 - h)
        profile[i, j + 1] += area[f] * (1 - r) * h
        profile[i + 1, j + 1] += area[f] * r * h


def group_alike(profiles: Floats) -> NDArray[np.int32]:
    """Return the group [N] of each shape: connected components of shapes with similar profiles [N, D]."""
    pairs = cKDTree(profiles).query_pairs(_ALIKE, output_type="ndarray")
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(profiles), len(profiles)))
    return connected_components(links, directed=False)[1]


def held_out(names: list[str], groups: NDArray[np.int32]) -> list[bool]:
    """Return [N]: which meshes are held out, by a hash of the first name in their group.

    With several groups, at least one is held out and at least one is not. Adding meshes does not change the choice
    for others, unless they join their groups.
    """
    first: dict[int, str] = {}
    for name, group in sorted(zip(names, groups.tolist(), strict=True)):
        first.setdefault(group, name)
    order = sorted(first, key=lambda group: place(first[group]))
    count = sum(place(first[group]) < UNSEEN_SHARE for group in order)
    measured = set(order[: min(max(count, 1), len(order) - 1)])
    return [group in measured for group in groups.tolist()]


def place(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int(hashlib.sha256(f"unseen: {name}".encode()).hexdigest()[:13], 16) / 16**13
