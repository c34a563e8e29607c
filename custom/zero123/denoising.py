"""Views that a prior is asked about one at a time, so that each is of the picture alone."""

from typing import Any

import torch
from torch import Tensor

from liftstudio.priors.base import NoisyViews, Prior


def denoise_alone(prior: Prior, noisy: NoisyViews[Any]) -> Tensor:
    """See `Prior.denoise`; no view knows of the others, whatever the prior makes of several."""
    return torch.cat([prior.denoise(noisy[view : view + 1]) for view in range(len(noisy))])
