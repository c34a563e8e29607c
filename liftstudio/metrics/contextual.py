"""The contextual distance of Mechrez et al. 2018: is what a target shows found in an image, wherever it is there?

"The Contextual Loss for Image Transformation with Non-Aligned Data", sec. 3. Both pictures are sets of features without
places, so that they need not be views from the same side. Make-It-3D and HiFi-123 report it of novel views against the
picture.
"""

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from liftstudio.core.checks import check_range, check_shape
from liftstudio.metrics.lpips import load_lpips

BANDWIDTH = 0.5  # of the official release

_EPSILON = 1e-5  # of the paper: where an image has a target's very feature
_SHORTEST = 1e-6  # features nearer to the mean than that have no direction
_DISTANCES = 2**22  # between features, at once
_INSIDE = 0.5  # of a feature's pixels, the share above which it is the object's

_PATCH, _STRIDE = 5, 2  # pixels
_VGG_LAYERS = (13, 20)  # of the backbone: conv3_2 and conv4_2, after their ReLU


class FeatureMaps(Protocol):
    """What describes the places of images; `name` says in reports what did."""

    name: str

    def maps(self, images: Tensor) -> list[Tensor]:
        """Features [B, h, w, C] of one layer or several, of images [B, H, W, 3] (sRGB in [0, 1])."""


class PixelPatches:
    """The pixels of small patches: a stand-in that needs no weights. They are not VGG's features, and know no meaning.

    Such figures compare with one another, never with published ones.
    """

    name = f"patches of {_PATCH} x {_PATCH} pixels, not VGG"

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, ceil(H / 2), ceil(W / 2), 75], of one layer."""
        check_shape("images", images, ("B", "H", "W", 3))
        margin = _PATCH // 2
        padded = F.pad(images.permute(0, 3, 1, 2), (margin,) * 4, mode="replicate")
        patches = padded.unfold(2, _PATCH, _STRIDE).unfold(3, _PATCH, _STRIDE)
        return [patches.permute(0, 2, 3, 1, 4, 5).flatten(3)]


class Vgg:
    """Activations of conv3_2 and conv4_2, the layers of the official release; of VGG-16, where that has VGG-19.

    Args:
        weights: as `lpips.load_lpips` of "vgg16": a folder with the published files of that metric, or one such file.
        device: where it computes.
    Raises:
        InputError: missing, damaged or foreign weights.
    """

    name = "VGG-16, conv3_2 and conv4_2"

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self._network = load_lpips(weights, "vgg16").to(device)

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, H // 4, W // 4, 256] and [B, H // 8, W // 8, 512], of two layers."""
        check_shape("images", images, ("B", "H", "W", 3))
        return [layer.permute(0, 2, 3, 1) for layer in self._network.activations(images, _VGG_LAYERS)]


def load_features(weights: str | Path | None, device: torch.device | str = "cpu") -> Vgg | PixelPatches:
    """VGG's from the weights, or patches of pixels where none are given.

    Raises:
        InputError: weights are given and are not LPIPS's of VGG-16.
    """
    return Vgg(weights, device) if weights else PixelPatches()


def contextual_distance(
    images: Tensor,
    targets: Tensor,
    features: FeatureMaps,
    masks: Tensor | None = None,
    target_masks: Tensor | None = None,
    bandwidth: float = BANDWIDTH,
) -> Tensor:
    """[B] -log CX, summed over the layers (eq. 5): how little of each target is found in its image, 0 or more.

    0 at the target itself, if all its features differ; of r equal ones each counts 1 / r at most, so that plain
    surfaces raise it. Differentiable; not symmetric.

    Args:
        images: [B, H, W, 3] float, sRGB in [0, 1].
        targets: [B, H', W', 3] likewise, of any size.
        masks, target_masks: [B, H, W, 1] and [B, H', W', 1] in [0, 1]: only features mostly inside count; None: all.
    Raises:
        ValueError: for a wrong shape, or a mask that is empty at the features' resolution.
        InputError: a bandwidth that is not above 0.
    """
    check_shape("targets", targets, (len(images), "H", "W", 3))
    layers = zip(features.maps(images), features.maps(targets), strict=True)
    similarities = [
        torch.stack(
            [
                contextual_similarity(*pair, bandwidth)
                for pair in zip(_inside("masks", x, masks), _inside("target_masks", y, target_masks), strict=True)
            ]
        )
        for x, y in layers
    ]
    return -torch.stack(similarities).log().sum(0)


