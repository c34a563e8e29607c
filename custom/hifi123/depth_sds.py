"""Plain score distillation by the depth-conditioned model: the baseline for reference-guided distillation."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.scheduled_distillation import OrbitDistillation
from liftstudio.guidance.score_distillation import DistillationRequest
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.parameterization import x0_from_epsilon
from liftstudio.priors.samplers import nearest_timestep, scaled_linear_levels

from .depth import NotInSightError, RenderedDepth
from .model import Prompts, guided_epsilon
from .prior import GREY, DepthPrior, UnetWork, bundled, check_options


class DepthScore(Prior):
    """The depth-conditioned model as a `Prior` of single views, whose depth is their condition."""

    frames, knows_backgrounds = 0, True

    def __init__(self, model: DepthPrior, prompt: str) -> None:
        """Embed the prompt; an empty one turns guidance off."""
        self.model, self.device = model, model.device
        self.name, self.resolution = model.config.weights, model.resolution
        self.latent_shape = (4, model.side, model.side)
        self.levels = scaled_linear_levels()
        self.sigma_min, self.sigma_max = self.levels[0].item(), self.levels[-1].item()
        self.prompts: Prompts = model.prompts(prompt)
        self.guidance_scale = 7.5 if prompt else 1.0

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        """Return False: it is built from a `DepthPrior`, not from a file."""
        return False

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        """Accept any cameras: the network is not given them."""

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """See `Prior.encode`; images are over grey."""
        return self.model.encode(images, "render")

    def decode(self, latents: Tensor) -> tuple[Tensor, None]:
        """See `Prior.decode`; images are over grey."""
        return self.model.decode(latents), None

    def condition(self, posed: PosedImage) -> None:
        """Return None: the network is not given the input image."""

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Tensor]) -> Tensor:
        """See `Prior.denoise`; the condition is the depth channel [T, 1, h, w], and all views have the same scale."""
        latents, sigma = noisy.latents, noisy.sigma
        scale = 1.0 if noisy.guidance_scale is None else noisy.guidance_scale[0].item()
        scaled, timestep = latents / (1 + sigma**2) ** 0.5, nearest_timestep(self.levels, sigma)
        epsilon = guided_epsilon(self.model.unet, scaled, timestep, noisy.condition, self.prompts, scale)
        return x0_from_epsilon(latents, epsilon, sigma)


@register("depth-sds")
class DepthSDS(OrbitDistillation):
    """DreamFusion's score distillation of random views, conditioned on a text and their depth, without the input image.

    After Poole et al. 2022, "DreamFusion", eq. 3, with the model of `hifi123-rgsd`, as the baseline of that. As there,
    renders are composited over grey, and only latents on the object count.
    """

    @dataclass(kw_only=True)
    class Config(OrbitDistillation.Config):
        prior: Annotated[ComponentSpec, "depth-prior"] = field(default_factory=bundled)  # the depth-conditioned model
        prompt: str = ""  # short description of the object, used verbatim; empty: no guidance, whatever its scale

        def __post_init__(self) -> None:
            super().__post_init__()
            check_options(self.prior, self.prompt)

    config: Config
    prior: DepthScore

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        super().__init__(config, views=views, device=device)
        self._depths = RenderedDepth("SDS", self.prior.model.side)
        self._work = UnetWork(self.prior.model)

    def open_prior(self) -> DepthScore:
        """See `PriorGuidance.open_prior`."""
        model: DepthPrior = self.config.prior.build(device=self.device)
        model.check(self.config.prompt, 1, model.resolution)
        model.announce("SDS")
        return DepthScore(model, self.config.prompt)

    def passes(self) -> frozenset[str]:
        """Return the depth pass."""
        return frozenset({"depth"})

    def shown(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the views over grey."""
        return render.over(GREY)

    def guidance_scales(self, views: Cameras) -> Tensor:
        """Return the option's scales, or 1 without a prompt, as both branches would be equal."""
        return super().guidance_scales(views) if self.config.prompt else torch.ones(len(views), device=self.device)

    def condition_for(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the depth channel of the render; for a flat view, its outline."""
        return self._depths(render)

    def losses(self, request: DistillationRequest, render: Render) -> dict[str, Tensor]:
        """Return `sds`, see `PriorGuidance.losses`; 0 unless all cameras see the object."""
        try:
            with self._work.turn():
                return super().losses(request, render)
        except NotInSightError:
            return {"sds": self._depths.skipped(render)}

    def latent_mask(self, render: Render) -> Tensor:
        """Return the render's outline at the resolution of the latents."""
        return F.interpolate(render.opacity.detach().permute(0, 3, 1, 2), self.prior.latent_shape[1:], mode="area")

    def metrics(self) -> dict[str, float]:
        """Return the number of images through the UNet per step so far."""
        return self._work.metrics()

    def state(self) -> dict[str, Any]:
        """Return the counts behind `figures`."""
        return {"counts": [self._work.turns, self._work.evaluations]}

    def load_state(self, state: dict[str, Any]) -> None:
        """See `Guidance.load_state`."""
        self._work.turns, self._work.evaluations = state["counts"]
