"""The fixed cameras of a checkpoint, in the axes it was trained with.

In these, objects are 1 long instead of 1.8, and cameras look along +z, with y down. Pixel (row i, column j) is at
(j, i), half a pixel off from the training renders: the network was trained with this offset.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras

ELEVATION_DEG = 30.0  # of all cameras of the published file
DISTANCE = 1.5  # of the cameras from the object's centre
FOCAL_LENGTH = 280 / 256  # in image widths: a 35 mm lens on a 32 mm sensor
HALF_SIDE = 0.5  # of the spatial volume's cube
HALF_DEPTH = 0.86603  # of the frustum volume, on both sides of the object's centre; about half the cube's diagonal
LEAST_DEPTH = 1e-4  # lower bound of depths to divide by in projections


@dataclass(frozen=True)
class Rig:
    """N cameras.

    poses:      [N, 3, 4] float32, world to camera.
    intrinsics: [N, 3, 3] float32, in pixels of the image (not of the latents).
    azimuth:    [N] float32, radians.
    """

    poses: Tensor
    intrinsics: Tensor
    azimuth: Tensor

    @classmethod
    def read(cls, weights: Weights, device: torch.device) -> "Rig":
        """Read the cameras from a checkpoint."""
        return cls(*(weights[key].to(device, torch.float32, copy=True) for key in ("poses", "Ks", "azimuth")))

    @classmethod
    def of(cls, cameras: Cameras) -> "Rig":
        """Convert cameras; all are moved to the distance DISTANCE."""
        rotation = (cameras.c2w[:, :3, :3] * torch.tensor([1.0, -1, -1], device=cameras.device)).mT
        centers = DISTANCE * cameras.centers / cameras.distance[:, None]
        poses = torch.cat([rotation, -rotation @ centers[..., None]], dim=-1)
        intrinsics = torch.zeros(len(cameras), 3, 3, device=cameras.device)
        for (row, column), name in (((0, 0), "fx"), ((1, 1), "fy"), ((0, 2), "cx"), ((1, 2), "cy")):
            intrinsics[:, row, column] = getattr(cameras, name)
        intrinsics[:, 2, 2] = 1
        azimuth = torch.atan2(centers[:, 1], centers[:, 0])
        return cls(poses, intrinsics, azimuth)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, views: slice) -> "Rig":
        return Rig(self.poses[views], self.intrinsics[views], self.azimuth[views])

    @property
    def elevation_deg(self) -> float:
        """Elevation of the cameras, which is the same for all; to a thousandth of a degree, despite float32."""
        center = -self.poses[0, :, :3].double().mT @ self.poses[0, :, 3].double()
        return round(math.degrees(math.asin(float(center[2] / center.norm()))), 3)

    @property
    def image_size(self) -> int:
        """Pixels across the images: twice the principal point's coordinate."""
        return round(2 * float(self.intrinsics[0, 0, 2]))

    def view_embedding(self, elevation_deg: float, first_azimuth: Tensor) -> Tensor:
        """Return the views' angles relative to the input image, which is at the first view's azimuth, [N, 4] float32.

        elevation_deg: of the input image's camera. first_azimuth: [] radians.
        """
        rise = torch.full_like(self.azimuth, math.radians(elevation_deg) - math.radians(self.elevation_deg))
        turn = self.azimuth - first_azimuth
        return torch.stack([rise, turn.sin(), turn.cos(), torch.zeros_like(turn)], dim=-1)

    def warp_coordinates(self, points: Tensor, size: int) -> Tensor:
        """Project points [P, 3] to the views' latents of `size` x `size`, [N, P, 2]: -1 and 1 are the outer texels."""
        projection = self._latent_intrinsics(size) @ self.poses
        x, y, depth = (projection[..., :3] @ points.T + projection[..., 3:]).unbind(1)
        texels = torch.stack([x, y], dim=-1) / depth.clamp_min(LEAST_DEPTH)[..., None]
        return texels / ((size - 1) / 2) - 1

    def frustum_points(self, planes: int, size: int) -> Tensor:
        """Return world points on each texel's ray, at depths around the object, [N, planes, size, size, 3]."""
        row, column = torch.meshgrid(*[torch.arange(size, device=self.poses.device).float()] * 2, indexing="ij")
        texels = torch.stack([column, row, torch.ones_like(row)], dim=-1).view(-1, 3)
        depths = torch.linspace(-HALF_DEPTH, HALF_DEPTH, planes, device=self.poses.device)
        distances = self.poses[:, :, 3].norm(dim=1)[:, None] + depths  # [N, planes]
        seen = F.pad(texels * distances[..., None, None], (0, 1), value=1.0)  # [N, planes, size^2, 4]
        world_from_seen = torch.linalg.inv(_square(self._latent_intrinsics(size) @ self.poses))
        return (seen @ world_from_seen.mT[:, None])[..., :3].unflatten(2, (size, size))

    def _latent_intrinsics(self, size: int) -> Tensor:
        scale = size / self.image_size
        return self.intrinsics * self.intrinsics.new_tensor([scale, scale, 1.0])[:, None]


def _square(projection: Tensor) -> Tensor:
    """Append the row (0, 0, 0, 1) to matrices [N, 3, 4]: [N, 4, 4]."""
    last = projection.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(projection), 1, 4)
    return torch.cat([projection, last], dim=1)


def vertices(count: int, device: torch.device) -> Tensor:
    """Return world positions (x, y, z) of the spatial volume's vertices, [count^3, 3], x fastest."""
    axis = torch.linspace(-HALF_SIDE, HALF_SIDE, count, device=device)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1).view(-1, 3)
