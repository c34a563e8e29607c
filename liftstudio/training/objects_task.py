"""Training task of the bundled prior `objects`."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, UnitFloat
from liftstudio.core.registry import register
from liftstudio.priors.objects.frustum import centers, frame_of, pixel_rays
from liftstudio.priors.objects.network import Lifted, Size
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.projections import projections
from liftstudio.priors.volume_prior import RESOLUTION
from liftstudio.training.data import Sample
from liftstudio.training.volume_task import VolumeTask, channels_first


@register("objects")
class ObjectsTask(VolumeTask):
    """Trains the denoiser that fills the input view's frustum, by losses on rays and occupancy."""

    @dataclass
    class Config(VolumeTask.Config):
        size: Size = field(default_factory=Size)  # of the network
        rays: PositiveInt = 768  # per object and step
        drop_image: UnitFloat = 0.05  # share of objects without input image
        drop_views: UnitFloat = 0.1  # share of objects without noisy views
        top_share: UnitFloat = 0.5  # share of objects at the highest noise level
        lambda_occupancy: NonNegativeFloat = 1.0  # weight of the occupancy cross entropy; not for captures

    prior_type = ObjectsPrior
    extra_views = 2
    sheet_steps, most_weight = 2, 2.0

    def _shape(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Return occupancy [D, R, R] by plane and pixel of the frustum; False far from the silhouette."""
        if sample.solid is None:
            return {}
        frame, planes = frame_of(projections(sample.rig.input_camera)), self.config.size.planes
        near = _near_object(channels_first(sample.input_image)[None])[0, 0]
        middle, way = (rays[0, near] for rays in pixel_rays(frame, RESOLUTION, RESOLUTION))
        cells = middle + centers(planes)[:, None, None] * way
        inside = torch.zeros(planes, RESOLUTION, RESOLUTION, dtype=torch.bool)
        inside[:, near] = sample.solid.contains(cells.view(-1, 3)).view(planes, -1)
        return {"inside": inside}

    def _shape_losses(self, lifted: Lifted, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if "inside" not in batch:
            return {}
        entropy = _occupancy_loss(lifted, batch["inside"], batch["input_image"])
        return {"occupancy": self.config.lambda_occupancy * entropy}


def _occupancy_loss(lifted: Lifted, inside: Tensor, input_image: Tensor) -> Tensor:
    """Return the mean cross entropy over the cells on rays that hit the object or pass close to it."""
    near = _near_object(input_image)
    entropy = F.binary_cross_entropy_with_logits(lifted.occupancy, inside.float(), reduction="none")
    return (entropy.mean(1, keepdim=True) * near).sum() / near.sum().clamp_min(1)


def _near_object(images: Tensor) -> Tensor:
    """Return a mask [B, 1, R, R] of the pixels on or within 2 pixels of the object, of images [B, 4, R, R]."""
    return F.max_pool2d(images[:, 3:], 5, stride=1, padding=2) > -1
