"""Masked score distillation: the prior fills in the surface that no reference view has seen."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.ranges import NonNegativeFloat, Range
from liftstudio.core.registry import register
from liftstudio.data import orbits
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.score_distillation import DistillationRequest, ScoreDistillation
from liftstudio.priors.classifier_free import GuidanceScale

from .denoising import Shape, shaped_scales
from .visibility import facing, unseen

FRAMES = 12  # views of an orbit for priors that take any number
AMPLITUDE_DEG = 40.0  # default swing of an orbit in elevation


@register("sv3d-masked-sds")
class MaskedSDS(ScoreDistillation):
    """SV3D's masked score distillation, on random closed orbits that end at the input view.

    After Voleti et al. 2024, "SV3D", sec. 4. The paper does not specify the orbits, the noise levels and the weights.
    """

    @dataclass(kw_only=True)
    class Config(ScoreDistillation.Config):
        guidance_scale: GuidanceScale = 0.0  # the highest; 0: the prior's default
        guidance_shape: Shape = "triangle"  # course over the orbit, from 1 at the input view; constant: the highest
        frames: Annotated[int, Range(2, or_zero=True)] = 0  # views of an orbit, with the input view; 0: the prior's
        amplitude_deg: NonNegativeFloat | None = None  # largest swing in elevation; none: 40, or 0 for sv3d_u
        azimuth_jitter_deg: float = 5.0  # largest random shift of azimuths; below half a step of the orbit
        # Latents that count: those of surface that no reference view faces, with a soft or hard edge; soft-z-test
        # also treats surface that is occluded in a view as unseen by it; none: all latents.
        mask: Literal["soft", "hard", "none", "soft-z-test"] = "soft"  # what counts: unseen surface only, or all (none)

    config: Config

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        super().__init__(config, views=views, device=device)
        assert views is not None
        self.reference = views.training().cameras.to(device)

    @property
    def frames(self) -> int:
        """Number of views of an orbit."""
        return self.config.frames or self.prior.frames or FRAMES

    @property
    def amplitude_deg(self) -> float:
        """Largest swing of an orbit in elevation, degrees."""
        if self.config.amplitude_deg is not None:
            return self.config.amplitude_deg
        return AMPLITUDE_DEG if self.prior.any_elevation else 0.0

    def draw_views(self, step: int, generator: torch.Generator) -> Cameras:
        """Draw a random sine orbit of `frames` cameras at the input view's distance and lens; that view is last."""
        config, start = self.config, self.posed.camera
        azimuth_deg, elevation_deg = orbits.random_sine(
            self.frames, start.elevation_deg.item(), self.amplitude_deg, generator, config.azimuth_jitter_deg
        )
        azimuth_deg, elevation_deg = azimuth_deg.to(self.device), elevation_deg.to(self.device)
        fov_deg, size = start.fov_deg.item(), self.prior.resolution
        return orbit_cameras(azimuth_deg + start.azimuth_deg, elevation_deg, start.distance, fov_deg, size, size)

    def guidance_scales(self, views: Cameras) -> Tensor:
        """Return the guidance scales [T] of SV3D's sampler, see `shaped_scales`."""
        most = self.config.guidance_scale or self.prior.guidance_scale
        return shaped_scales(self.config.guidance_shape, views.azimuth_deg, most).to(self.device)

    def request(self, step: int, generator: torch.Generator) -> DistillationRequest:
        """Return the orbit's request; for the z-test, reference cameras are appended to render their depth."""
        request = super().request(step, generator)
        if self.config.mask != "soft-z-test":
            return request
        orbit = request.cameras
        return replace(request, cameras=concatenate([orbit, self.reference.resized(orbit.height, orbit.width)]))

    def passes(self) -> frozenset[str]:
        """Return the render passes that visibility is computed from."""
        names = {"soft-z-test": {"points", "normal", "depth"}, "none": set[str]()}
        return frozenset(names.get(self.config.mask, {"points", "normal"}))

    def latent_mask(self, render: Render) -> Tensor:
        """Return the mask, averaged over each latent's pixels, [T, 1, h, w]; 0 at the input view."""
        pixels = self._pixel_mask(render).permute(0, 3, 1, 2)
        mask = F.interpolate(pixels, self.prior.latent_shape[1:], mode="area")
        mask[-1] = 0
        return mask

    def _pixel_mask(self, render: Render) -> Tensor:
        """Return the mask [T, H, W, 1] in [0, 1]; 0 on the background; 1 everywhere for `mask: none`."""
        frames, mode = self.frames, self.config.mask
        if mode == "none":
            return torch.ones_like(render.opacity[:frames])
        points, normals = (render.require(name)[:frames].detach() for name in ("points", "normal"))
        with_test = mode == "soft-z-test"
        cameras = self.reference.resized(*points.shape[1:3])
        on_object = (normals != 0).any(-1)
        depths = render.require("depth")[frames:] if with_test else None
        looked_at = facing(points[on_object], normals[on_object], cameras, depths)
        mask = torch.zeros_like(points[..., :1])
        mask[on_object] = unseen(looked_at, "hard" if mode == "hard" else "soft")
        return mask
