"""Conditioning of SV3D: level of augmentation noise, the camera of each frame, the input image.

Everything here is float32: angles in half precision would be off by 0.002 in the embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.priors import latent_prior

COND_AUG = 1e-5  # standard deviation of the noise on the input image, which is also given to the network
COND_AUG_WIDTH, ANGLE_WIDTH = 256, 512  # widths of the sinusoidal embeddings


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Embed values [...]: [..., width] cosines, then sines, of the values times 10000^(-k / (width / 2))."""
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=values.device) / half)
    angle = values.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def frame_vectors(
    elevation_deg: Tensor, azimuth_deg: Tensor, width: int, cond_aug: float | Tensor = COND_AUG
) -> Tensor:
    """Return the conditioning vector of each frame, [T, width].

    The polar angle (90 degrees - elevation, absolute) and the azimuth (relative to the last frame, which is the input
    view, in [0, 360)) are embedded in radians, as in the official sampling script.

    Args:
        elevation_deg, azimuth_deg: [T] degrees of a closed orbit.
        width: 1280 for weights that are conditioned on cameras (sv3d_p), 256 for those that are not (sv3d_u).
        cond_aug: augmentation noise level; a number or [].
    """
    noise = sinusoids(torch.as_tensor(cond_aug, device=azimuth_deg.device).expand_as(azimuth_deg), COND_AUG_WIDTH)
    if width == COND_AUG_WIDTH:
        return noise
    polar = torch.deg2rad(90 - elevation_deg.double())
    azimuth = torch.deg2rad((azimuth_deg - azimuth_deg[-1]).double() % 360)
    return torch.cat([noise, sinusoids(polar, ANGLE_WIDTH), sinusoids(azimuth, ANGLE_WIDTH)], dim=-1)


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """Return the input [1, 3, size, size] of the CLIP tower for an image [R, R, 3] in [0, 1].

    The image is blurred, resized bicubically with aligned corners and normalised, as in the official embedder.
    """
    shrink = image.shape[0] / size
    return latent_prior.clip_pixels(_gaussian_blur(image, (shrink - 1) / 2) if shrink > 1 else image, size)


def _gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur [H, W, 3] by a separable Gaussian, truncated at about two sigmas, with mirrored borders."""
    radius = int(max(4 * sigma, 3)) // 2
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.softmax(-(offset**2) / (2 * sigma**2), dim=0).expand(3, 1, 1, -1)
    padded = F.pad(image.permute(2, 0, 1)[None], [radius] * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    return blurred[0].permute(1, 2, 0)
