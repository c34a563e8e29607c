"""Cameras between the browser and ours. The browser's have OpenCV's axes: x right, y down, z along the view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import viser
from numpy.typing import NDArray
from torch import Tensor
from viser.transforms import SO3

from liftstudio.data.cameras import Cameras

_OTHER_AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0]))

FRUSTUM = 0.05  # length of a frustum, as a share of the camera's distance


@dataclass(frozen=True)
class Eye:
    """From where a browser looks.

    wxyz, position: camera to world. fov: vertical, radians. aspect: width over height. pixels: height of the window.
    """

    wxyz: tuple[float, ...]
    position: tuple[float, ...]
    fov: float
    aspect: float
    pixels: int

    @classmethod
    def of(cls, camera: viser.CameraHandle) -> "Eye":
        """Return where a browser's camera is now."""
        wxyz, position = (tuple(map(float, each)) for each in (camera.wxyz, camera.position))
        return cls(wxyz, position, camera.fov, camera.aspect, camera.image_height)

    def cameras(self, height: int) -> Cameras:
        """Return one camera with the same view, `height` pixels high."""
        c2w = torch.eye(4)
        c2w[:3, :3] = torch.from_numpy(SO3(np.array(self.wxyz)).as_matrix()).float() @ _OTHER_AXES
        c2w[:3, 3] = torch.tensor(self.position)
        width = max(1, round(height * self.aspect))
        focal = torch.tensor([0.5 * height / math.tan(self.fov / 2)])
        return Cameras(c2w[None], focal, focal, torch.tensor([width / 2]), torch.tensor([height / 2]), height, width)


def add_frusta(
    scene: viser.SceneApi,
    name: str,
    cameras: Cameras,
    images: Sequence[NDArray[np.uint8]] | None,
    color: tuple[int, int, int],
) -> list[viser.CameraFrustumHandle]:
    """Add a frustum for each camera to a browser's scene, below the node `name`; images: shown at their ends."""
    return [
        scene.add_camera_frustum(
            f"{name}/{index}",
            fov=float(torch.deg2rad(cameras.fov_deg[index])),
            aspect=cameras.width / cameras.height,
            scale=FRUSTUM * float(cameras.distance[index]),
            thickness=0.01,
            color=color,
            image=None if images is None else images[index],
            wxyz=_wxyz(cameras.c2w[index]),
            position=cameras.centers[index].numpy(),
        )
        for index in range(len(cameras))
    ]


def _wxyz(c2w: Tensor) -> NDArray[Any]:
    return SO3.from_matrix((c2w[:3, :3].double() @ _OTHER_AXES.double()).numpy()).wxyz
