"""Score distillation: renders are moved towards what a diffusion prior makes of them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from liftstudio.cameras import Cameras
from liftstudio.checks import check_range
from liftstudio.config import Block
from liftstudio.errors import InputError
from liftstudio.guidance.base import Guidance
from liftstudio.images import resize_smooth
from liftstudio.priors.base import ImagePrompt
from liftstudio.priors.classifier_free import check_guidance_scale
from liftstudio.priors.distillation import draw_sigma, encode_in_chunks, sds_loss
from liftstudio.priors.opening import open_prior
from liftstudio.renderers.base import Render
from liftstudio.schedules import ON, Schedule
from liftstudio.views.base import ReferenceViews


class ScoreDistillation(Guidance):
    """The base of all guidance by a diffusion prior. A method says which views it asks about (`draw_views`).

    It may also say how strongly each frame follows the prompt (`guidance_scales`) and which latents count
    (`latent_mask`). One noise level is drawn for all views of a step. See `priors.distillation` for the mathematics.
    """

    @dataclass(kw_only=True)
    class Config(Guidance.Config):
        prior: Annotated[Block, "prior"]  # the diffusion model; asset://priors/toys is the bundled one
        guidance_scale: float = 0.0  # classifier-free guidance; 1: none; 0: what suits the prior
        sigma_log_mean: float = 0.7  # mean of the natural logarithm of the noise level
        sigma_log_std: float = 1.6  # its standard deviation
        sigma_range: tuple[float, float] = (0.05, 20.0)  # noise levels beyond are not drawn
        resolution: int = 0  # pixels across the renders; 0: the prior's, else they are resized to that
        encoder_chunk: int = 3  # frames whose encoding holds its graph at once; lower it to save memory
        lambda_sds: Schedule = ON  # score distillation, a mean over the numbers of the latents

        def __post_init__(self) -> None:
            low, high = self.sigma_range
            if not 0 < low < high:
                raise InputError(f"sigma_range: wanted two rising levels above 0, got {low:g}, {high:g}")
            check_guidance_scale(self.guidance_scale)
            check_range("sigma_log_std", self.sigma_log_std, 1e-6)
            check_range("resolution", self.resolution, 0)
            check_range("encoder_chunk", self.encoder_chunk, 1)

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        self.config, self.device = config, device
        self.prior = open_prior(config.prior, device)
        low, high = self.prior.sigma_min, self.prior.sigma_max
        if not low <= config.sigma_range[0] < config.sigma_range[1] <= high:
            raise InputError(f"sigma_range: the prior '{self.prior.name}' was trained for {low:g} to {high:g}")
        self.prompt = image_prompt(views, self.prior.resolution, device)
        self.prior.check_cameras(self.prompt.camera, self.draw_views(torch.Generator(device)))
        self.condition = self.prior.condition(self.prompt)

    @abstractmethod
    def draw_views(self, generator: torch.Generator) -> Cameras:
        """T random cameras that the prior is asked about together, of its own resolution, on the guidance's device."""

    def guidance_scales(self, frames: int) -> Tensor:
        """[T] classifier-free guidance of each frame."""
        return torch.full((frames,), self.config.guidance_scale or self.prior.guidance_scale, device=self.device)

    def latent_mask(self, render: Render) -> Tensor | float:
        """Weights in [0, 1] of the latents [T, C, h, w], of a shape that broadcasts; of the render of `cameras`."""
        return 1.0

    def cameras(self, step: int, generator: torch.Generator) -> Cameras:
        """The drawn views. A method may ask for more behind them; only `latent_mask` sees those."""
        config, resolution = self.config, self.config.resolution or self.prior.resolution
        self._views = self.draw_views(generator)
        self._sigma = draw_sigma(generator, config.sigma_log_mean, config.sigma_log_std, config.sigma_range)
        shape = (len(self._views), *self.prior.latent_shape)
        self._noise = torch.randn(shape, generator=generator, device=self.device)
        return self._views.resized(resolution, resolution)

    def losses(self, render: Render, step: int) -> dict[str, Tensor]:
        """`sds`: renders over white are encoded, noised, denoised; see `priors.distillation.sds_loss`."""
        if self.weight("sds", step) == 0:
            return {}
        latents = self._encode(render)
        noisy = latents.detach() + self._sigma * self._noise
        scales = self.guidance_scales(len(latents))
        mask = self.latent_mask(render)
        wanted = torch.as_tensor(mask, device=self.device).gt(0).expand(latents.shape).any(1)
        denoised = self.prior.denoise(noisy, self._sigma, self.condition, self._views, scales, wanted)
        return {"sds": sds_loss(latents, denoised, self._sigma, mask)}

    def _encode(self, render: Render) -> Tensor:
        frames, size = len(self._views), self.prior.resolution
        images = resize_smooth(render.over(1.0)[:frames], size, size)
        masks = resize_smooth(render.opacity[:frames], size, size)
        return encode_in_chunks(self.prior.encode, images, masks, self.config.encoder_chunk)


def image_prompt(views: ReferenceViews | None, resolution: int, device: torch.device) -> ImagePrompt:
    """The picture among the reference views from which the others were made, at `resolution` pixels.

    Raises:
        InputError: there are no views, none of them is such a picture, or it is not square.
    """
    if views is None or views.prompt is None:
        raise InputError("score distillation needs an input picture; add a 'views:' block that makes views from one")
    view = views.select([views.prompt])
    height, width = view.cameras.height, view.cameras.width
    if height != width:
        raise InputError(f"the input picture is {width}x{height} pixels; score distillation needs a square one")
    image, mask = (resize_smooth(i, resolution, resolution)[0].to(device) for i in (view.over(1.0), view.masks))
    return ImagePrompt(image, mask, view.cameras.resized(resolution, resolution).to(device))
