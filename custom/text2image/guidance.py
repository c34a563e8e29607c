"""Score distillation from a text-to-image model, as in DreamFusion."""

from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.logs import log
from liftstudio.core.registry import register
from liftstudio.data.cameras import Cameras, Distance, FovDeg, orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.scheduled_distillation import OrbitDistillation
from liftstudio.guidance.score_distillation import DistillationRequest

from .prior import TextToImage


@register("text-to-image-sds")
class TextToImageSDS(OrbitDistillation):
    """Score distillation on random views from a text (Poole et al. 2022, "DreamFusion", eq. 3).

    The text is the same for all viewpoints. With an input image, views have its distance and field of view.
    """

    @dataclass(kw_only=True)
    class Config(OrbitDistillation.Config):
        distance: Distance = 3.8  # of the cameras from the object's centre, world units, without an input image
        fov_deg: FovDeg = 20.0  # field of view of the cameras, without an input image

    config: Config
    prior: TextToImage

    def __init__(self, config: Config, *, views: ReferenceViews | None, device: torch.device) -> None:
        if views is None or views.input_view is None:
            zero = torch.zeros(1, device=device)
            self._center = orbit_cameras(zero, zero, config.distance, config.fov_deg, 1, 1)
        else:
            self._center = views.select([views.input_view]).cameras.to(device)
        super().__init__(config, views=views, device=device)
        log.info("guidance: prior %s", self.prior.name)

    def check_prior(self) -> None:
        """Check that the prior is a text-to-image model."""
        if not isinstance(self.prior, TextToImage):
            raise InputError(
                f"prior: {self.prior.name} is not a text-to-image model; use deepfloyd-if or stable-diffusion"
            )

    def center(self) -> Cameras:
        """Return the input image's camera, or the one that the options give."""
        return self._center

    def levels(self) -> Tensor:
        """Return the noise levels that the prior was trained with."""
        return self.prior.levels

    def passes(self) -> frozenset[str]:
        """Return the render passes that `shown` needs: the background."""
        return frozenset({"background"})

    def shown(self, request: DistillationRequest, render: Render) -> Tensor:
        """Return the render composited over the scene's background."""
        return render.over(render.require("background"))
