"""Conditioning of Zero-1-to-3: the input image and the relative camera of each view."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from liftstudio.data.cameras import Cameras

Convention = Literal["zero123", "stable-zero123"]

OBJECT_LENGTH = 1.8  # length of an object's longest side in this world; 1 in the network's


@dataclass(frozen=True)
class Condition:
    """The encoded input image.

    embedding: [D] float32, from CLIP's image tower.
    latent:    [4, h, w] float32, from the autoencoder, unscaled.
    camera:    that of the image.
    """

    embedding: Tensor
    latent: Tensor
    camera: Cameras


def relative_poses(start: Cameras, cameras: Cameras, convention: Convention = "zero123") -> Tensor:
    """Return T cameras relative to one camera, [T, 4] float32: (d_theta, sin d_phi, cos d_phi, last).

    After Liu et al. 2023, "Zero-1-to-3", and its released code: theta is the angle from the zenith, phi the azimuth,
    counter-clockwise seen from above, both in radians. The last number depends on the convention: for "zero123" the
    difference in distance, in units of the object's length; for "stable-zero123" theta of the input image, as in
    threestudio's `stable-zero123-guidance`.
    """
    fall = torch.deg2rad(start.elevation_deg - cameras.elevation_deg)
    turn = torch.deg2rad(cameras.azimuth_deg - start.azimuth_deg)
    if convention == "stable-zero123":
        last = torch.deg2rad(90 - start.elevation_deg).expand_as(fall)
    else:
        last = (cameras.distance - start.distance) / OBJECT_LENGTH
    return torch.stack([fall, turn.sin(), turn.cos(), last], dim=-1)
