"""Metrics of novel views, generated from one image of an object, against the true views; all metrics of the papers."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from liftstudio.data.images import resize_area
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.contextual import FeatureMaps, PixelPatches, contextual_distance, has_features
from liftstudio.metrics.diversity import Form, cd_terms
from liftstudio.metrics.embeddings import Clip
from liftstudio.metrics.flow import FlowEstimator, flow_error, orbit_flows
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.lpips import Lpips

PIXELS = 256  # image side at which methods are compared, as in the papers

_MAX_DB = 100.0  # the PSNR of equal images is not finite
_CONTEXTUAL_PIXELS = 128  # image side for contextual distances, whose cost grows with its fourth power

Row = dict[str, float]


@dataclass(frozen=True)
class CdScore:
    """Which CD score: its form (see `cd_terms`), and what the views' diversity is measured from.

    reference: the generated view at the input image's azimuth, as in the released code, or the input image itself.
    """

    form: Form = "released"
    reference: Literal["first-view", "input-image"] = "first-view"


@dataclass(frozen=True)
class Judges:
    """The networks that compute metrics; metrics whose network is None are left out.

    lpips:    for `lpips`.
    clip:     for `clip_to_view`, `clip_to_picture` and, with `text`, the terms of the CD score.
    text:     description of the object, such as "An image of toy bus".
    cd:       form of the CD score.
    features: for the contextual distances: VGG features or pixel patches.
    flow:     for `e_flow`.
    """

    lpips: Lpips | None = None
    clip: Clip | None = None
    text: str = ""
    cd: CdScore = field(default_factory=CdScore)
    features: FeatureMaps = field(default_factory=PixelPatches)
    flow: FlowEstimator | None = None


def silhouette_iou(masks: Tensor, true_masks: Tensor) -> Tensor:
    """Intersection over union [V] of masks [V, H, W, 1], thresholded at 0.5; 1 if both are empty."""
    drawn, true = masks > 0.5, true_masks > 0.5
    both, either = (drawn & true).sum((1, 2, 3)), (drawn | true).sum((1, 2, 3))
    return (both / either.clamp_min(1)).where(either > 0, 1.0)


def closeness(images: Tensor, masks: Tensor, truth: ReferenceViews) -> Row:
    """Means over the novel views of `psnr` (dB, at most 100), `ssim` and `silhouette_iou`.

    Args:
        images: [V, H, W, 3] in [0, 1], composited over white, from the cameras of `truth`.
        masks: [V, H, W, 1] in [0, 1].
        truth: V views of the same size; its input views are excluded from all means.
    """
    novel = novel_views(truth)
    pairs = images[novel], truth.over(1.0)[novel]
    return {
        "psnr": float(psnr(*pairs).clamp_max(_MAX_DB).mean()),
        "ssim": float(ssim(*pairs).mean()),
        "silhouette_iou": float(silhouette_iou(masks[novel], truth.masks[novel]).mean()),
    }


@torch.no_grad()
def compare_views(images: Tensor, masks: Tensor, truth: ReferenceViews, judges: Judges) -> Row:
    """The metrics of `closeness` and those of the judges.

    lpips, clip_to_view: between each novel view and the true one (SV3D, SyncDreamer).
    clip_to_picture, contextual_to_picture: between each novel view and the input image (HiFi-123).
    contextual_to_view: between each novel view and the true one; both contextual distances at 128 pixels.
    cd_distance, cd_variance: terms of HarmonyView's CD score over all views in order of azimuth, starting at the input
        view; the score itself is the ratio of means (`metrics.diversity`).
    e_flow: pixels, over all views, which form a circle (`metrics.flow`).

    Arguments as in `closeness`; images have at least 32 pixels per side.
    """
    novel = novel_views(truth)
    order = around(truth)
    seen, true = images[novel], truth.over(1.0)[novel]
    assert truth.input_view is not None
    picture = truth.over(1.0)[truth.input_view]
    row = closeness(images, masks, truth)
    if judges.lpips is not None:
        row["lpips"] = float(judges.lpips(seen, true).mean())
    if judges.clip is not None:
        embedded, true_embedded, input_embedded = (judges.clip.images(each) for each in (images, true, picture[None]))
        row["clip_to_view"] = float(torch.cosine_similarity(embedded[novel], true_embedded).mean())
        row["clip_to_picture"] = float(torch.cosine_similarity(embedded[novel], input_embedded).mean())
        if judges.text:
            reference = input_embedded if judges.cd.reference == "input-image" else None
            distance, variance = cd_terms(embedded[order], judges.clip.text(judges.text), reference, judges.cd.form)
            row |= {"cd_distance": float(distance), "cd_variance": float(variance)}
    row |= _contextual(seen, masks[novel], truth, judges.features)
    if judges.flow is not None:
        flows, true_flows = (orbit_flows(views[order], judges.flow) for views in (images, truth.over(1.0)))
        row["e_flow"] = flow_error(flows, true_flows)
    return row


def novel_views(truth: ReferenceViews) -> Tensor:
    """Indices of all views except the input views."""
    return torch.tensor([index for index in range(len(truth)) if index not in truth.input_views])


def around(truth: ReferenceViews) -> Tensor:
    """Indices [V] of all views in order of azimuth, starting at the input view."""
    assert truth.input_view is not None
    turn = truth.cameras.azimuth_deg - truth.cameras.azimuth_deg[truth.input_view]
    turn = torch.remainder(turn + 1e-3, 360)  # against rounding that would move views of equal azimuth to the end
    turn[truth.input_view] = -1
    return turn.argsort(stable=True)


def _contextual(seen: Tensor, masks: Tensor, truth: ReferenceViews, features: FeatureMaps) -> Row:
    """Mean contextual distances of the objects in the novel views; the whole view is used if the object is too thin."""
    novel = novel_views(truth)
    seen, masks, true, true_masks = (_reduced(each) for each in (seen, masks, truth.over(1.0), truth.masks))
    shown, true_shown = (
        each.where(has_features(each, images, features)[:, None, None, None], 1.0)
        for each, images in ((masks, seen), (true_masks, true))
    )
    assert truth.input_view is not None
    row: Row = {}
    for name, index in {"view": novel, "picture": torch.full_like(novel, truth.input_view)}.items():
        each = [
            contextual_distance(seen[[i]], true[[j]], features, shown[[i]], true_shown[[j]])
            for i, j in enumerate(index.tolist())
        ]
        row[f"contextual_to_{name}"] = float(torch.cat(each).mean())
    return row


def _reduced(images: Tensor) -> Tensor:
    """Images [V, R, R, C], reduced to 128 pixels per side if they are larger."""
    size = min(_CONTEXTUAL_PIXELS, images.shape[1])
    return torch.stack([resize_area(image, size, size) for image in images])
