"""Fast renderer of textured objects: visibility by `ops.rasterization`, textures and light per sample."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from liftstudio.core.checks import check_range
from liftstudio.data.cameras import Cameras
from liftstudio.ops.rasterization import rasterize
from liftstudio.synthetic.assembly import TexturedObject
from liftstudio.synthetic.textures import mix

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]
Pinhole = tuple[float, float, float, float]


@dataclass(frozen=True)
class ObjectRender:
    """Rendered images of an object, torch CPU tensors.

    rgb:   [B, H, W, 3] float32 sRGB in [0, 1], composited over white.
    alpha: [B, H, W, 1] float32, share of the pixel's samples on the object.
    depth: [B, H, W, 1] float32 z-depth of the nearest sample in world units; 0 on the background.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


def render(obj: TexturedObject, cameras: Cameras, *, shaded: bool = True, supersampling: int = 2) -> ObjectRender:
    """Render `obj`; the global interpreter lock is released for nearly all of the work.

    shaded: apply the object's light, else show its albedo. supersampling: samples per pixel and axis.

    Raises:
        InputError: supersampling below 1.
    """
    check_range("supersampling", supersampling, 1)
    fine = cameras.resized(cameras.height * supersampling, cameras.width * supersampling)
    clip = fine.clip(torch.from_numpy(obj.vertices))
    visible = rasterize(clip, torch.from_numpy(obj.faces).long(), fine.height, fine.width).numpy()
    size = (len(cameras), cameras.height, cameras.width)
    rgb, alpha, depth = (np.empty((*size, channels), np.float32) for channels in (3, 1, 1))
    pinholes = torch.stack([fine.fx, fine.fy, fine.cx, fine.cy], dim=-1).double().numpy()
    light = obj.light
    lighting = np.array([*light.direction, light.ambient, light.diffuse] if shaded else [0, 0, 0, 1, 0], np.float64)
    planes = np.empty((len(obj.faces), 16))
    face_planes(obj.vertices, obj.faces, obj.normals, planes)
    _shade(
        visible, fine.c2w.double().numpy(), pinholes, planes, obj.part, obj.patterns, obj.settings, obj.frames,
        obj.colors, lighting, rgb, alpha, depth,
    )  # fmt: skip
    return ObjectRender(*(torch.from_numpy(image) for image in (rgb, alpha, depth)))


@njit(nogil=True, cache=True)
def _shade(
    visible: NDArray[np.int32], c2w: Floats, pinholes: Floats, planes: Floats, part: NDArray[np.int32],
    patterns: NDArray[np.int64], settings: Floats, frames: Floats, colors: Floats, lighting: Floats,
    rgb: NDArray[np.float32], alpha: NDArray[np.float32], depth: NDArray[np.float32],
) -> None:  # fmt: skip
    """Shade the samples `visible` [B, S H, S W] (face index or -1) and average them into images [B, H, W, C]."""
    batch, height, width, _ = rgb.shape
    samples = visible.shape[1] // height
    weight = 1.0 / (samples * samples)
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
                        z_depth, (x, y, z), _ = meet(planes, face, c2w, b, origin, pinhole, row, column)
                        radiance = _radiance(planes, face, lighting, x, y, z)
                        k = part[face]
                        share = _share(k, patterns, settings, frames, x, y, z)
                        red += min(radiance * (colors[k, 0, 0] + share * (colors[k, 1, 0] - colors[k, 0, 0])), 1.0)
                        green += min(radiance * (colors[k, 0, 1] + share * (colors[k, 1, 1] - colors[k, 0, 1])), 1.0)
                        blue += min(radiance * (colors[k, 0, 2] + share * (colors[k, 1, 2] - colors[k, 0, 2])), 1.0)
                        nearest, hits = min(nearest, z_depth), hits + 1
                write_pixel(rgb, alpha, depth, b, i, j, red, green, blue, hits, nearest, weight)


@njit(nogil=True, cache=True, inline="always")
def meet(
    planes: Floats, f: int, c2w: Floats, b: int, origin: Vector, pinhole: Pinhole, row: int, column: int
) -> tuple[float, Vector, Vector]:
    """Intersect the ray through a sample of camera b with the plane of face f; return z-depth, point and direction.

    The direction has length 1 along the camera axis. origin: the camera's centre. pinhole: fx, fy, cx, cy in samples.
    """
    x, y = (column + 0.5 - pinhole[2]) / pinhole[0], (pinhole[3] - row - 0.5) / pinhole[1]
    dx = c2w[b, 0, 0] * x + c2w[b, 0, 1] * y - c2w[b, 0, 2]
    dy = c2w[b, 1, 0] * x + c2w[b, 1, 1] * y - c2w[b, 1, 2]
    dz = c2w[b, 2, 0] * x + c2w[b, 2, 1] * y - c2w[b, 2, 2]
    across = planes[f, 0] * dx + planes[f, 1] * dy + planes[f, 2] * dz
    height = planes[f, 3] - planes[f, 0] * origin[0] - planes[f, 1] * origin[1] - planes[f, 2] * origin[2]
    z_depth = height / across if across != 0.0 else 0.0
    point = origin[0] + z_depth * dx, origin[1] + z_depth * dy, origin[2] + z_depth * dz
    return z_depth, point, (dx, dy, dz)


