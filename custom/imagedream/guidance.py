"""Multi-view score distillation: four views of an object at a time, conditioned on text or on image and text."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from liftstudio.core.checks import check_pair
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.ranges import Range, UnitFloat
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras, FovDeg, concatenate, orbit_cameras
from liftstudio.data.orbits import ElevationDeg
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.scheduled_distillation import NoiseShares, ScheduledDistillation
from liftstudio.guidance.score_distillation import DistillationRequest
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.classifier_free import GuidanceScale, guided
from liftstudio.priors.distillation import reconstruction_loss, sds_loss

from .conditioning import VIEWS, WORLD_SCALE
from .denoising import rescaled

Fours = Annotated[int, Range(multiple_of=VIEWS)]
HalfView = Annotated[float, Range(1e-3)]


class MultiViewSDS(ScheduledDistillation):
    """Score distillation on four views 90 degrees apart, of equal elevation, field of view and distance.

    After Shi et al. 2023, "MVDream", and Wang & Shi 2023, "ImageDream"; defaults are those of the released
    configurations. The object's front is on +x. Any prior works; the bundled one is given the input image's camera.
    """

    @dataclass(kw_only=True)
    class Config(ScheduledDistillation.Config):
        views_per_step: list[Fours] = field(default_factory=lambda: [VIEWS])  # renders per step; a list: see resolution
        elevation_range_deg: tuple[ElevationDeg, ElevationDeg] = (0.0, 5.0)  # of the cameras, lowest to highest
        fov_range_deg: tuple[FovDeg, FovDeg] = (45.0, 50.0)  # of the cameras, narrowest to widest
        # Half the side of a view at the object's centre, world units; determines the cameras' distance.
        half_view_range: tuple[HalfView, HalfView] = (0.6 * WORLD_SCALE, 0.75 * WORLD_SCALE)  # half a view, world units
        # Noise levels, as fractions of the 1000 timesteps of Stable Diffusion's schedule; drawn uniformly in between.
        min_step_percent: NoiseShares = field(
            default_factory=lambda: Schedule.parse([0, 0.98, 0.02, 8000])
        )  # lowest noise level, as a fraction of the timesteps
        max_step_percent: NoiseShares = field(
            default_factory=lambda: Schedule.parse([0, 0.98, 0.5, 8000])
        )  # highest noise level, as a fraction of the timesteps
        loss: Literal["reconstruction", "sds"] = "reconstruction"  # distance to the estimate, or DreamFusion's
        rescale: UnitFloat = 0.2  # share of the estimate rescaled to unguided contrast; for loss reconstruction
        random_background: UnitFloat = 0.5  # fraction of steps over one random colour instead of the scene's background

        def __post_init__(self) -> None:
            super().__post_init__()
            check_pair("elevation_range_deg", self.elevation_range_deg)
            check_pair("fov_range_deg", self.fov_range_deg)
            check_pair("half_view_range", self.half_view_range)

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        super().__init__(config, views=views, device=device)
        self._conditions: dict[int, Any] = {255: self.condition}  # 8-bit grey behind the input image -> condition
        log.info("guidance: prior %s", self.prior.name)

    def draw_views(self, step: int, generator: torch.Generator) -> Cameras:
        """Draw sets of four views, each with its own elevation, field of view, distance and first azimuth.

        Half of the elevations are uniform in angle, half uniform in area on the sphere.
        """
        count = self.view_count(step) // VIEWS
        draws = torch.rand(count, 5, dtype=torch.float64, generator=generator, device=generator.device).tolist()
        return concatenate([self._object_views(*draw) for draw in draws])

    def _object_views(self, turn: float, by_area: float, height: float, lens: float, size: float) -> Cameras:
        """Return four views from draws in [0, 1)."""
        config = self.config
        low, high = config.elevation_range_deg
        elevation_deg = _between(low, high, height)
        if by_area < 0.5:
            sine = _between(math.sin(math.radians(low)), math.sin(math.radians(high)), height)
            elevation_deg = math.degrees(math.asin(sine))
        return self._four(360 * turn, elevation_deg, _between(*config.fov_range_deg, lens), size)

    def _four(self, azimuth_deg: float, elevation_deg: float, fov_deg: float, size: float) -> Cameras:
        azimuths_deg = azimuth_deg + 360 / VIEWS * torch.arange(VIEWS, device=self.device)
        half_view = _between(*self.config.half_view_range, size)
        distance = half_view / math.tan(math.radians(fov_deg / 2))
        elevations_deg = torch.full_like(azimuths_deg, elevation_deg)
        resolution = self.prior.resolution
        return orbit_cameras(azimuths_deg, elevations_deg, distance, fov_deg, resolution, resolution)

    def typical_views(self) -> Cameras:
        """Return four views at either end of the ranges."""
        ends = zip(self.config.elevation_range_deg, self.config.fov_range_deg, strict=True)
        return concatenate([self._four(0.0, elevation_deg, fov_deg, 0.5) for elevation_deg, fov_deg in ends])

    def request(self, step: int, generator: torch.Generator) -> DistillationRequest:
        """Draw the views and, in some steps, a background colour to replace the scene's."""
        request = super().request(step, generator)
        share, *color = torch.rand(4, generator=generator, device=generator.device).tolist()
        if share >= self.config.random_background:
            return request
        return replace(request, background=torch.tensor(color, device=self.device))

    def passes(self) -> frozenset[str]:
        """Return the background pass, if the prior supports backgrounds."""
        return frozenset({"background"} if self.prior.knows_backgrounds else ())

    def _background(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the background [T, H, W, 3] of this step."""
        scenes = render.require("background")
        return scenes if request.background is None else request.background.expand_as(scenes)

    def shown(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the views over the step's background; over white for a prior that supports nothing else."""
        if not self.prior.knows_backgrounds:
            return super().shown(request, render)
        return render.over(self._background(request, render))

    def condition_for(self, request: DistillationRequest, render: Render) -> Any:
        """Return the condition with the input image over the mean grey of the step's background, in 8 bits.

        "Background alignment", ImageDream, sec. 3.3. The mean is over all views, pixels and channels, as in the
        released code. The input image is encoded once per grey.
        """
        if self.posed is None or not self.prior.knows_backgrounds:
            return self.condition
        grey = int(255 * self._background(request, render).mean().clamp(0, 1).item())
        if grey not in self._conditions:
            self._conditions[grey] = self.prior.condition(replace(self.posed, grey=grey / 255))
        return self._conditions[grey]

    def estimate(self, request: DistillationRequest, noisy: Tensor, condition: Any, wanted: Tensor) -> Tensor:
        """Return the guided estimate; for the reconstruction loss, with its excess contrast reduced.

        See `denoising.rescaled`; standard deviations are per four views.
        """
        scales, share = self.guidance_scales(request.views), self.config.rescale
        if self.config.loss == "sds" or share == 0 or bool((scales == 1).all()):
            return super().estimate(request, noisy, condition, wanted)

        def denoise(scale: Tensor | None) -> Tensor:
            return self.prior.denoise(NoisyViews(noisy, request.sigma, condition, request.views, scale, wanted))

        conditional, unconditional = denoise(None), denoise(torch.zeros_like(scales))
        return rescaled(guided(conditional, unconditional, scales), conditional, share, self.prior.frames or VIEWS)

    def distance(self, request: DistillationRequest, latents: Tensor, target: Tensor, mask: Tensor | float) -> Tensor:
        """Return the loss that `loss` selects: a mean, where the released code sums over the elements of a view."""
        if self.config.loss == "sds":
            return sds_loss(latents, target, request.sigma, mask)
        return reconstruction_loss(latents, target, mask)


@register("imagedream-sds")
class ImageDreamSDS(MultiViewSDS):
    """Multi-view score distillation from an image and a text (ImageDream)."""

    def check_prior(self) -> None:
        """Raise an InputError unless the prior takes an image."""
        if not self.prior.takes_image:
            raise InputError(f"prior: {self.prior.name} takes no image; use it with the guidance 'mvdream-sds'")


@register("mvdream-sds")
class MVDreamSDS(MultiViewSDS):
    """Multi-view score distillation from text alone (MVDream); no image is needed."""

    @dataclass(kw_only=True)
    class Config(MultiViewSDS.Config):
        guidance_scale: GuidanceScale = 50.0  # classifier-free guidance; 1: none; 0: the prior's sampling default
        elevation_range_deg: tuple[ElevationDeg, ElevationDeg] = (0.0, 30.0)  # of the cameras, lowest to highest
        fov_range_deg: tuple[FovDeg, FovDeg] = (15.0, 60.0)  # of the cameras, narrowest to widest
        half_view_range: tuple[HalfView, HalfView] = (0.8 * WORLD_SCALE, 1.0 * WORLD_SCALE)  # half a view, world units
        rescale: UnitFloat = 0.5  # share of the estimate rescaled to unguided contrast; for loss reconstruction

    config: Config

    def check_prior(self) -> None:
        """Raise an InputError if the prior takes an image."""
        if self.prior.takes_image:
            raise InputError(f"prior: {self.prior.name} needs an image; use it with the guidance 'imagedream-sds'")


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share
