"""Fast renderer of textured meshes: visibility by `ops.rasterization`, texture and light per sample."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from liftstudio.data.cameras import Cameras
from liftstudio.ops.rasterization import rasterize
from liftstudio.synthetic.draws import Draws
from liftstudio.synthetic.rendering import Floats, ObjectRender, Vector, face_planes, meet, write_pixel
from liftstudio.synthetic.textures import mix
from liftstudio.training.meshes.posing import MeshObject

SAMPLES = 2  # per pixel and axis
_UNLIT = 0.3  # share of objects under ambient light alone
_FILL = 0.35  # share of the others with a second directional light


@dataclass(frozen=True)
class Lighting:
    """L coloured, directional half-Lambert lights, fixed in the object's frame, and an ambient light.

    radiance = ambient + sum over l of diffuse_l (0.5 + 0.5 n . direction_l)^2, per channel, times the sRGB albedo.
    ambient: [3].  directions: [L, 3] unit, towards the lights.  diffuse: [L, 3].  All float64.
    """

    ambient: Floats
    directions: Floats
    diffuse: Floats


EVEN = Lighting(np.ones(3), np.zeros((0, 3)), np.zeros((0, 3)))  # shows the unshaded albedo


def draw_lighting(draws: Draws) -> Lighting:
    """Draw a light, mostly from above; some objects have a second one, others only the ambient light."""
    exposure = draws.uniform(0.85, 1.15)
    if draws.chance(_UNLIT):
        return Lighting(np.full(3, min(exposure, 1.0)), np.zeros((0, 3)), np.zeros((0, 3)))
    ambient = draws.uniform(0.35, 0.75)
    lights = [(_draw_direction(draws, -10, 85), (1.08 - ambient) * exposure * _draw_tint(draws))]
    if draws.chance(_FILL):
        strength = draws.uniform(0.15, 0.35)
        lights.append((_draw_direction(draws, -40, 60), strength * exposure * _draw_tint(draws)))
    directions, diffuse = (np.array(part) for part in zip(*lights, strict=True))
    return Lighting(ambient * exposure * _draw_tint(draws), directions, diffuse)


def _draw_direction(draws: Draws, least_deg: float, most_deg: float) -> Vector:
    azimuth = draws.uniform(0, 2 * math.pi)
    elevation = math.radians(draws.uniform(least_deg, most_deg))
    across = math.cos(elevation)
    return across * math.cos(azimuth), across * math.sin(azimuth), math.sin(elevation)


def _draw_tint(draws: Draws) -> Floats:
    """Draw a colour [3] close to white, slightly warm or cold."""
    warmth = draws.uniform(-0.07, 0.07)
    return np.array([1.0 + warmth, 1.0, 1.0 - warmth])


def render(obj: MeshObject, cameras: Cameras, lighting: Lighting) -> ObjectRender:
    """Render a double-sided mesh; normals that face away from the camera are flipped."""
    fine = cameras.resized(cameras.height * SAMPLES, cameras.width * SAMPLES)
    clip = fine.clip(torch.from_numpy(obj.vertices))
    visible = rasterize(clip, torch.from_numpy(obj.faces).long(), fine.height, fine.width).numpy()
    size = (len(cameras), cameras.height, cameras.width)
    rgb, alpha, depth = (np.empty((*size, channels), np.float32) for channels in (3, 1, 1))
    pinholes = torch.stack([fine.fx, fine.fy, fine.cx, fine.cy], dim=-1).double().numpy()
    planes = np.empty((len(obj.faces), 24))
    face_planes(obj.vertices, obj.faces, np.concatenate([obj.normals, obj.uv[obj.faces]], axis=2), planes)
    overlay = obj.overlay
    _shade(
        visible, fine.c2w.double().numpy(), pinholes, planes, obj.textures, int(overlay.pattern), overlay.count,
        overlay.shift, overlay.frame, lighting.ambient, lighting.directions, lighting.diffuse, rgb, alpha, depth,
    )  # fmt: skip
    return ObjectRender(*(torch.from_numpy(image) for image in (rgb, alpha, depth)))


@njit(nogil=True, cache=True)
def _shade(
    visible: NDArray[np.int32], c2w: Floats, pinholes: Floats, planes: Floats, textures: NDArray[np.uint8],
    pattern: int, count: float, shift: float, frame: Floats, ambient: Floats, directions: Floats, diffuse: Floats,
    rgb: NDArray[np.float32], alpha: NDArray[np.float32], depth: NDArray[np.float32],
) -> None:  # fmt: skip
    """Shade the samples `visible` [B, S H, S W] (face index or -1) and average them into images [B, H, W, C]."""
    batch, height, width, _ = rgb.shape
    samples = visible.shape[1] // height
    weight = 1.0 / (samples * samples)
    normal, texel, other = np.empty(3), np.empty(3), np.empty(3)
    for b in range(batch):
        origin = c2w[b, 0, 3], c2w[b, 1, 3], c2w[b, 2, 3]
        pinhole = pinholes[b, 0], pinholes[b, 1], pinholes[b, 2], pinholes[b, 3]
        for i in range(height):
            for j in range(width):
                red = green = blue = 0.0
                nearest, hits = np.inf, 0
                for row in range(i * samples, (i + 1) * samples):
                    for column in range(j * samples, (j + 1) * samples):
                        face = visible[b, row, column]
                        if face < 0:
                            continue
                        z_depth, (x, y, z), ray = meet(planes, face, c2w, b, origin, pinhole, row, column)
                        _set_normal(planes, face, x, y, z, ray, normal)
                        u, v = _at(planes, face, 16, x, y, z), _at(planes, face, 20, x, y, z)
                        _look_up(textures[0], u, v, texel)
                        if pattern:
                            _look_up(textures[1], u, v, other)
                            share = mix(
                                pattern, count, shift,
                                frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z + frame[0, 3],
                                frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z + frame[1, 3],
                                frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + frame[2, 3],
                            )  # fmt: skip
                            for c in range(3):
                                texel[c] += share * (other[c] - texel[c])
                        red += min(texel[0] * _radiance(normal, ambient, directions, diffuse, 0), 1.0)
                        green += min(texel[1] * _radiance(normal, ambient, directions, diffuse, 1), 1.0)
                        blue += min(texel[2] * _radiance(normal, ambient, directions, diffuse, 2), 1.0)
                        nearest, hits = min(nearest, z_depth), hits + 1
                write_pixel(rgb, alpha, depth, b, i, j, red, green, blue, hits, nearest, weight)


@njit(nogil=True, cache=True, inline="always")
def _at(planes: Floats, f: int, first: int, x: float, y: float, z: float) -> float:
    """Evaluate the affine function of face f that starts at column `first`."""
    return planes[f, first] * x + planes[f, first + 1] * y + planes[f, first + 2] * z + planes[f, first + 3]


@njit(nogil=True, cache=True, inline="always")
def _set_normal(planes: Floats, f: int, x: float, y: float, z: float, ray: Vector, normal: Floats) -> None:
    """Set `normal` to the unit normal at a point of face f, facing the origin of the ray."""
    nx, ny, nz = _at(planes, f, 4, x, y, z), _at(planes, f, 8, x, y, z), _at(planes, f, 12, x, y, z)
    scale = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    if planes[f, 0] * ray[0] + planes[f, 1] * ray[1] + planes[f, 2] * ray[2] > 0.0:
        scale = -scale
    normal[0], normal[1], normal[2] = nx * scale, ny * scale, nz * scale


@njit(nogil=True, cache=True, inline="always")
def _radiance(normal: Floats, ambient: Floats, directions: Floats, diffuse: Floats, channel: int) -> float:
    """Return the light of one channel on a surface with that normal."""
    radiance = ambient[channel]
    for k in range(len(directions)):
        facing = normal[0] * directions[k, 0] + normal[1] * directions[k, 1] + normal[2] * directions[k, 2]
        half = 0.5 + 0.5 * facing
        radiance += diffuse[k, channel] * half * half
    return radiance


@njit(nogil=True, cache=True, inline="always")
def _look_up(texture: NDArray[np.uint8], u: float, v: float, texel: Floats) -> None:
    """Set `texel` to the colour in [0, 1] at (u, v): bilinear with clamped borders, or nearest if h is 1."""
    height, width = texture.shape[0], texture.shape[1]
    if height == 1:
        nearest = min(max(int(u * width), 0), width - 1)
        for c in range(3):
            texel[c] = texture[0, nearest, c] / 255.0
        return
    x = min(max(u * width - 0.5, 0.0), width - 1.0)
    y = min(max(v * height - 0.5, 0.0), height - 1.0)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    x, y = x - left, y - top
    for c in range(3):
        above = texture[top, left, c] + x * (np.float64(texture[top, right, c]) - texture[top, left, c])
        below = texture[bottom, left, c] + x * (np.float64(texture[bottom, right, c]) - texture[bottom, left, c])
        texel[c] = (above + y * (below - above)) / 255.0
