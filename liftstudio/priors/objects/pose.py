"""A small network that estimates the camera of an image: its elevation and focal length."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.priors.layers import Block, Conv

WIDTHS = (16, 32, 64, 80)  # channels at 1/2, 1/4, 1/8 and 1/16 resolution


class Pose(NamedTuple):
    """An estimate of a camera and the natural logarithms of the expected errors; each [B].

    elevation: radians above the object's horizon. zoom: ln of the focal length in half image sizes.
    """

    elevation: Tensor
    elevation_log_error: Tensor
    zoom: Tensor
    zoom_log_error: Tensor


class PoseNetwork(nn.Module):
    """A convolutional network on square images; it shares nothing with the denoiser, which is told the camera."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        inside = (channels, *WIDTHS[:-1])
        self.shrink = nn.ModuleList(Conv(a, b, 2, kernel=3, stride=2) for a, b in zip(inside, WIDTHS, strict=True))
        self.blocks = nn.ModuleList(Block(width, width, 2) for width in WIDTHS)
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.last = nn.Linear(WIDTHS[-1] * (side >> len(WIDTHS)) ** 2, 4)  # of all positions: perspective shows there

    def forward(self, images: Tensor) -> Pose:
        """Estimate the cameras of images [B, channels, side, side] in [-1, 1]."""
        x = images
        for shrink, block in zip(self.shrink, self.blocks, strict=True):
            x = block(shrink(x))
        elevation, elevation_error, lens, lens_error = self.last(F.silu(self.norm(x)).flatten(1)).unbind(1)
        return Pose(elevation, _bounded(elevation_error), lens, _bounded(lens_error))


def _bounded(log_error: Tensor) -> Tensor:
    """Squash log errors to [-3, 1] by tanh, so that gradients do not vanish."""
    return 2 * log_error.tanh() - 1
