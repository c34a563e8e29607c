"""Batches of pinhole cameras: rays, projection, clip coordinates, placement on orbits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range

Distance = Annotated[float, Range(1e-3)]  # distance of a camera from the origin, world units
FovDeg = Annotated[float, Range(1, 170)]


@dataclass(frozen=True)
class Cameras:
    """B pinhole cameras with the same image size.

    c2w:            [B, 4, 4] float32 camera-to-world, OpenGL axes (x right, y up, looks along -z), world units; float64
                    only in a capture's own world, which may be far from its origin.
    fx, fy, cx, cy: [B] float32 intrinsics in pixels; the centre of pixel (row i, column j) is at (j + 0.5, i + 0.5).
    height, width:  image size in pixels.
    """

    c2w: Tensor
    fx: Tensor
    fy: Tensor
    cx: Tensor
    cy: Tensor
    height: int
    width: int

    def __post_init__(self) -> None:
        check_shape("c2w", self.c2w, ("B", 4, 4))
        for name in ("fx", "fy", "cx", "cy"):
            check_shape(name, getattr(self, name), (len(self.c2w),))

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: Tensor | slice | Sequence[int]) -> "Cameras":
        return self._map(lambda tensor: tensor[index])

    def to(self, device: torch.device | str) -> "Cameras":
        """Return the cameras with their tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, change) -> "Cameras":  # type: ignore[no-untyped-def]
        return replace(self, **{name: change(getattr(self, name)) for name in ("c2w", "fx", "fy", "cx", "cy")})

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.c2w.device

    @property
    def centers(self) -> Tensor:
        """Camera positions in the world, [B, 3]."""
        return self.c2w[:, :3, 3]

    @property
    def forward(self) -> Tensor:
        """Unit viewing directions in the world, [B, 3]."""
        return -self.c2w[:, :3, 2]

    @property
    def distance(self) -> Tensor:
        """Distances to the world's origin, [B]."""
        return self.centers.norm(dim=-1)

    @property
    def azimuth_deg(self) -> Tensor:
        """Azimuths [B] in [0, 360), counter-clockwise from +x seen from above."""
        return torch.rad2deg(torch.atan2(self.centers[:, 1], self.centers[:, 0])) % 360

    @property
    def elevation_deg(self) -> Tensor:
        """Elevations [B] above the xy plane, in [-90, 90]."""
        return torch.rad2deg(torch.asin((self.centers[:, 2] / self.distance).clamp(-1, 1)))

    @property
    def fov_deg(self) -> Tensor:
        """Vertical fields of view [B], for a principal point at the image's centre."""
        return 2 * torch.rad2deg(torch.atan(0.5 * self.height / self.fy))

    def lattice(self, stride: int, offset_x: Tensor, offset_y: Tensor, height: int, width: int) -> "Cameras":
        """Return cameras whose pixels are every `stride`-th pixel of these, starting at the offsets [B] (pixels).

        Pixel (i, j) of the result has exactly the ray of pixel (offset_y + i*stride, offset_x + j*stride).
        """
        return Cameras(
            self.c2w,
            self.fx / stride,
            self.fy / stride,
            (self.cx - offset_x - 0.5) / stride + 0.5,
            (self.cy - offset_y - 0.5) / stride + 0.5,
            height,
            width,
        )

    def resized(self, height: int, width: int) -> "Cameras":
        """Return the same views at another resolution."""
        sx, sy = width / self.width, height / self.height
        return Cameras(self.c2w, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, height, width)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Return origins and unit directions of the rays through all pixel centres in the world, both [B, H, W, 3]."""
        column = torch.arange(self.width, device=self.device) + 0.5
        row = torch.arange(self.height, device=self.device) + 0.5
        x = (column[None] - self.cx[:, None]) / self.fx[:, None]
        y = (self.cy[:, None] - row[None]) / self.fy[:, None]
        shape = (len(self), self.height, self.width)
        local = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape), -x.new_ones(shape)], dim=-1)
        directions = F.normalize(torch.einsum("bij,bhwj->bhwi", self.c2w[:, :3, :3], local), dim=-1)
        return self.centers[:, None, None].expand_as(directions), directions

    def to_camera(self, points: Tensor) -> Tensor:
        """Return world points [N, 3] in the axes of each camera, [B, N, 3]."""
        return torch.einsum("bji,bnj->bni", self.c2w[:, :3, :3], points[None] - self.centers[:, None])

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel coordinates (x, y) [B, N, 2] and z-depths [B, N] (world units, < 0 behind) of points [N, 3]."""
        local = self.to_camera(points)
        depth = -local[..., 2]
        safe = torch.where(depth.abs() < 1e-9, torch.full_like(depth, 1e-9), depth)
        x = self.fx[:, None] * local[..., 0] / safe + self.cx[:, None]
        y = self.cy[:, None] - self.fy[:, None] * local[..., 1] / safe
        return torch.stack([x, y], dim=-1), depth

    def clip(self, points: Tensor, near: float = 0.01, far: float = 100.0) -> Tensor:
        """Return OpenGL clip coordinates [B, N, 4] of world points [N, 3]; differentiable."""
        x, y, z = self.to_camera(points).unbind(-1)
        sx, sy = 2 * self.fx / self.width, 2 * self.fy / self.height
        ox, oy = 2 * self.cx / self.width - 1, 1 - 2 * self.cy / self.height
        clip_z = -(far + near) / (far - near) * z - 2 * far * near / (far - near)
        return torch.stack(
            [sx[:, None] * x - ox[:, None] * z, sy[:, None] * y - oy[:, None] * z, clip_z, -z],
            dim=-1,
        )


