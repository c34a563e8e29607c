"""A prior with a known distribution: images of a ball coloured by its normals, plus a little noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights, open_weights
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.priors.base import NoisyViews, PosedImage, Prior

SPREAD = 0.02  # standard deviation about the ball's images, latent units (pixels have a range of 2)
RADIUS = 0.7  # world units
DISTANCE, FOV_DEG = 3.6, 33.8

# Options that let a rough run of sv3d-masked-sds take seconds.
QUICK = (
    "prior.type=tiny-ball",
    "views.resolution=64",
    "views.orbit.frames=9",
    "views.steps=3",
    "system.stages.coarse.steps=30",
    "system.stages.coarse.guidance.views.views_per_step=1",
    "system.stages.coarse.geometry.grid.levels=6",
    "system.stages.coarse.renderer.grid_resolution=32",
    "system.stages.coarse.renderer.samples_across=32",
    "system.stages.fine.steps=6",
    "system.stages.fine.geometry.resolution=24",
    "system.stages.fine.guidance.unseen.frames=3",
    "system.stages.fine.guidance.unseen.start=5",
    "test.frames=1",
    "test.size=16",
    "test.stills=0",
    "log.tensorboard=false",
    "export.texture_size=128",
    "export.target_faces=2000",
)

# A run from the ball's image with the tiny system.
PROJECT = """\
image: ???
prior: {type: tiny-ball, weights: ball.safetensors}
views:
  type: sv3d-views
  image: ${image}
  elevation_deg: 10
  prior: ${prior}
  orbit: {type: sine, frames: 6, amplitude_deg: 30}
  steps: 3
  resolution: 48
system:
  type: tiny-sphere
test: {frames: 2, size: 16, stills: 1}
log: {images_every: 0, tensorboard: false}
export: {formats: [ply], texture_size: 64}
"""


def ball(cameras: Cameras, radius: float = RADIUS) -> tuple[Tensor, Tensor]:
    """Return images [B, H, W, 3] over white and masks [B, H, W, 1] of the ball: colour 0.5 + 0.4 n, n the normal."""
    origins, directions = cameras.rays()
    middle = -(origins * directions).sum(-1, keepdim=True)
    half_squared = radius**2 - origins.square().sum(-1, keepdim=True) + middle.square()
    mask = (half_squared > 0).float()
    normal = F.normalize(origins + (middle - half_squared.clamp_min(0).sqrt()) * directions, dim=-1)
    return (0.5 + 0.4 * normal) * mask + 1 - mask, mask


def write_ball(path: Path, elevation_deg: float = 10.0, size: int = 160, mode: str = "RGBA") -> Path:
    """Write the ball from azimuth 0, as RGBA or over white, off the centre of an image that is not square."""
    camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation_deg]), DISTANCE, FOV_DEG, size, size)
    image, mask = ball(camera)
    rgba = F.pad(torch.cat([image, mask], dim=-1)[0].permute(2, 0, 1), (7, 30), value=0.0).permute(1, 2, 0)
    rgba[..., :3] += 1 - rgba[..., 3:] if mode == "RGB" else 0
    Image.fromarray((rgba.clamp(0, 1) * 255).round().byte().numpy()).convert(mode).save(path)
    return path


def write_weights(path: Path, radius: float = RADIUS) -> Path:
    """Write a weight file of TinyBall."""
    save_file({"ball.radius": torch.tensor([radius])}, path)
    return path


@register("tiny-ball")
class TinyBall(Prior):
    """Independent pixels about the image of a ball: denoiser and samples are known in closed form."""

    @dataclass
    class Config(Prior.Config):
        knows_masks: bool = True  # decode masks too
        empty_view: int = -1  # index of a view that shows nothing; -1: none
        knows_inside: bool = False  # say what is inside

    published: ClassVar[str] = "the tiny ball is at https://example.org/ball, for tests only"
    prompts: ClassVar[list[PosedImage]] = []  # all conditions so far

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return "ball.radius" in weights

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config, self.device, self.name = config, device, "tiny ball"
        self.radius = float(open_weights(config.weights, self.published)["ball.radius"])
        self.resolution, self.latent_shape = 32, (4, 32, 32)
        self.sigma_min, self.sigma_max, self.frames = 0.002, 80.0, 0

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        if not torch.allclose(cameras.c2w[-1], input_camera.c2w[0], atol=1e-4):
            raise InputError("orbit: the last view must be the picture's own")

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        return torch.cat([images, masks], dim=-1).permute(0, 3, 1, 2) * 2 - 1

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = (latents.permute(0, 2, 3, 1) + 1) / 2
        return pixels[..., :3].clamp(0, 1), pixels[..., 3:].clamp(0, 1) if self.config.knows_masks else None

    def condition(self, posed: PosedImage) -> Any:
        self.prompts.append(posed)
        return posed

    def inside(self, posed: PosedImage, points: Tensor) -> Tensor | None:
        return torch.tanh(10 * (self.radius - points.norm(dim=-1))) if self.config.knows_inside else None

    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        """Return E[x0 | z] of a normal distribution about the ball's images."""
        images, masks = ball(noisy.cameras, self.radius)
        if self.config.empty_view >= 0:
            images[self.config.empty_view], masks[self.config.empty_view] = 1, 0
        mean = self.encode(images, masks)
        return mean + (noisy.latents - mean) * SPREAD**2 / (SPREAD**2 + noisy.sigma**2)
