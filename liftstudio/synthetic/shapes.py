"""Closed surfaces as vertices and faces: sections swept along profiles, tubes along paths, tori.

Arrays: vertices [V, 3] float64 in the units of the caller, faces [F, 3] int64 counter-clockwise seen from outside.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Surface:
    """A closed surface.

    vertices: [V, 3] float64. faces: [F, 3] int64, counter-clockwise seen from outside.
    """

    vertices: Floats
    faces: Ints

    def moved(self, offset: tuple[float, float, float]) -> "Surface":
        """Shifted by `offset`."""
        return Surface(self.vertices + np.array(offset), self.faces)

    def scaled(self, *factors: float) -> "Surface":
        """Scaled about the origin, by one positive factor or one per axis."""
        return Surface(self.vertices * np.array(factors), self.faces)

    def turned(self, rotation: Floats) -> "Surface":
        """Rotated about the origin by a [3, 3] matrix."""
        return Surface(self.vertices @ rotation.T, self.faces)

    def mirrored(self) -> "Surface":
        """With y negated."""
        return Surface(self.vertices * np.array([1.0, -1.0, 1.0]), self.faces[:, ::-1])

    def hit(self, origin: tuple[float, float, float], direction: tuple[float, float, float]) -> Floats | None:
        """[3] the first point of the surface on the ray; None if the ray misses it."""
        start, along = np.array(origin, np.float64), np.array(direction, np.float64)
        distance = _first_hit(self.vertices, self.faces, *start.tolist(), *along.tolist())
        return start + along * distance if distance < math.inf else None


@njit(nogil=True, cache=True)
def _first_hit(
    vertices: Floats, faces: Ints, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    """The least parameter of the ray o + t d on a face; inf for none.

    Moeller & Trumbore 1997, "Fast, minimum storage ray/triangle intersection".
    """
    slack = 1e-9  # so that no ray slips through an edge
    nearest = math.inf
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        sx, sy, sz = ox - ax, oy - ay, oz - az
        px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
        qx, qy, qz = sy * uz - sz * uy, sz * ux - sx * uz, sx * uy - sy * ux
        det = ux * px + uy * py + uz * pz
        if det == 0.0:
            continue
        beta = (sx * px + sy * py + sz * pz) / det
        gamma = (dx * qx + dy * qy + dz * qz) / det
        distance = (vx * qx + vy * qy + vz * qz) / det
        if beta >= -slack and gamma >= -slack and beta + gamma <= 1.0 + slack and 0.0 <= distance < nearest:
            nearest = distance
    return nearest


@functools.cache
def _tube_faces(rings: int, points: int) -> Ints:
    """Faces of rings of points with a fan at either end; the fans' centres are the last two vertices."""
    here = np.arange(points)
    there = (here + 1) % points
    first, last = rings * points, rings * points + 1
    low = (np.arange(rings - 1) * points)[:, None]
    sides = np.stack([low + here, low + there, low + points + there, low + points + here], axis=-1).reshape(-1, 4)
    top = (rings - 1) * points
    start = np.stack([there, here, np.full(points, first)], axis=-1)
    end = np.stack([top + here, top + there, np.full(points, last)], axis=-1)
    faces = np.concatenate([sides[:, [0, 1, 2]], sides[:, [0, 2, 3]], start, end])
    faces.setflags(write=False)
    return faces


def closed_tube(rings: Floats, start: Floats, end: Floats) -> Surface:
    """Rings [K, N, 3] joined in order, closed by fans to the points `start` and `end` [3].

    The points of a ring run counter-clockwise seen against the direction from start to end.
    """
    count, points, _ = rings.shape
    return Surface(np.concatenate([rings.reshape(-1, 3), start[None], end[None]]), _tube_faces(count, points))


def sweep(profile: list[tuple[float, float]], section: Floats) -> Surface:
    """The section [N, 2] (x, y), counter-clockwise, scaled by r at the heights z of a profile [(r, z), ...] upwards.

    A profile that starts or ends at r = 0 ends in a tip there, any other in a flat lid.
    """
    radius, height = np.array(profile).T
    start, end = np.array([0.0, 0.0, height[0]]), np.array([0.0, 0.0, height[-1]])
    ringed = radius > 0
    radius, height = radius[ringed], height[ringed]
    rings = np.empty((len(radius), len(section), 3))
    rings[..., :2] = radius[:, None, None] * section
    rings[..., 2] = height[:, None]
    return closed_tube(rings, start, end)


