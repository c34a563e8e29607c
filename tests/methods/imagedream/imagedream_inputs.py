"""Inputs of the miniatures of ImageDream and MVDream, and how they are opened."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.registry import find
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.priors.base import PosedImage
from liftstudio.priors.opening import open_prior

SIZE, FRAMES = 32, 4
CPU = torch.device("cpu")
CAPTION = "a cat"


def open_imagedream(path: Path, text: Path, kind: str = "imagedream", **options: Any) -> Any:
    options = {"prompt": CAPTION, "text_encoder": str(text), **options}
    return open_prior(ComponentSpec("prior", kind, find(kind, "prior").Config(weights=str(path), **options)), CPU)


def input_of(generator: torch.Generator) -> PosedImage:
    mask = torch.zeros(SIZE, SIZE, 1)
    mask[8:24, 8:24] = 1
    image = torch.rand(SIZE, SIZE, 3, generator=generator) * mask + 1 - mask
    return PosedImage(image, mask, cameras(1))


def cameras(count: int = FRAMES, elevation_deg: float = 5.0, fov_deg: float = 48.0, turn_deg: float = 0.0) -> Cameras:
    azimuth_deg = turn_deg + 90.0 * torch.arange(count)
    return orbit_cameras(azimuth_deg, torch.full((count,), elevation_deg), 2.0, fov_deg, SIZE, SIZE)


def latents_of(prior: Any, generator: torch.Generator, count: int = FRAMES) -> Tensor:
    return torch.randn(count, *prior.latent_shape, generator=generator)
