"""Training task of the bundled prior `toys`."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.registry import register
from liftstudio.priors.toys.network import Lifted, Size
from liftstudio.priors.toys.prior import ToysPrior
from liftstudio.training.data import Sample
from liftstudio.training.volume_task import VolumeTask


@register("toys")
class ToysTask(VolumeTask):
    """Trains the denoiser with an internal grid, by losses on rays and occupancy."""

    @dataclass
    class Config(VolumeTask.Config):
        size: Size = field(default_factory=Size)  # of the network

    prior_type = ToysPrior
    extra_views = 1
    sheet_steps, most_weight = 12, 8.0

    def _shape(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Return which vertices of the grid are inside the object."""
        if sample.solid is None:
            return {}
        line = torch.linspace(-self.config.size.half_side, self.config.size.half_side, self.config.size.grid)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        inside = sample.solid.contains(torch.stack([x, y, z], dim=-1).view(-1, 3))
        return {"inside": inside.view(z.shape)}

    def _shape_losses(self, lifted: Lifted, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "inside" not in batch:
            return {}
        entropy = F.binary_cross_entropy_with_logits(lifted.occupancy, batch["inside"].float())
        return {"occupancy": self.config.lambda_occupancy * entropy}
