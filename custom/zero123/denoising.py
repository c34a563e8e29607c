"""Views that a prior is asked about one at a time, so that each is of the picture alone."""

from typing import Any

import torch
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.priors.base import Prior


def denoise_alone(
    prior: Prior, latents: Tensor, sigma: float, condition: Any, cameras: Cameras, guidance_scale: Tensor
) -> Tensor:
    """See `Prior.denoise`; no view knows of the others, whatever the prior makes of several."""
    views = (slice(index, index + 1) for index in range(len(latents)))
    return torch.cat(
        [prior.denoise(latents[view], sigma, condition, cameras[view], guidance_scale[view]) for view in views]
    )
