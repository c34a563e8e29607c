"""The contextual distance of Mechrez et al. 2018: how well a target's features are found anywhere in an image.

"The Contextual Loss for Image Transformation with Non-Aligned Data", sec. 3. Both images are treated as sets of
features without positions, so they need not show the same side of an object. Make-It-3D and HiFi-123 report it between
novel views and the input image.
"""

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from liftstudio.core.checks import check_range, check_shape
from liftstudio.metrics.lpips import load_lpips

BANDWIDTH = 0.5  # as in the official release

_EPSILON = 1e-5  # as in the paper; avoids division by zero if an image has exactly a target's feature
_MIN_NORM = 1e-6  # features closer to the mean have no direction
_DISTANCES = 2**22  # distances between features computed at once
_INSIDE = 0.5  # a feature belongs to the object if more than this fraction of its pixels is inside

_PATCH, _STRIDE = 5, 2  # pixels
_VGG_LAYERS = (13, 20)  # of the backbone: conv3_2 and conv4_2, after their ReLU


class FeatureMaps(Protocol):
    """A feature extractor for images; `name` identifies it in reports."""

    name: str

    def maps(self, images: Tensor) -> list[Tensor]:
        """Features [B, h, w, C] of one or more layers for images [B, H, W, 3] (sRGB in [0, 1])."""


class PixelPatches:
    """The pixels of small patches: a stand-in for VGG that needs no weights and captures no semantics.

    The values can be compared with each other, but not with published ones.
    """

    name = f"patches of {_PATCH} x {_PATCH} pixels, not VGG"

    def maps(self, images: Tensor) -> list[Tensor]:
        """Patches [B, ceil(H / 2), ceil(W / 2), 75], as one layer."""
        check_shape("images", images, ("B", "H", "W", 3))
        margin = _PATCH // 2
        padded = F.pad(images.permute(0, 3, 1, 2), (margin,) * 4, mode="replicate")
        patches = padded.unfold(2, _PATCH, _STRIDE).unfold(3, _PATCH, _STRIDE)
        return [patches.permute(0, 2, 3, 1, 4, 5).flatten(3)]


class Vgg:
    """Activations of conv3_2 and conv4_2, the layers of the official release, which uses VGG-19; here of VGG-16.

    Args:
        weights: as in `lpips.load_lpips` for "vgg16": a folder with the published LPIPS files, or one such file.
        device: device of the network.

    Raises:
        InputError: the weights are missing, damaged or not LPIPS's.
    """

    name = "VGG-16, conv3_2 and conv4_2"

    def __init__(self, weights: str | Path, device: torch.device | str = "cpu") -> None:
        self._network = load_lpips(weights, "vgg16").to(device)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations of two layers: [B, H // 4, W // 4, 256] and [B, H // 8, W // 8, 512]."""
        check_shape("images", images, ("B", "H", "W", 3))
        return [layer.permute(0, 2, 3, 1) for layer in self._network.activations(images, _VGG_LAYERS)]


def load_features(weights: str | Path | None, device: torch.device | str = "cpu") -> Vgg | PixelPatches:
    """VGG features from the weights; pixel patches if none are given.

    Raises:
        InputError: the given weights are not those of LPIPS with VGG-16.
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
    """Contextual distance [B] >= 0 from each target to its image: -log CX, summed over the layers (eq. 5).

    It is 0 for the target itself if all its features differ. Each of r equal features counts at most 1 / r, so
    uniform surfaces raise the distance. Differentiable; not symmetric.

    Args:
        images: [B, H, W, 3] float, sRGB in [0, 1].
        targets: [B, H', W', 3] float, sRGB in [0, 1], of any size.
        features: the feature extractor.
        masks, target_masks: [B, H, W, 1] and [B, H', W', 1] in [0, 1]; only features mostly inside count. None: all.
        bandwidth: see `contextual_similarity`.

    Raises:
        ValueError: for a wrong shape, or a mask that is empty at the features' resolution.
        InputError: the bandwidth is not positive.
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
    """Contextual similarity CX in (0, 1]: the mean over the targets of their best match among the features (eq. 1-4).

    Cosine distances d_ij of features i and targets j, relative to the mean of the targets, are divided by the minimum
    of each feature (eq. 2). Their exponentials (eq. 3) are normalised over the targets (eq. 4); the maximum counts for
    each target (eq. 1). The release halves the distances and centres by the mean of a batch; here each pair is centred
    separately. Distances are computed in parts, also in the backward pass, so that memory does not grow with their
    number.

    Args:
        features: [N, C] float, of an image.
        targets: [M, C] float.
        bandwidth: h > 0 of eq. 3; with smaller values the nearest target takes more of the weight.

    Raises:
        ValueError: for a wrong shape or no features.
        InputError: the bandwidth is not positive.
    """
    check_shape("features", features, ("N", "C"))
    check_shape("targets", targets, ("M", features.shape[1]))
    check_range("bandwidth", bandwidth, 1e-6)
    if not len(features) or not len(targets):
        raise ValueError(f"contextual: expected features, got {len(features)} and {len(targets)} for the target")
    center = targets.mean(0)
    x, y = (F.normalize(each - center, dim=1, eps=_MIN_NORM) for each in (features, targets))
    parts = x.split(max(1, _DISTANCES // len(y)))
    best = [checkpoint(_best_matches, part, y, bandwidth, use_reentrant=False) for part in parts]
    return torch.stack(best).amax(0).mean()


def _best_matches(features: Tensor, targets: Tensor, bandwidth: float) -> Tensor:
    """The largest CX_ij [M] of these features for each target; all features are of unit length."""
    distances = (1 - features @ targets.T).clamp_min(0)  # rounding may go below
    relative = distances / (distances.amin(1, keepdim=True) + _EPSILON)
    return torch.softmax((1 - relative) / bandwidth, dim=1).amax(0)


def has_features(masks: Tensor, images: Tensor, features: FeatureMaps) -> Tensor:
    """Whether [B] every layer has a feature mostly inside the mask; masks [B, H, W, 1], images [B, H, W, 3]."""
    sizes = [maps.shape[1:3] for maps in features.maps(images[:1])]
    return torch.stack([(_shares(masks, *size) > _INSIDE).flatten(1).any(1) for size in sizes]).all(0)


def _shares(masks: Tensor, height: int, width: int) -> Tensor:
    """Fraction [B, height, width] of each feature's pixels that is inside the masks [B, H, W, 1]."""
    return F.adaptive_avg_pool2d(masks.float().permute(0, 3, 1, 2), (height, width))[:, 0]


def _inside(name: str, maps: Tensor, masks: Tensor | None) -> list[Tensor]:
    """The object's features [N, C] of each image, from maps [B, h, w, C]."""
    if masks is None:
        return list(maps.flatten(1, 2))
    check_shape(name, masks, (len(maps), "H", "W", 1))
    height, width = maps.shape[1:3]
    shares = _shares(masks, height, width)
    chosen = [each[share > _INSIDE] for each, share in zip(maps, shares, strict=True)]
    empty = [index for index, each in enumerate(chosen) if not len(each)]
    if empty:
        raise ValueError(f"{name}: no object in image {empty[0]}, or smaller than one of its {height}x{width} features")
    return chosen
