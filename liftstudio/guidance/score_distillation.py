"""Score distillation: renders are moved towards a diffusion prior's denoised estimate of them."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.memory import Chunks
from liftstudio.core.ranges import NonNegativeInt, Range
from liftstudio.core.schedules import ON, Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_smooth
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.base import Guidance, Request
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.chunks import frames_at_once
from liftstudio.priors.classifier_free import GuidanceScale
from liftstudio.priors.distillation import draw_sigma, encode_in_chunks, sds_loss
from liftstudio.priors.opening import open_prior

Sigma = Annotated[float, Range(above=0)]


@dataclass(frozen=True, kw_only=True)
class DistillationRequest(Request):
    """Renders that a prior is to denoise.

    views:      T cameras at the prior's resolution. `cameras` starts with the same at the renders' resolution; more may
                follow, which only `latent_mask` uses.
    sigma:      the noise level.
    noise:      [T, C, h, w] standard normal.
    background: [3] sRGB background colour that was drawn for the views; None: none was.
    """

    views: Cameras
    sigma: float
    noise: Tensor
    background: Tensor | None = None


class PriorGuidance(Guidance[DistillationRequest]):
    """The base class of all guidance by a diffusion prior.

    A subclass draws the views of a step (`draw_views`) and their common noise level (`draw_sigma`). It may override the
    guidance scale of each view (`guidance_scales`), the weights of the latents (`latent_mask`) and the render passes
    that these need (`passes`), the resolution of the renders (`render_size`), the background behind them (`shown`) and
    the condition that describes it to the prior (`condition_for`), the target of the latents (`estimate`) and the loss
    (`distance`). See `priors.distillation` for the mathematics.
    """

    @dataclass(kw_only=True)
    class Config(Guidance.Config):
        prior: Annotated[ComponentSpec, "prior"]  # the diffusion model; asset://priors/toys is the bundled one
        guidance_scale: GuidanceScale = 0.0  # classifier-free guidance; 1: none; 0: the prior's default
        encoder_chunk: NonNegativeInt = 0  # views encoded with gradients at a time; 0: 4 at 256 pixels, 1 from 512
        lambda_sds: Schedule = ON  # score distillation, a mean over the elements of the latents

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        self.config, self.device = config, device
        self.prior = self.open_prior()
        self.chunks = Chunks(frames_at_once(self.prior.resolution, config.encoder_chunk), "encoder_chunk")
        self.check_prior()
        # A PosedImage; None for a prior that takes no image.
        self.posed: Any = posed_image(views, self.prior.resolution, device) if self.prior.takes_image else None
        typical = self.typical_views()
        self.prior.check_cameras(typical if self.posed is None else self.posed.camera, typical)
        self.condition = self.prior.condition(self.posed)

    def open_prior(self) -> Prior:
        """Return the diffusion model that the options select."""
        return open_prior(self.config.prior, self.device)

    def check_prior(self) -> None:
        """Check that this guidance can work with the prior.

        Raises:
            InputError: it cannot.
        """

    @abstractmethod
    def draw_views(self, step: int, generator: torch.Generator) -> Cameras:
        """Draw T cameras that the prior denoises together, at its resolution, on the guidance's device."""

    @abstractmethod
    def draw_sigma(self, step: int, generator: torch.Generator) -> float:
        """Draw the noise level of a step."""

    def typical_views(self) -> Cameras:
        """Return cameras such as those of `draw_views`, which the prior checks before the long work."""
        return self.draw_views(0, torch.Generator(self.device))

    def render_size(self, step: int) -> int:
        """Return the resolution of the renders at a step; they are resized to that of the prior."""
        return self.prior.resolution

    def passes(self) -> frozenset[str]:
        """Return the optional render passes that are needed."""
        return frozenset()

    def guidance_scales(self, views: Cameras) -> Tensor:
        """Return the classifier-free guidance scale of each of T views, [T]."""
        return torch.full((len(views),), self.config.guidance_scale or self.prior.guidance_scale, device=self.device)

    def latent_mask(self, render: Render) -> Tensor | float:
        """Return the weights in [0, 1] of the latents, in a shape that broadcasts to [T, C, h, w]."""
        return 1.0

    def shown(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the images of the views as they are encoded for the prior, [T, H, W, 3]: composited over white."""
        return render.over(1.0)[: len(request.views)]

    def condition_for(self, request: DistillationRequest, render: Render) -> Any:
        """Return the prior's condition for a render."""
        return self.condition

    def estimate(self, request: DistillationRequest, noisy: Tensor, condition: Any, wanted: Tensor) -> Tensor:
        """Estimate the clean latents [T, C, h, w] by the prior; only used where `wanted` [T, h, w] is true."""
        scales = self.guidance_scales(request.views)
        return self.prior.denoise(NoisyViews(noisy, request.sigma, condition, request.views, scales, wanted))

    def distance(self, request: DistillationRequest, latents: Tensor, target: Tensor, mask: Tensor | float) -> Tensor:
        """Return the loss between the latents and their target."""
        return sds_loss(latents, target, request.sigma, mask)

    def request(self, step: int, generator: torch.Generator) -> DistillationRequest:
        """Draw the views, the noise level and the noise."""
        views = self.draw_views(step, generator)
        sigma, size = self.draw_sigma(step, generator), self.render_size(step)
        noise = torch.randn((len(views), *self.prior.latent_shape), generator=generator, device=self.device)
        cameras = views.resized(size, size)
        return DistillationRequest(
            step=step, cameras=cameras, passes=self.passes(), views=views, sigma=sigma, noise=noise
        )

    def losses(self, request: DistillationRequest, render: Render) -> dict[str, Tensor]:
        """Return the loss `sds` of the renders, which are encoded, noised and denoised; see `priors.distillation`."""
        if self.weight("sds", request.step) == 0:
            return {}
        latents = self._encode(request, render)
        noisy = latents.detach() + request.sigma * request.noise
        mask = self.latent_mask(render)
        wanted = torch.as_tensor(mask, device=self.device).gt(0).expand(latents.shape).any(1)
        target = self.estimate(request, noisy, self.condition_for(request, render), wanted)
        return {"sds": self.distance(request, latents, target, mask)}

    def _encode(self, request: DistillationRequest, render: Render) -> Tensor:
        frames, size = len(request.views), self.prior.resolution
        images = resize_smooth(self.shown(request, render), size, size)
        masks = resize_smooth(render.opacity[:frames], size, size)
        return encode_in_chunks(self.prior.encode, images, masks, self.chunks)


class ScoreDistillation(PriorGuidance):
    """Score distillation at log-normally distributed noise levels; a subclass draws the views."""

    @dataclass(kw_only=True)
    class Config(PriorGuidance.Config):
        sigma_log_mean: float = 0.7  # mean of the natural logarithm of the noise level
        sigma_log_std: Annotated[float, Range(1e-6)] = 1.6  # its standard deviation
        sigma_range: tuple[Sigma, Sigma] = (0.05, 20.0)  # least and largest noise level that is drawn
        resolution: NonNegativeInt = 0  # width of the renders, which are resized to that of the prior; 0: the prior's

        def __post_init__(self) -> None:
            low, high = self.sigma_range
            if not low < high:
                raise InputError(f"sigma_range: expected two ascending levels, got {low:g}, {high:g}")

    config: Config

    def check_prior(self) -> None:
        """Check that the prior was trained for all noise levels that are drawn."""
        low, high = self.prior.sigma_min, self.prior.sigma_max
        if not low <= self.config.sigma_range[0] < self.config.sigma_range[1] <= high:
            raise InputError(f"sigma_range: the prior '{self.prior.name}' was trained for {low:g} to {high:g}")

    def draw_sigma(self, step: int, generator: torch.Generator) -> float:
        """Draw a noise level, independently of the step."""
        return draw_sigma(generator, self.config.sigma_log_mean, self.config.sigma_log_std, self.config.sigma_range)

    def render_size(self, step: int) -> int:
        """Return the option `resolution`, or that of the prior."""
        return self.config.resolution or self.prior.resolution


def posed_image(views: ReferenceViews | None, resolution: int, device: torch.device) -> PosedImage:
    """Return the first input view, from which other reference views were generated, with the others, at `resolution`.

    Raises:
        InputError: there are no views, none of them is an input view, or they are not square.
    """
    if views is None or views.input_view is None:
        raise InputError(
            "score distillation needs an input picture; add a 'views:' block that generates views from one"
        )
    given = views.select(views.input_views)
    height, width = given.cameras.height, given.cameras.width
    if height != width:
        raise InputError(f"the input picture is {width}x{height} pixels; score distillation needs a square one")
    images, masks = (resize_smooth(i, resolution, resolution).to(device) for i in (given.over(1.0), given.masks))
    cameras = given.cameras.resized(resolution, resolution).to(device)
    first, *others = (PosedImage(images[n], masks[n], cameras[n : n + 1]) for n in range(len(given)))
    return replace(first, others=tuple(others))
