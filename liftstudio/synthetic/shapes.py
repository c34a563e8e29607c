"""Closed surfaces as vertices and faces: swept sections, tubes along paths, tori.

Arrays: vertices [V, 3] float64 in any unit, faces [F, 3] int64 counter-clockwise seen from outside.
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
        """Return the surface translated by `offset`."""
        return Surface(self.vertices + np.array(offset), self.faces)

    def scaled(self, *factors: float) -> "Surface":
        """Return the surface scaled about the origin, by one positive factor or one per axis."""
        return Surface(self.vertices * np.array(factors), self.faces)

    def turned(self, rotation: Floats) -> "Surface":
        """Return the surface rotated about the origin by a [3, 3] matrix."""
        return Surface(self.vertices @ rotation.T, self.faces)

    def mirrored(self) -> "Surface":
        """Return the surface with y negated."""
        return Surface(self.vertices * np.array([1.0, -1.0, 1.0]), self.faces[:, ::-1])

    def hit(self, origin: tuple[float, float, float], direction: tuple[float, float, float]) -> Floats | None:
        """Return the first point [3] where the ray hits the surface; None if it misses."""
        start, along = np.array(origin, np.float64), np.array(direction, np.float64)
        distance = _first_hit(self.vertices, self.faces, *start.tolist(), *along.tolist())
        return start + along * distance if distance < math.inf else None


@njit(nogil=True, cache=True)
def _first_hit(
    vertices: Floats, faces: Ints, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> float:
    """Return the smallest t at which the ray o + t d hits a face; inf if it misses all.

    Moeller & Trumbore 1997, "Fast, minimum storage ray/triangle intersection".
    """
    slack = 1e-9  # keeps rays from slipping through edges
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
    """Return the faces of joined rings of points with a fan at both ends; the last two vertices are the fan centres."""
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
    """Join rings [K, N, 3] in order, and close the ends by fans to the points `start` and `end` [3].

    The points of a ring run counter-clockwise when looking from end to start.
    """
    count, points, _ = rings.shape
    return Surface(np.concatenate([rings.reshape(-1, 3), start[None], end[None]]), _tube_faces(count, points))


def sweep(profile: list[tuple[float, float]], section: Floats) -> Surface:
    """Sweep a section [N, 2] (x, y), counter-clockwise, upwards along z, scaled by r at each (r, z) of the profile.

    An end of the profile with r = 0 forms a tip, any other a flat cap.
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
    """Return points [points, 2] on the unit circle, starting at +x."""
    return superellipse(1.0, points)


def superellipse(exponent: float, points: int) -> Floats:
    """Return [points, 2] on |x|^(2/e) + |y|^(2/e) = 1: a circle for e = 1, nearly a square for 0.2, a rhombus for 2."""
    angle = np.arange(points) * (2 * np.pi / points)
    return np.stack([_signed_power(np.cos(angle), exponent), _signed_power(np.sin(angle), exponent)], axis=-1)


def square() -> Floats:
    """Return the corners (+-1, +-1) of a square, [4, 2]."""
    return np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]])


def star(tips: int, inner: float) -> Floats:
    """Return a star [2 tips, 2]: tips on the unit circle, the first at +x, notches at radius `inner`."""
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, inner)
    return circle(2 * tips) * radius[:, None]


def cross(half_width: float) -> Floats:
    """Return a cross [12, 2] of two bars from -1 to 1, with the given half-width below 1."""
    arm = np.array([[1.0, -half_width], [1.0, half_width], [half_width, half_width]])
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.concatenate([arm @ np.linalg.matrix_power(turn, quarter).T for quarter in range(4)])


def _signed_power(value: Floats, exponent: float) -> Floats:
    # Rounding leaves 1e-17 instead of 0, which small exponents would enlarge visibly.
    clean = np.where(np.abs(value) < 1e-12, 0.0, value)
    return np.sign(clean) * np.abs(clean) ** exponent


def superquadric(vertical: float, horizontal: float, rows: int = 8, columns: int = 16) -> Surface:
    """Return a superquadric with half-sides 1 and exponents as in `superellipse`.

    Barr 1981, "Superquadrics and angle-preserving transformations".
    """
    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows + 1)
    radius, height = _signed_power(np.cos(latitude), vertical), _signed_power(np.sin(latitude), vertical)
    return sweep(list(zip(radius.tolist(), height.tolist(), strict=True)), superellipse(horizontal, columns))


def ellipsoid(x: float, y: float, z: float, rows: int = 6, columns: int = 10) -> Surface:
    """Return an ellipsoid with the given half-axes."""
    return superquadric(1.0, 1.0, rows, columns).scaled(x, y, z)


def ball(radius: float) -> Surface:
    """Return a sphere."""
    return ellipsoid(radius, radius, radius)


def limb(path: Floats, radii: Floats, side: tuple[float, float, float], columns: int = 8) -> Surface:
    """Return a round-ended tube of radii [K] along a path [K, 3]; the path must never run parallel to `side`."""
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
    """Return a torus around the z axis; major: radius of the centre line, minor: radius of the tube."""
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
