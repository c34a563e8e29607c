"""The bundled prior of real objects as a `Prior`."""

import torch
from torch import Tensor

from liftstudio.core.registry import register
from liftstudio.data.cameras import turned
from liftstudio.priors.base import PosedImage
from liftstudio.priors.objects.frustum import coordinates, sample_frustum
from liftstudio.priors.objects.network import Lifted, ObjectsNetwork, Size
from liftstudio.priors.projections import projections
from liftstudio.priors.volume_prior import SIGMA_MAX, VolumePrior

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
        """Return occupancy logits [N] of points [N, 3] in the run's world, from the input image alone.

        Where depth is uncertain they stay below 0 throughout; surfaces are at SURFACE_LEVEL.
        """
        lifted = self._lift_alone(posed)
        axes = turned(posed.camera, -float(posed.camera.azimuth_deg)).c2w[0, :3, :3]
        turn = (axes @ posed.camera.c2w[0, :3, :3].mT).to(self.device)
        where = coordinates(lifted.frame, (points.to(self.device) @ turn.mT)[None])
        logits = sample_frustum(lifted.occupancy[:, None], where)[0, 0]
        return logits.where((where[0].abs() <= 1).all(-1), OUTSIDE)

    def inside(self, posed: PosedImage, points: Tensor) -> Tensor:
        """See `Prior.inside`."""
        return torch.tanh(self.occupancy(posed, points) - SURFACE_LEVEL)

    def _lift_alone(self, posed: PosedImage) -> Lifted:
        """Fill the frustum from the input image alone, without views."""
        camera = turned(posed.camera.to(self.device), -float(posed.camera.azimuth_deg))
        image = self.encode(posed.image[None], posed.mask[None]).to(self.device)
        yes = torch.ones(1, dtype=torch.bool, device=self.device)
        projection = projections(camera)
        picture = self.network.look(image, projection)
        level = torch.full((1,), SIGMA_MAX, device=self.device)
        return self.network.lift(picture, torch.zeros_like(image)[None], projection[None], level, yes, ~yes)
