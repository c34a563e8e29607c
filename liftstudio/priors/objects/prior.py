"""The bundled prior of real objects as a `Prior`."""

import torch
from torch import Tensor

from liftstudio.core.registry import register
from liftstudio.priors.base import PosedImage
from liftstudio.priors.objects.frustum import coordinates, sample_frustum
from liftstudio.priors.objects.network import ObjectsNetwork, Size
from liftstudio.priors.volume_prior import SIGMA_MAX, Side, VolumePrior

OUTSIDE = -20.0  # logit outside the frustum
SURFACE_LEVEL = -1.0  # logit of the surface, near the best for held-out objects; uncertain depth keeps logits low


@register("objects")
class ObjectsPrior(VolumePrior):
    """The small bundled prior of objects of all kinds, for any cameras; it stands in for large ones."""

    name = "objects (bundled)"
    note, size_type, network_type, samples = "objects", Size, ObjectsNetwork, 48
    trained_fov_deg, trained_elevation_deg, trained_azimuth_deg = (25.0, 60.0), (-20.0, 60.0), (-180.0, 180.0)
    steps = 2  # as accurate as one evaluation and sharper; more are less accurate
    decomposed_scales = (0.1, 0.1)  # guidance reduces its accuracy

    @torch.no_grad()
    def occupancy(self, posed: PosedImage, points: Tensor) -> Tensor:
        """Return occupancy logits [N] of points [N, 3] in the run's world, from the input images alone.

        Where depth is uncertain they stay below 0 throughout; surfaces are at SURFACE_LEVEL. For several images it is
        the mean of their logits.
        """
        points = points.to(self.device)
        return torch.stack([self._occupancy(side, points) for side in self.condition(posed)]).mean(0)

    def _occupancy(self, side: Side, points: Tensor) -> Tensor:
        image, projection = side.picture.image, side.picture.projection
        lifted = self._lift(side, torch.zeros_like(image), projection, SIGMA_MAX, has_views=False)
        turn = side.rotated(side.camera).c2w[0, :3, :3] @ side.camera.c2w[0, :3, :3].mT
        where = coordinates(lifted.frame, (points @ turn.mT)[None])
        logits = sample_frustum(lifted.occupancy[:, None], where)[0, 0]
        return logits.where((where[0].abs() <= 1).all(-1), OUTSIDE)

    def inside(self, posed: PosedImage, points: Tensor) -> Tensor:
        """See `Prior.inside`."""
        return torch.tanh(self.occupancy(posed, points) - SURFACE_LEVEL)
