"""SyncDreamer as a `Prior`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights, open_weights
from liftstudio.data.cameras import Cameras, turned
from liftstudio.priors.base import Estimates, NoisyViews, PosedImage, Prior
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.latent_diffusion import weight_shape
from liftstudio.priors.latent_prior import LATENT_SCALE, LatentPrior, clip_pixels
from liftstudio.priors.parameterization import x0_from_epsilon
from liftstudio.priors.precision import network_dtype
from liftstudio.priors.samplers import ddim_sigmas, nearest_timestep

from .denoising import (
    EVERYTHING,
    NOTHING,
    VIEWS_ONLY,
    Branch,
    Condition,
    estimate_epsilon,
    reference_only,
)
from .layout import is_syncdreamer
from .rig import Rig

SAME = 2e-3  # entries of poses and intrinsics (in image widths) closer than this count as equal: 0.1 degrees


@register("syncdreamer")
class SyncDreamer(LatentPrior):
    """SyncDreamer: 16 views of one elevation, 22.5 degrees apart, denoised together, from the official file.

    After Liu et al. 2023, "SyncDreamer". The network supports only its own cameras, which are stored in its file.
    """

    published = (
        "the official file syncdreamer-pretrain.ckpt is published by the authors of SyncDreamer; their page "
        "github.com/liuyuan-pal/SyncDreamer has the link and the licence"
    )

    @dataclass
    class Config(Prior.Config):
        reference_gain: NonNegativeFloat = 4.0  # on the image's latents in the estimate from it alone; HarmonyView: 1

    config: Config
    guidance_scale = 2.0

    def __init__(self, config: Config, *, device: torch.device) -> None:
        weights = open_weights(config.weights, self.published)
        self.name = _name(weights)
        from .checkpoint import noise_levels, open_parts  # diffusers takes seconds to import

        parts = open_parts(weights)
        self.rig = Rig.read(weights, device)
        super().__init__(config, parts.vae, self.rig.image_size, device=device)
        self.frames = len(self.rig)
        self.levels = noise_levels(weights)
        self.sigma_min, self.sigma_max = self.levels[0].item(), self.levels[-1].item()
        self.network = parts.network.load(network_dtype(config.precision, device, parts.network.module), device)
        self._clip = parts.clip

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return is_syncdreamer(weights)

    @classmethod
    def check_count(cls, weights: Weights, count: int) -> None:
        if is_syncdreamer(weights):
            _check_count(_name(weights), weight_shape(weights, "poses", 3)[0], count)

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        _check_count(self.name, self.frames, len(cameras))
        turn_deg = torch.rad2deg(self.rig.azimuth[0]).cpu() - input_camera.azimuth_deg[0].cpu()
        asked = Rig.of(turned(cameras.to("cpu"), float(turn_deg)))
        size = torch.tensor([cameras.width, cameras.height, 1.0])[:, None]
        poses = (asked.poses - self.rig.poses.cpu()).abs().amax((1, 2))
        lenses = (asked.intrinsics / size - self.rig.intrinsics.cpu() / self.resolution).abs()[:, :2].amax((1, 2))
        wrong = (torch.maximum(poses, lenses) > SAME).nonzero().flatten().tolist()
        if wrong:
            view = cameras[wrong[:1]]
            raise InputError(
                f"{self.name} supports its own {self.frames} cameras only; view {wrong[0]} differs, at azimuth "
                f"{view.azimuth_deg.item():.4g} and elevation {view.elevation_deg.item():.4g} degrees with a field of "
                f"view of {view.fov_deg.item():.4g} degrees"
            )

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of DDIM, as in the official sampler; see `samplers.ddim_sigmas`."""
        return ddim_sigmas(self.levels, steps)

    @torch.no_grad()
    def condition(self, posed: PosedImage) -> Condition:
        """Return embedding, latents and elevation of the input image.

        The CLIP tower is in memory only here. Latents are drawn from their distribution, as in the official code, with
        a fixed seed.
        """
        image = posed.image.to(self.device)
        check_shape("posed.image", image, (self.resolution, self.resolution, 3))
        tower = self._clip.load(self.network.dtype, self.device)
        pixels = clip_pixels(image, tower.config.image_size).to(tower.dtype)
        embedding = tower(pixel_values=pixels).image_embeds.float()
        posterior = self.posterior(2 * image[None] - 1)
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        latent = LATENT_SCALE * (posterior.mean + posterior.std * noise)[0]
        return Condition(embedding, latent, posed.camera.elevation_deg.item())

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Condition]) -> Tensor:
        """See `Prior.denoise`; always uses the prior's own cameras, the only ones that pass `check_cameras`."""
        scale = noisy.guidance_scale
        if scale is None or bool((scale == 1).all()):
            return self._estimates(noisy, [EVERYTHING])[0]
        conditional, unconditional = self._estimates(noisy, [EVERYTHING, NOTHING])
        return guided(conditional, unconditional, scale)

    @torch.no_grad()
    def denoise_separately(self, noisy: NoisyViews[Condition]) -> Estimates:
        branches = [EVERYTHING, VIEWS_ONLY, reference_only(self.config.reference_gain)]
        return Estimates(*self._estimates(noisy, branches))

    def _estimates(self, noisy: NoisyViews[Condition], branches: Sequence[Branch]) -> Tensor:
        """Return estimates of x0 [branches, T, 4, h, w]; the network gets the nearest timestep of its schedule."""
        sigma, timestep = noisy.sigma, nearest_timestep(self.levels, noisy.sigma)
        scaled = noisy.latents / (1 + sigma**2) ** 0.5
        epsilon = estimate_epsilon(self.network, self.rig, scaled, timestep, noisy.condition, branches, self.chunk)
        return x0_from_epsilon(noisy.latents, epsilon, sigma)


def _name(weights: Weights) -> str:
    return f"SyncDreamer ({weights.path.name})"


def _check_count(name: str, known: int, count: int) -> None:
    if count != known:
        wanted = f"expected those of type syncdreamer-views with count: {known}"
        raise InputError(f"{name} makes its {known} views together, not {count}; {wanted}")