@njit(nogil=True, cache=True, inline="always")
def write_pixel(
    rgb: NDArray[np.float32], alpha: NDArray[np.float32], depth: NDArray[np.float32], b: int, i: int, j: int,
    red: float, green: float, blue: float, hits: int, nearest: float, weight: float,
) -> None:  # fmt: skip
    """Write a pixel over white, from sums over its samples on the object; weight: a sample's share of the pixel."""
    white = 1.0 - hits * weight
    rgb[b, i, j, 0] = red * weight + white
    rgb[b, i, j, 1] = green * weight + white
    rgb[b, i, j, 2] = blue * weight + white
    alpha[b, i, j, 0] = hits * weight
    depth[b, i, j, 0] = nearest if hits else 0.0


@njit(nogil=True, cache=True, inline="always")
def _radiance(planes: Floats, f: int, lighting: Floats, x: float, y: float, z: float) -> float:
    """Return the light at a point of face f, by its interpolated normal."""
    nx = planes[f, 4] * x + planes[f, 5] * y + planes[f, 6] * z + planes[f, 7]
    ny = planes[f, 8] * x + planes[f, 9] * y + planes[f, 10] * z + planes[f, 11]
    nz = planes[f, 12] * x + planes[f, 13] * y + planes[f, 14] * z + planes[f, 15]
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    facing = (nx * lighting[0] + ny * lighting[1] + nz * lighting[2]) / max(length, 1e-12)
    half = 0.5 + 0.5 * facing
    return float(lighting[3] + lighting[4] * half * half)


@njit(nogil=True, cache=True, inline="always")
def _share(
    k: int, patterns: NDArray[np.int64], settings: Floats, frames: Floats, x: float, y: float, z: float
) -> float:
    """Return the share of part k's second colour at a point."""
    u = frames[k, 0, 0] * x + frames[k, 0, 1] * y + frames[k, 0, 2] * z + frames[k, 0, 3]
    v = frames[k, 1, 0] * x + frames[k, 1, 1] * y + frames[k, 1, 2] * z + frames[k, 1, 3]
    w = frames[k, 2, 0] * x + frames[k, 2, 1] * y + frames[k, 2, 2] * z + frames[k, 2, 3]
    return float(mix(patterns[k], settings[k, 0], settings[k, 1], u, v, w))


@njit(nogil=True, cache=True)
def face_planes(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], corners: NDArray[np.float32], planes: Floats
) -> None:
    """Set planes[f] to n and n . a of face f, and to the C affine functions that interpolate its corner values.

    corners: [F, 3, C]. planes: [F, 4 + 4 C]; each function is its gradient and its value at the origin.
    """
    for f in range(len(faces)):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        ax, ay, az = np.float64(vertices[a, 0]), np.float64(vertices[a, 1]), np.float64(vertices[a, 2])
        ux, uy, uz = vertices[b, 0] - ax, vertices[b, 1] - ay, vertices[b, 2] - az
        vx, vy, vz = vertices[c, 0] - ax, vertices[c, 1] - ay, vertices[c, 2] - az
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        square = nx * nx + ny * ny + nz * nz
        inverse = 1.0 / square if square > 0.0 else 0.0
        planes[f, 0], planes[f, 1], planes[f, 2], planes[f, 3] = nx, ny, nz, nx * ax + ny * ay + nz * az
        # Gradients of the barycentric coordinates of b and c: v x n / n^2 and n x u / n^2.
        bx, by, bz = (vy * nz - vz * ny) * inverse, (vz * nx - vx * nz) * inverse, (vx * ny - vy * nx) * inverse
        cx, cy, cz = (ny * uz - nz * uy) * inverse, (nz * ux - nx * uz) * inverse, (nx * uy - ny * ux) * inverse
        for channel in range(corners.shape[2]):
            first = np.float64(corners[f, 0, channel])
            to_b, to_c = corners[f, 1, channel] - first, corners[f, 2, channel] - first
            gx, gy, gz = to_b * bx + to_c * cx, to_b * by + to_c * cy, to_b * bz + to_c * cz
            row = 4 * (channel + 1)
            planes[f, row], planes[f, row + 1], planes[f, row + 2] = gx, gy, gz
            planes[f, row + 3] = first - gx * ax - gy * ay - gz * az
