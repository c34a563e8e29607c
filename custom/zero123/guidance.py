"""Score distillation on random views of the object in a picture, each by itself."""

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
    """Score distillation at cameras relative to the picture's, as with Zero-1-to-3.

    After Liu et al. 2023, "Zero-1-to-3", sec. 3.3, with the noise weighted as in DreamFusion. With a prior of any kind
    that takes a picture and cameras: it is asked about one view at a time.
    """

    def __init__(self, config: OrbitDistillation.Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        super().__init__(config, views=views, device=device)
        log.info("guidance: prior %s", self.prior.name)

    def check_prior(self) -> None:
        """It must take a picture, and any number of views."""
        if not self.prior.takes_image or self.prior.frames:
            raise InputError(f"prior: {self.prior.name} does not make a single view of a picture")

    def estimate(self, request: DistillationRequest, noisy: Tensor, condition: Any, wanted: Tensor) -> Tensor:
        """See `PriorGuidance.estimate`."""
        scales = self.guidance_scales(len(noisy))
        return denoise_alone(self.prior, NoisyViews(noisy, request.sigma, condition, request.views, scales))