def concatenate(batches: Sequence[Cameras]) -> Cameras:
    """Return one batch made of several batches with the same image size."""
    first = batches[0]
    c2w, fx, fy, cx, cy = (torch.cat([getattr(b, n) for b in batches]) for n in ("c2w", "fx", "fy", "cx", "cy"))
    return Cameras(c2w, fx, fy, cx, cy, first.height, first.width)


def turned(cameras: Cameras, angle_deg: float) -> Cameras:
    """Return the cameras rotated about the world's z axis, counter-clockwise seen from above."""
    angle = torch.deg2rad(torch.tensor(angle_deg))
    turn = torch.eye(4)
    turn[0, 0] = turn[1, 1] = angle.cos()
    turn[1, 0], turn[0, 1] = angle.sin(), -angle.sin()
    return replace(cameras, c2w=turn.to(cameras.c2w) @ cameras.c2w)


def moved(cameras: Cameras, similarity: Tensor) -> Cameras:
    """Return the cameras transformed by a similarity [4, 4] in float64, as float32; their axes keep unit length."""
    poses = similarity.double() @ cameras.c2w.double()
    poses[:, :3, :3] /= similarity[:3, 0].double().norm()
    return replace(cameras, c2w=poses.float())


def look_at(centers: Tensor, targets: Tensor) -> Tensor:
    """Return camera-to-world matrices [B, 4, 4] at `centers` [B, 3] looking at `targets` [B, 3], with world z up.

    Straight above or below, the image's up is the world's -x or +x (the limit of a camera on +x).
    """
    back = F.normalize(centers - targets, dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], device=centers.device).expand_as(back)
    right = torch.linalg.cross(up, back)
    vertical = right.norm(dim=-1, keepdim=True) < 1e-6
    right = F.normalize(torch.where(vertical, torch.tensor([0.0, 1.0, 0.0], device=right.device), right), dim=-1)
    c2w = torch.eye(4, device=centers.device).repeat(len(centers), 1, 1)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2] = right, torch.linalg.cross(back, right), back
    c2w[:, :3, 3] = centers
    return c2w


def orbit_cameras(
    azimuth_deg: Tensor, elevation_deg: Tensor, distance: Tensor | float, fov_deg: float, height: int, width: int
) -> Cameras:
    """Return cameras around the origin that look at it.

    azimuth_deg, elevation_deg: [B] degrees; azimuth 0 is +x, counter-clockwise seen from above.
    distance: [B] or a number, world units. fov_deg: vertical field of view.

    Raises:
        InputError: field of view outside (0, 180), a distance that is not positive, or values that are not finite.
    """
    azimuth, elevation = torch.deg2rad(azimuth_deg.float()), torch.deg2rad(elevation_deg.float())
    distances = torch.as_tensor(distance, dtype=torch.float32, device=azimuth.device).expand_as(azimuth)
    if not 0 < fov_deg < 180:
        raise InputError(f"fov_deg: expected a field of view between 0 and 180 degrees, got {fov_deg}")
    if not (torch.isfinite(azimuth + elevation).all() and (distances > 0).all()):
        raise InputError("orbit: expected finite angles and distances above 0")
    unit = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], dim=-1)
    centers = unit * distances[:, None]
    focal = 0.5 * height / torch.tan(torch.deg2rad(torch.tensor(fov_deg / 2)))
    ones = torch.ones_like(azimuth)
    c2w = look_at(centers, torch.zeros_like(centers))
    return Cameras(c2w, focal * ones, focal * ones, ones * width / 2, ones * height / 2, height, width)
