"""SV3D as a `Prior`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights, open_weights
from liftstudio.data.cameras import Cameras
from liftstudio.priors.base import SAME_DEG, NoisyViews, PosedImage, Prior
from liftstudio.priors.latent_prior import LatentPrior
from liftstudio.priors.precision import half_on_cuda

from .conditioning import COND_AUG, clip_pixels, frame_vectors
from .denoising import Condition, estimate_x0, guided_x0
from .layout import VARIANTS, is_sv3d, number, vector_width


@register("sv3d")
class SV3D(LatentPrior):
    """Stability AI's SV3D (sv3d_p or sv3d_u, by the file): 21 views of a closed orbit, from the official file."""

    published = (
        "the official files sv3d_p.safetensors and sv3d_u.safetensors are published at huggingface.co/stabilityai/sv3d "
        "under Stability AI's research community licence (commercial use needs a licence from them)"
    )

    @dataclass
    class Config(Prior.Config):
        guide_in_one_batch: bool = False  # both guidance branches in one batch: faster on large GPUs, twice the memory

    config: Config
    own_chunk = 2  # about 2 GB at 576 pixels
    encoder_chunk = 1  # about 4 GB
    sigma_min, sigma_max = 0.002, 700.0
    guidance_scale = 2.5  # opposite the input view

    def __init__(self, config: Config, *, device: torch.device) -> None:
        weights = open_weights(config.weights, self.published)
        self.vector_width = vector_width(weights)
        from .checkpoint import open_parts  # diffusers takes seconds to import

        unet, vae, self._clip = open_parts(weights)
        super().__init__(config, vae, number(weights, "image_size"), device=device)
        self.variant = VARIANTS[self.vector_width]
        self.any_elevation = self.variant == "sv3d_p"
        self.name = f"SV3D ({self.variant}, {weights.path.name})"
        self.frames = number(weights, "num_frames")
        self.unet = unet.load(half_on_cuda(config.precision, device), device)

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_sv3d(weights)

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        if self.frames != len(cameras):
            log.warning("%s was trained on %d views at a time, not %d", self.name, self.frames, len(cameras))
        off_deg = (cameras.azimuth_deg[-1] - input_camera.azimuth_deg[0] + 180) % 360 - 180
        rise_deg = cameras.elevation_deg[-1] - input_camera.elevation_deg[0]
        if max(off_deg.abs(), rise_deg.abs()) > SAME_DEG:
            raise InputError(
                "orbit: it must be closed, with the input view last; its last camera is off by "
                f"{off_deg:.4g} degrees in azimuth and {rise_deg:.4g} in elevation"
            )
        before_deg = (cameras.azimuth_deg - cameras.azimuth_deg[-1])[:-1] % 360
        if (before_deg.diff(prepend=before_deg.new_zeros(1)) <= 0).any():
            raise InputError("orbit: its azimuths must ascend from the input view, in a single turn")
        self._check_elevations(cameras.elevation_deg)

    def _check_elevations(self, elevation_deg: Tensor) -> None:
        low, high = elevation_deg.min(), elevation_deg.max()
        if self.variant == "sv3d_u" and high - low > SAME_DEG:
            raise InputError(
                f"orbit: {self.name} ignores cameras and keeps the input's elevation, but the orbit goes from "
                f"{low:.4g} to {high:.4g} degrees; use views.orbit.type=static, or the weights sv3d_p"
            )

    @torch.no_grad()
    def condition(self, posed: PosedImage) -> Condition:
        """Return embedding and latents of the input image.

        The CLIP tower is in memory only here. The noise on the image (standard deviation 1e-5) is always the same.
        """
        image = posed.image.to(self.device)
        check_shape("posed.image", image, (self.resolution, self.resolution, 3))
        tower = self._clip.load(torch.float32, self.device)
        embedding = tower(pixel_values=clip_pixels(image, tower.config.image_size)).image_embeds
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        noisy = 2 * image - 1 + COND_AUG * noise
        return Condition(embedding, self.posterior(noisy[None]).mode()[0])

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Condition]) -> Tensor:
        latents, sigma, condition, scale = noisy.latents, noisy.sigma, noisy.condition, noisy.guidance_scale
        elevation_deg, azimuth_deg = noisy.cameras.elevation_deg, noisy.cameras.azimuth_deg
        vectors = frame_vectors(elevation_deg, azimuth_deg, self.vector_width).to(self.device)
        if scale is None:
            return estimate_x0(self.unet, latents, sigma, [condition], vectors)[0]
        in_one_batch = self.config.guide_in_one_batch
        return guided_x0(self.unet, latents, sigma, condition, vectors, scale, in_one_batch=in_one_batch)