@functools.cache
def circle(points: int) -> Floats:
    """[points, 2] on the unit circle, from +x."""
    return superellipse(1.0, points)


def superellipse(exponent: float, points: int) -> Floats:
    """[points, 2] of |x|^(2/e) + |y|^(2/e) = 1: a circle at e = 1, nearly a square of side 2 at 0.2, a rhombus at 2."""
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([_signed_power(np.cos(angle), exponent), _signed_power(np.sin(angle), exponent)], axis=-1)


def square() -> Floats:
    """[4, 2] the corners (+-1, +-1)."""
    return np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])


def star(tips: int, inner: float) -> Floats:
    """[2 tips, 2] a star with tips on the unit circle, the first at +x, and notches on one of radius `inner`."""
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
    return circle(2 * tips) * radius[:, None]


def cross(half_width: float) -> Floats:
    """[12, 2] two crossed bars from -1 to 1 of the given half-width, below 1."""
    arm = np.array([[1.0, -half_width], [1.0, half_width], [half_width, half_width]])
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.concatenate([arm @ np.linalg.matrix_power(turn, quarter).T for quarter in range(4)])


def _signed_power(value: Floats, exponent: float) -> Floats:
    # Rounding leaves 1e-17 in place of 0, which small exponents would turn into a visible length.
    clean = np.where(np.abs(value) < 1e-12, 0.0, value)
    return np.sign(clean) * np.abs(clean) ** exponent


def superquadric(vertical: float, horizontal: float, rows: int = 8, columns: int = 16) -> Surface:
    """Of half-sides 1, with exponents as in `superellipse`.

    Barr 1981, "Superquadrics and angle-preserving transformations".
    """
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    radius, height = _signed_power(np.cos(latitude), vertical), _signed_power(np.sin(latitude), vertical)
    return sweep(list(zip(radius.tolist(), height.tolist(), strict=True)), superellipse(horizontal, columns))


def ellipsoid(x: float, y: float, z: float, rows: int = 6, columns: int = 10) -> Surface:
    """With the given half-axes."""
    return superquadric(1.0, 1.0, rows, columns).scaled(x, y, z)


def ball(radius: float) -> Surface:
    """A sphere."""
    return ellipsoid(radius, radius, radius)


def limb(path: Floats, radii: Floats, side: tuple[float, float, float], columns: int = 8) -> Surface:
    """A tube along a path [K, 3] of radii [K] with rounded ends; `side` is a direction that the path never takes."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    first, last = tangent[0] * radii[0], tangent[-1] * radii[-1]
    path = np.concatenate([path[:1] - 0.6 * first, path, path[-1:] + 0.6 * last])
    radii = np.concatenate([0.75 * radii[:1], radii, 0.75 * radii[-1:]])
    tangent = np.concatenate([tangent[:1], tangent, tangent[-1:]])
    u = np.cross(np.array(side), tangent)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(tangent, u)
    x, y = circle(columns).T[:, None, :, None]
    rings = path[:, None] + radii[:, None, None] * (x * u[:, None] + y * v[:, None])
    return closed_tube(rings, path[0] - 0.3 * first, path[-1] + 0.3 * last)


def torus(major: float, minor: float, rows: int = 24, columns: int = 12) -> Surface:
    """Around the z axis: radius `major` of the ring's centre line, `minor` of the ring itself."""
    ring = circle(columns) * minor + np.array([major, 0.0])
    around = circle(rows)
    vertices = np.empty((rows, columns, 3))
    vertices[..., :2] = ring[None, :, :1] * around[:, None]
    vertices[..., 2] = ring[:, 1]
    index = np.arange(rows * columns).reshape(rows, columns)
    right, up = np.roll(index, -1, 0), np.roll(index, -1, 1)
    corners = [grid.reshape(-1) for grid in (index, right, np.roll(right, -1, 1), up)]
    faces = np.concatenate([np.stack([corners[k] for k in face], axis=-1) for face in ((0, 1, 2), (0, 2, 3))])
    return Surface(vertices.reshape(-1, 3), faces)
