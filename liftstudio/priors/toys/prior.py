"""The bundled prior of toy figures as a `Prior`."""

import torch

from liftstudio.core.registry import register
from liftstudio.priors.base import Prior
from liftstudio.priors.toys.network import Size, ToysNetwork
from liftstudio.priors.volume_prior import VolumePrior


@register("toys")
class ToysPrior(VolumePrior):
    """The small bundled prior of toy figures, for any cameras; it stands in for large ones."""

    name = "toys (bundled)"
    note, size_type, network_type, samples = "toys", Size, ToysNetwork, 40
    trained_fov_deg, trained_elevation_deg, trained_azimuth_deg = (25.0, 50.0), (-10.0, 40.0), (-46.0, 46.0)
    steps = 12
    ancestral_steps = 2  # a small network predicts means better than samples, and few steps stay near the mean
    decomposed_scales = (0.1, 0.1)  # guidance reduces its accuracy, these scales by 0.7 dB

    def __init__(self, config: Prior.Config, *, device: torch.device) -> None:
        super().__init__(config, device=device)
        self.network.make_grid(device)
