"""How close views of an object, made of one picture of it, come to the true ones, by all measures of the papers."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from liftstudio.data.images import resize_area
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.contextual import FeatureMaps, PixelPatches, contextual_distance, has_features
from liftstudio.metrics.diversity import cd_terms
from liftstudio.metrics.embeddings import Clip
from liftstudio.metrics.flow import FlowEstimator, flow_error, orbit_flows
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.lpips import Lpips

PIXELS = 256  # across the views that all methods are compared in, as in the papers

_MOST_DB = 100.0  # equal images have no finite PSNR
_CONTEXTUAL_PIXELS = 128  # across views for contextual distances, whose cost grows with the fourth power

Row = dict[str, float]


@dataclass(frozen=True)
class Judges:
    """The networks that measure; without them there are fewer measures.

    lpips:    for `lpips`.
    clip:     for `clip_to_view`, `clip_to_picture` and, with `text`, the terms of the CD score.
    text:     what the object is: "An image of toy bus".
    features: for the contextual distances: VGG's, or patches of pixels.
    flow:     for `e_flow`.
    """

    lpips: Lpips | None = None
    clip: Clip | None = None
    text: str = ""
    features: FeatureMaps = field(default_factory=PixelPatches)
    flow: FlowEstimator | None = None


def silhouette_iou(masks: Tensor, true_masks: Tensor) -> Tensor:
    """[V] intersection over union of masks [V, H, W, 1] above 0.5; 1 where both are empty."""
    drawn, true = masks > 0.5, true_masks > 0.5
    both, either = (drawn & true).sum((1, 2, 3)), (drawn | true).sum((1, 2, 3))
    return (both / either.clamp_min(1)).where(either > 0, 1.0)


def closeness(images: Tensor, masks: Tensor, truth: ReferenceViews) -> Row:
    """Means over the novel views of `psnr` (dB, 100 at most), `ssim` and `silhouette_iou`; over white.

    Args:
        images: [V, H, W, 3] over white, at the cameras of `truth`; masks: [V, H, W, 1]; both in [0, 1].
        truth: V views of that size; the view `input_view`, is left out of all means.
    """
    novel = novel_views(truth)
    pairs = images[novel], truth.over(1.0)[novel]
    return {
        "psnr": float(psnr(*pairs).clamp_max(_MOST_DB).mean()),
        "ssim": float(ssim(*pairs).mean()),
        "silhouette_iou": float(silhouette_iou(masks[novel], truth.masks[novel]).mean()),
    }


@torch.no_grad()
def compare_views(images: Tensor, masks: Tensor, truth: ReferenceViews, judges: Judges) -> Row:
    """`closeness`, and what the judges say.

    lpips, clip_to_view: between each novel view and the true one (SV3D, SyncDreamer).
    clip_to_picture, contextual_to_picture: between each novel view and the input picture (HiFi-123).
    contextual_to_view: of each novel view from the true one. Both of views reduced to 128 pixels.
    cd_distance, cd_variance: terms of HarmonyView's CD score, as released, of all views, from the first to the last
        as the azimuth rises from the input view's; the score itself is the ratio of means (`metrics.diversity`).
    e_flow: pixels; of all views, as they form a circle (`metrics.flow`).

    Arguments as those of `closeness`, images at least 32 pixels across.
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
        embedded, wanted, given = (judges.clip.images(each) for each in (images, true, picture[None]))
        row["clip_to_view"] = float(torch.cosine_similarity(embedded[novel], wanted).mean())
        row["clip_to_picture"] = float(torch.cosine_similarity(embedded[novel], given).mean())
        if judges.text:
            distance, variance = cd_terms(embedded[order], judges.clip.text(judges.text))
            row |= {"cd_distance": float(distance), "cd_variance": float(variance)}
    row |= _contextual(seen, masks[novel], truth, judges.features)
    if judges.flow is not None:
        flows, true_flows = (orbit_flows(views[order], judges.flow) for views in (images, truth.over(1.0)))
        row["e_flow"] = flow_error(flows, true_flows)
    return row


def novel_views(truth: ReferenceViews) -> Tensor:
    """[V - 1] the indices of all views but the input view."""
    return torch.tensor([index for index in range(len(truth)) if index != truth.input_view])


def around(truth: ReferenceViews) -> Tensor:
    """[V] the indices of all views as their azimuths rise from the input view's, which is the first."""
    assert truth.input_view is not None
    turn = truth.cameras.azimuth_deg - truth.cameras.azimuth_deg[truth.input_view]
    turn = torch.remainder(turn + 1e-3, 360)  # rounding must not bring the first to the end
    turn[truth.input_view] = -1
    return turn.argsort(stable=True)


def _contextual(seen: Tensor, masks: Tensor, truth: ReferenceViews, features: FeatureMaps) -> Row:
    """Means of the contextual distances of the novel views' objects; those too thin for a feature are whole views."""
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
    """[V, R, R, C] images at 128 pixels, if they are larger."""
    size = min(_CONTEXTUAL_PIXELS, images.shape[1])
    return torch.stack([resize_area(image, size, size) for image in images])
