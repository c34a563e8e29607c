"""Ranking of several sets of views by how well their silhouettes agree."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.data.images import resize_area
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.views.prior_views import not_empty

SIZE = 48  # pixels across the compared silhouettes
SAMPLES = 64  # along a ray
REACH = 1.1  # half the sampled length of a ray, world units; the object's longest side is 1.8
INSIDE = 0.5  # coverage above which a pixel belongs to the silhouette


class Rank(NamedTuple):
    """The rank of a set of views; greater is better.

    score:    in [0, 1], the agreement of the non-empty views, times their share of all generated ones.
    used:     number of non-empty generated views; it decides between sets with equal scores, such as 0.
    left_out: number of empty generated views.
    """

    score: float
    used: int
    left_out: int

    def __str__(self) -> str:
        return f"{self.score:.3f}" + (f" ({self.left_out} empty)" if self.left_out else "")


def rank(views: ReferenceViews) -> Rank:
    """Return the rank of a set of views that includes the input images; empty views are left out of the agreement."""
    assert views.input_views
    shown = not_empty(views)
    given = len(views.input_views)
    shown[list(views.input_views)] = True
    used, generated = int(shown.sum()) - given, len(views) - given
    agreement = mask_agreement(views.select(shown.nonzero().flatten())) if used else 0.0
    return Rank(agreement * used / generated, used, generated - used)


@torch.no_grad()
def mask_agreement(views: ReferenceViews) -> float:
    """Return how well the silhouettes of views that include the input images agree, in [0, 1].

    A point belongs to the visual hull if it is in the silhouettes of all views. If the silhouettes are those of one
    object, the hull fills each of them: the ray of every silhouette pixel meets the hull. A view's agreement is the
    share of its silhouette's pixels for which this holds (silhouette coherence: Hernandez et al. 2007). The result is
    the mean of the input images' mean agreement and of the mean agreement of the generated views, so that a set that is
    consistent in itself but not with the input images does not win.
    """
    assert views.input_views
    shares = _agreements(views)
    generated = [index for index in range(len(views)) if index not in views.input_views]
    return float((shares[list(views.input_views)].mean() + shares[generated].mean()) / 2)


def _agreements(views: ReferenceViews) -> Tensor:
    """Return the share [V] of each silhouette's pixels whose rays meet the hull; 0 for an empty silhouette."""
    masks = torch.stack([resize_area(mask, SIZE, SIZE) for mask in views.masks])
    cameras = views.cameras.resized(SIZE, SIZE)
    origins, directions = cameras.rays()
    distances = torch.linspace(-REACH, REACH, SAMPLES)[:, None]
    chosen = masks[..., 0] > INSIDE
    start, step = origins[chosen], directions[chosen]  # [P, 3]
    middle = start - (start * step).sum(-1, keepdim=True) * step  # the ray's point nearest to the centre
    points = (middle[:, None] + distances * step[:, None]).view(-1, 3)  # [P SAMPLES, 3]
    hull = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    hull[_in_all(points, masks, cameras)] = True
    view, meets = chosen.nonzero()[:, 0], hull.view(-1, SAMPLES).any(-1)
    hits, pixels = (owners.bincount(minlength=len(views)) for owners in (view[meets], view))
    return hits / pixels.clamp_min(1)


def _in_all(points: Tensor, masks: Tensor, cameras: Cameras) -> Tensor:
    """Return the indices of the points [N, 3] that are in all silhouettes; each view only tests those that are left."""
    left = torch.arange(len(points), device=points.device)
    for index, mask in enumerate(masks):
        pixels, _ = cameras[[index]].project(points[left])
        seen = F.grid_sample(mask.permute(2, 0, 1)[None], 2 * pixels[:, None] / SIZE - 1, align_corners=False)
        left = left[seen[0, 0, 0] > INSIDE]
    return left
