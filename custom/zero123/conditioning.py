"""What Zero-1-to-3 is told besides the noisy latents: the picture, and where the view is seen from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.data.cameras import Cameras

OBJECT_LENGTH = 1.8  # of an object's longest side in this world; 1 in the networks'


@dataclass(frozen=True)
class Condition:
    """The encoded picture.

    embedding: [D] float32 of CLIP's image tower.
    latent:    [4, h, w] float32 of the autoencoder, not scaled.
    camera:    the one it was taken with.
    """

    embedding: Tensor
    latent: Tensor
    camera: Cameras


def relative_poses(start: Cameras, cameras: Cameras) -> Tensor:
    """[T, 4] float32 where T cameras are, from one camera: (d_theta, sin d_phi, cos d_phi, d_r).

    After Liu et al. 2023, "Zero-1-to-3", and its released code: theta is the angle from the zenith, phi the azimuth,
    counter-clockwise from above, both in radians, and r the distance where objects are 1 long.
    """
    fall = torch.deg2rad(start.elevation_deg - cameras.elevation_deg)
    turn = torch.deg2rad(cameras.azimuth_deg - start.azimuth_deg)
    away = (cameras.distance - start.distance) / OBJECT_LENGTH
    return torch.stack([fall, turn.sin(), turn.cos(), away], dim=-1)
