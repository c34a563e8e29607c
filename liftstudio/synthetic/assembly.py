"""Assembles parts into textured objects: centred, scaled and with a light."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from liftstudio.synthetic import textures
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.shapes import Surface
from liftstudio.synthetic.textures import Texture

LONGEST_SIDE = 1.8  # world units, of the axis-aligned bounding box
MAX_RADIUS = 1.04  # world units; below 3.6 sin(33.8 deg / 2) = 1.0465, so that no orbit at distance 3.6 crops it
CREASE_DEG = 50.0  # smooth normals are not shared across edges sharper than this

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Light:
    """A directional half-Lambert light, fixed in the world, and an ambient light.

    radiance = ambient + diffuse (0.5 + 0.5 n . direction)^2, times the albedo.
    direction: [3] unit vector towards the light.
    """

    direction: tuple[float, float, float]
    ambient: float
    diffuse: float


@dataclass(frozen=True)
class Part:
    """A closed surface with a texture; frame [3, 4] maps points of the surface to texture coordinates (u, v, w)."""

    surface: Surface
    texture: Texture
    frame: Floats

    def mirrored(self) -> "Part":
        """Return the part with y negated."""
        return Part(self.surface.mirrored(), self.texture, self.frame * np.array([1.0, -1.0, 1.0, 1.0]))


@dataclass(frozen=True)
class TexturedObject:
    """A textured mesh in canonical pose: z up, front on +x, its box centred at the origin, its longest side 1.8
    (less if its bounding sphere would exceed MAX_RADIUS).

    The surface is the union of P overlapping closed parts.

    vertices: [V, 3] float32, world units.   faces: [F, 3] int32, counter-clockwise seen from outside.
    normals:  [F, 3, 3] float32, unit, per face corner: smooth on round parts, those of the face at creases.
    part:     [F] int32, in [0, P).
    patterns: [P] int64 `textures.Pattern`.   settings: [P, 2] float64 (count, shift) of `textures.Texture`.
    frames:   [P, 3, 4] float64, map world points to (u, v, w).   colors: [P, 2, 3] float64 sRGB in [0, 1].
    light:    the light that it is rendered with.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    part: NDArray[np.int32]
    patterns: NDArray[np.int64]
    settings: Floats
    frames: Floats
    colors: Floats
    light: Light

    def albedo(self, points: NDArray[np.floating], part: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the sRGB albedo [N, 3] in [0, 1] at points [N, 3] (world units) on the given parts [N]."""
        out = np.empty((len(points), 3))
        textures.albedo(
            np.ascontiguousarray(points, np.float64), np.ascontiguousarray(part, np.int64),
            self.patterns, self.settings, self.frames, self.colors, out,
        )  # fmt: skip
        return out.astype(np.float32)


def box_frame(surface: Surface) -> Floats:
    """Return the frame [3, 4] that maps the surface's box to [-1, 1]^3, w upwards."""
    low, high = surface.vertices.min(0), surface.vertices.max(0)
    half = (high - low) / 2
    return np.concatenate([np.diag(1 / half), -((low + high) / 2 / half)[:, None]], axis=1)


def axis_frame(start: Floats, end: Floats) -> Floats:
    """Return the frame [3, 4] whose w runs from -1 at `start` to 1 at `end` [3]; u = v = 0."""
    axis = end - start
    row = 2 * axis / (axis @ axis)
    return np.array([np.zeros(4), np.zeros(4), [*row, -row @ start - 1]])


def assemble(parts: Sequence[Part], light: Light) -> TexturedObject:
    """Join parts into one object, centred and scaled."""
    vertices = np.concatenate([part.surface.vertices for part in parts])
    offsets = np.cumsum([0, *(len(part.surface.vertices) for part in parts)])
    faces = np.concatenate([part.surface.faces + offset for part, offset in zip(parts, offsets, strict=False)])
    center = (vertices.min(0) + vertices.max(0)) / 2
    vertices = vertices - center
    scale = min(LONGEST_SIDE / np.ptp(vertices, axis=0).max(), MAX_RADIUS / np.linalg.norm(vertices, axis=1).max())
    vertices *= scale
    frames = np.stack([part.frame for part in parts])
    frames[:, :, 3] += frames[:, :, :3] @ center
    frames[:, :, :3] /= scale
    return TexturedObject(
        vertices=vertices.astype(np.float32),
        faces=faces.astype(np.int32),
        normals=corner_normals(vertices, faces, math.cos(math.radians(CREASE_DEG))),
        part=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.surface.faces) for part in parts]),
        patterns=np.array([part.texture.pattern for part in parts], np.int64),
        settings=np.array([(part.texture.count, part.texture.shift) for part in parts], np.float64),
        frames=frames,
        colors=np.array([(part.texture.first, part.texture.second) for part in parts], np.float64),
        light=light,
    )


def draw_light(draws: Draws) -> Light:
    """Draw a light, mostly from above; one time in five only the ambient light."""
    azimuth, elevation = draws.uniform(0, 2 * math.pi), draws.uniform(math.radians(15), math.radians(75))
    across = math.cos(elevation)
    direction = (across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation))
    ambient = draws.uniform(0.5, 0.7)
    return Light(direction, 1.0, 0.0) if draws.chance(0.2) else Light(direction, ambient, 1.05 - ambient)


@njit(nogil=True, cache=True)
def corner_normals(vertices: Floats, faces: Ints, least_cosine: float) -> NDArray[np.float32]:
    """Return normals [F, 3, 3]: per corner, the area-weighted mean over adjacent faces within the crease angle."""
    area, length = _area_vectors(vertices, faces)
    first, around = _faces_around(faces, len(vertices))
    normals = np.empty((len(faces), 3, 3), np.float32)
    for f in range(len(faces)):
        for c in range(3):
            x = y = z = 0.0
            for n in range(first[faces[f, c]], first[faces[f, c] + 1]):
                g = around[n]
                dot = area[f, 0] * area[g, 0] + area[f, 1] * area[g, 1] + area[f, 2] * area[g, 2]
                if dot >= least_cosine * length[f] * length[g]:
                    x, y, z = x + area[g, 0], y + area[g, 1], z + area[g, 2]
            norm = max(math.sqrt(x * x + y * y + z * z), 1e-30)
            normals[f, c, 0], normals[f, c, 1], normals[f, c, 2] = x / norm, y / norm, z / norm
    return normals


@njit(nogil=True, cache=True)
def _area_vectors(vertices: Floats, faces: Ints) -> tuple[Floats, Floats]:
    """Return outward normals [F, 3], scaled by twice the area, and their lengths [F]."""
    area, length = np.empty((len(faces), 3)), np.empty(len(faces))
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        x, y, z = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        area[f, 0], area[f, 1], area[f, 2] = x, y, z
        length[f] = math.sqrt(x * x + y * y + z * z)
    return area, length


@njit(nogil=True, cache=True)
def _faces_around(faces: Ints, vertex_count: int) -> tuple[Ints, Ints]:
    """Return (first [V + 1], around [3 F]): the faces at vertex v are around[first[v] : first[v + 1]]."""
    first = np.zeros(vertex_count + 1, np.int64)
    for f in range(len(faces)):
        for c in range(3):
            first[faces[f, c] + 1] += 1
    first = np.cumsum(first)
    filled, around = first.copy(), np.empty(3 * len(faces), np.int64)
    for f in range(len(faces)):
        for c in range(3):
            around[filled[faces[f, c]]] = f
            filled[faces[f, c]] += 1
    return first, around
