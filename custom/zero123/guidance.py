"""Score distillation on random views of the object in an input image, each denoised independently."""

from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.registry import register
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.guidance.scheduled_distillation import OrbitDistillation
from liftstudio.guidance.score_distillation import DistillationRequest
from liftstudio.priors.base import NoisyViews

from .views import denoise_alone


@register("zero123-sds")
class Zero123SDS(OrbitDistillation):
    """Score distillation at cameras relative to the input image's, as with Zero-1-to-3.

    After Liu et al. 2023, "Zero-1-to-3", sec. 3.3, with DreamFusion's weighting of noise levels. It works with any
    prior that takes an input image and cameras, one view at a time.
    """

    def __init__(self, config: OrbitDistillation.Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        super().__init__(config, views=views, device=device)
        log.info("guidance: prior %s", self.prior.name)

    def check_prior(self) -> None:
        """Check that the prior takes an input image and any number of views."""
        if not self.prior.takes_image or self.prior.frames:
            raise InputError(f"prior: {self.prior.name} cannot generate a single view from an input image")

    def estimate(self, request: DistillationRequest, noisy: Tensor, condition: Any, wanted: Tensor) -> Tensor:
        """See `PriorGuidance.estimate`."""
        scales = self.guidance_scales(request.views)
        return denoise_alone(self.prior, NoisyViews(noisy, request.sigma, condition, request.views, scales))
