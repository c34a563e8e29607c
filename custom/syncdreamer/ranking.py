"""Which of several sets of views fits together best, judged by silhouettes alone."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.prior_views import not_empty

SIZE = 48  # pixels across the silhouettes that are compared
SAMPLES = 64  # along a ray
REACH = 1.1  # half the length of rays that is sampled, world units; the object's longest side is 1.8
INSIDE = 0.5  # share of a pixel that makes it one of the silhouette's


class Rank(NamedTuple):
    """How good a set of views is: the greater the better.

    score:    in [0, 1], the agreement of the views that are used, times their share of all generated ones.
    used:     generated views that show something; of two sets in which nothing agrees, more of them are better.
    left_out: generated views that are empty.
    """

    score: float
    used: int
    left_out: int

    def __str__(self) -> str:
        return f"{self.score:.3f}" + (f" ({self.left_out} empty)" if self.left_out else "")


def rank(views: ReferenceViews) -> Rank:
    """The rank of a set of views that includes the picture, whose empty views are left out of what is made of it."""
    assert views.input_view is not None
    shown = not_empty(views)
    shown[views.input_view] = True
    used, generated = int(shown.sum()) - 1, len(views) - 1
    agreement = mask_agreement(views.select(shown.nonzero().flatten())) if used else 0.0
    return Rank(agreement * used / generated, used, generated - used)


@torch.no_grad()
def mask_agreement(views: ReferenceViews) -> float:
    """How far the silhouettes of views that include the picture agree with one another, in [0, 1].

    A point belongs to the visual hull if it is in the silhouettes of all views. If the silhouettes are those of one
    object, the hull fills each of them: every pixel of a silhouette has a point of the hull before it. A view's
    agreement is the share of its silhouette's pixels that have one (silhouette coherence: Hernandez et al. 2007). The
    result is the mean of the picture's agreement and of the mean agreement of the generated views, so that a set which
    is at one with itself but not with the picture does not win.
    """
    assert views.input_view is not None
    shares = _agreements(views)
    generated = [index for index in range(len(views)) if index != views.input_view]
    return float((shares[views.input_view] + shares[generated].mean()) / 2)


def _agreements(views: ReferenceViews) -> Tensor:
    """[V] share of each silhouette's pixels that have a point of the hull before them; 0 for an empty silhouette."""
    masks = torch.stack([resize_area(mask, SIZE, SIZE) for mask in views.masks])
    cameras = views.cameras.resized(SIZE, SIZE)
    origins, directions = cameras.rays()
    distances = torch.linspace(-REACH, REACH, SAMPLES)[:, None]
    shares = []
    for mask, origin, direction in zip(masks, origins, directions, strict=True):
        chosen = mask[..., 0] > INSIDE
        start, step = origin[chosen], direction[chosen]  # [P, 3]
        middle = start - (start * step).sum(-1, keepdim=True) * step  # where the ray is nearest to the centre
        points = (middle[:, None] + distances * step[:, None]).view(-1, 3)  # [P SAMPLES, 3]
        hull = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        hull[_in_all(points, masks, cameras)] = True
        shares.append(hull.view(-1, SAMPLES).any(-1).sum() / max(len(start), 1))
    return torch.stack(shares)


def _in_all(points: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """Indices of the points [N, 3] that are in every silhouette; each view is asked of those that are left."""
    left = torch.arange(len(points), device=points.device)
    for index, mask in enumerate(masks):
        pixels, _ = cameras[[index]].project(points[left])
        seen = F.grid_sample(mask.permute(2, 0, 1)[None], 2 * pixels[:, None] / SIZE - 1, align_corners=False)
        left = left[seen[0, 0, 0] > INSIDE]
    return left
