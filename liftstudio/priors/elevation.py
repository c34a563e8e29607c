"""Estimate of the elevation of a picture's camera, by a small network that knows objects of all kinds.

It is independent of the prior that makes the views. Pixels are in [-1, 1], channels first, with four channels: rgb over
white and alpha.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liftstudio.core.weights import load_module, open_weights, unloaded
from liftstudio.priors.layers import Block, Conv

WEIGHTS = "asset://priors/elevation"
NOTE = "elevation"  # name in the metadata of its weight files
SIDE = 64  # pixels across the network's images
BOX_SHARE = 0.875  # of the image's side that the longer side of the object's box takes
SEEN = -0.8  # alpha above this belongs to the object
TRAINED_DEG = (-20.0, 60.0)  # range of the elevations it was trained on
USUAL_DEG = (17.5, 20.0)  # mean and standard deviation of the elevations that pictures are taken from, by assumption
STEP_DEG = 4.0  # between the elevations to which it assigns probabilities
WIDTHS = (40, 64, 88)  # channels at 1/4, 1/8 and 1/16 resolution
SQUEEZED = 16  # channels of the positions that the last layer sees


class Elevation(NamedTuple):
    """Estimated elevations and the errors to expect, [B] each, degrees above the object's horizon.

    elevation_deg: the median of the distribution that the network predicts. error_deg: its mean distance from that.
    """

    elevation_deg: Tensor
    error_deg: Tensor


class ElevationNetwork(nn.Module):
    """A residual network on images of one framed object; returns logits of the elevations `candidates_deg`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv(4, WIDTHS[0], 2, kernel=6, stride=4)
        self.shrink = nn.ModuleList(Conv(a, b, 2, kernel=2, stride=2) for a, b in pairwise(WIDTHS))
        self.blocks = nn.ModuleList(Block(width, width, 2) for width in WIDTHS)
        self.norm = nn.GroupNorm(8, WIDTHS[-1])
        self.squeeze = Conv(WIDTHS[-1], SQUEEZED, 2, kernel=1)
        self.last = nn.Linear(SQUEEZED * (SIDE >> 4) ** 2, len(candidates_deg()))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, N] of the elevations of images [B, 4, SIDE, SIDE], framed by `framed`."""
        x = self.blocks[0](self.first(images))
        for shrink, block in zip(self.shrink, list(self.blocks)[1:], strict=True):
            x = block(shrink(x))
        x = self.squeeze(F.silu(self.norm(x)))
        return self.last(F.silu(x).flatten(1))


def candidates_deg() -> Tensor:
    """Return the elevations [N] to which the network assigns probabilities."""
    low, high = TRAINED_DEG
    return torch.arange(low - STEP_DEG, high + 1.5 * STEP_DEG, STEP_DEG)


def framed(images: Tensor, motion: Tensor | None = None) -> Tensor:
    """Return images [B, 4, R, R] of which the object's box is centred and scaled: [B, 4, SIDE, SIDE].

    motion: [B, 2, 3] affine maps of the framed image's [-1, 1]^2, applied in addition; none: the identity.
    """
    count, side = len(images), images.shape[-1]
    seen = images[:, 3] > SEEN
    low, high = (torch.stack(ends, dim=1) for ends in zip(*(_ends(seen.any(axis)) for axis in (1, 2)), strict=True))
    middle, half = (low + high) / side - 1, (high - low).amax(1) / side / BOX_SHARE
    if motion is None:
        motion = torch.eye(2, 3).expand(count, 2, 3)
    theta = half[:, None, None] * motion + torch.cat([torch.zeros(count, 2, 2), middle[:, :, None]], dim=2)
    background = torch.tensor([1.0, 1.0, 1.0, -1.0])[:, None, None]
    axis = (2 * torch.arange(SIDE) + 1) / SIDE - 1
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    grid = places @ theta[:, None, :, :2].mT + theta[:, None, None, :, 2]
    return F.grid_sample(images - background, grid, align_corners=False) + background


def _ends(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and one past the last True of each row [B, R], as floats."""
    size, where = seen.shape[1], seen.float()
    return where.argmax(1).float(), size - where.flip(1).argmax(1).float()


def read(logits: Tensor) -> Elevation:
    """Return what logits [B, N] say."""
    shares, candidates = logits.softmax(1), candidates_deg().to(logits)
    until = shares.cumsum(1)
    index = (until < 0.5).sum(1, keepdim=True).clamp_max(shares.shape[1] - 1)
    over = (until.gather(1, index) - 0.5) / shares.gather(1, index)  # share of the candidate that is above the median
    median = candidates[index[:, 0]] + STEP_DEG * (0.5 - over[:, 0])
    return Elevation(median, (shares * (candidates - median[:, None]).abs()).sum(1))


class ElevationEstimator:
    """The bundled network."""

    def __init__(self) -> None:
        """Load the weights.

        Raises:
            InputError: they are missing or damaged.
        """
        with unloaded():
            self.network = ElevationNetwork()
        load_module(self.network, open_weights(WEIGHTS), {}, torch.float32, torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Elevation:
        """Return the common elevation of images [K, SIDE, SIDE, 4], framed as by `framed`: rgb over white, alpha."""
        logits = mirrored_logits(self.network, (2 * images - 1).permute(0, 3, 1, 2))
        return weighted(logits.sum(0, keepdim=True))


@torch.no_grad()
def estimate(network: nn.Module, images: Tensor) -> Elevation:
    """Return the estimates for framed images [B, 4, SIDE, SIDE]."""
    return weighted(mirrored_logits(network, images))


def mirrored_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the log probabilities [B, N] from each image [B, 4, SIDE, SIDE] and its mirror image."""
    return torch.stack([network(images), network(images.flip(-1))]).log_softmax(-1).mean(0)


def weighted(logits: Tensor) -> Elevation:
    """Return what logits [B, N] say of photographs; the network was trained on equally frequent elevations."""
    middle, spread = USUAL_DEG
    return read(logits - 0.5 * ((candidates_deg().to(logits) - middle) / spread).square())