def contextual_similarity(features: Tensor, targets: Tensor, bandwidth: float = BANDWIDTH) -> Tensor:
    """CX in (0, 1]: the mean over the targets of how much some feature means that one and no other (eq. 1 to 4).

    Cosine distances d_ij of features i and targets j about the mean of the targets are set in relation to the least of
    each feature (eq. 2), and their exponentials (eq. 3) normalised over the targets (eq. 4); of each target the largest
    counts (eq. 1). The release halves the distances and centres by the mean of a batch; here each pair is by itself.
    Distances are made a part at a time, so that memory does not grow with their number; also for a gradient.

    Args:
        features: [N, C] float, of an image.
        targets: [M, C] float.
        bandwidth: h > 0 of eq. 3; the smaller, the more the nearest target takes all.
    Raises:
        ValueError: for a wrong shape or no features.
        InputError: a bandwidth that is not above 0.
    """
    check_shape("features", features, ("N", "C"))
    check_shape("targets", targets, ("M", features.shape[1]))
    check_range("bandwidth", bandwidth, 1e-6)
    if not len(features) or not len(targets):
        raise ValueError(f"contextual: expected features, got {len(features)} and {len(targets)} of the target")
    center = targets.mean(0)
    x, y = (F.normalize(each - center, dim=1, eps=_SHORTEST) for each in (features, targets))
    parts = x.split(max(1, _DISTANCES // len(y)))
    best = [checkpoint(_best_matches, part, y, bandwidth, use_reentrant=False) for part in parts]
    return torch.stack(best).amax(0).mean()


def _best_matches(features: Tensor, targets: Tensor, bandwidth: float) -> Tensor:
    """[M]: of each target, the largest CX_ij of these features; all of unit length."""
    distances = (1 - features @ targets.T).clamp_min(0)  # rounding goes below
    relative = distances / (distances.amin(1, keepdim=True) + _EPSILON)
    return torch.softmax((1 - relative) / bandwidth, dim=1).amax(0)


def has_features(masks: Tensor, images: Tensor, features: FeatureMaps) -> Tensor:
    """[B] bool, whether some feature of every layer is mostly inside of masks [B, H, W, 1], of images [B, H, W, 3]."""
    sizes = [maps.shape[1:3] for maps in features.maps(images[:1])]
    return torch.stack([(_shares(masks, *size) > _INSIDE).flatten(1).any(1) for size in sizes]).all(0)


def _shares(masks: Tensor, height: int, width: int) -> Tensor:
    """[B, height, width] how much of each feature's pixels is inside of masks [B, H, W, 1]."""
    return F.adaptive_avg_pool2d(masks.float().permute(0, 3, 1, 2), (height, width))[:, 0]


def _inside(name: str, maps: Tensor, masks: Tensor | None) -> list[Tensor]:
    """[N, C] of each image, of its features [h, w, C] those of the object."""
    if masks is None:
        return list(maps.flatten(1, 2))
    check_shape(name, masks, (len(maps), "H", "W", 1))
    height, width = maps.shape[1:3]
    shares = _shares(masks, height, width)
    chosen = [each[share > _INSIDE] for each, share in zip(maps, shares, strict=True)]
    empty = [index for index, each in enumerate(chosen) if not len(each)]
    if empty:
        raise ValueError(f"{name}: no object in image {empty[0]}, or less than one of its {height}x{width}")
    return chosen
