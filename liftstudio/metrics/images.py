"""Image quality per image: PSNR and SSIM. The caller composites images over white, as the benchmarks do."""

import torch
from torch import Tensor

from liftstudio.core.checks import check_shape

_WINDOW_RADIUS, _WINDOW_SIGMA = 5, 1.5  # pixels; Wang et al. 2004: an 11x11 Gaussian window


def psnr(image: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB for a peak of 1, over all pixels and channels; infinite for equal images.

    Args:
        image, target: [B, H, W, C] float in [0, 1].

    Raises:
        ValueError: for other or unequal shapes.
    """
    _check_pair(image, target)
    return -10.0 * torch.log10((image - target).square().mean(dim=(1, 2, 3)))


def masked_psnr(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB over the pixels inside a mask; NaN if the mask is empty.

    Args:
        image, target: [B, H, W, C] float in [0, 1].
        mask: [B, H, W, 1] float in [0, 1]; above 0.5 is inside.

    Raises:
        ValueError: for other or unequal shapes.
    """
    _check_pair(image, target)
    inside = mask > 0.5
    check_shape("mask", inside, (*image.shape[:3], 1))
    errors = (image - target).square().mean(dim=-1, keepdim=True) * inside
    return -10.0 * torch.log10(errors.sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3)))


def ssim(image: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Structural similarity [B] in [-1, 1], the mean over pixels and channels. Differentiable.

    Wang et al. 2004, eq. 13, with an 11x11 Gaussian window (sigma 1.5), K1 = 0.01, K2 = 0.03, and images mirrored at
    their borders. This is torchmetrics' default except for the data range, which torchmetrics takes from the images.

    Args:
        image, target: [B, H, W, C] float, H and W at least 6 (the mirrored border is 5 wide).
        data_range: largest minus smallest value that the images can have.

    Raises:
        ValueError: for other or unequal shapes, or smaller images.
    """
    _check_pair(image, target)
    if min(image.shape[1:3]) <= _WINDOW_RADIUS:
        raise ValueError(f"ssim: expected images of at least 6x6 pixels, got {list(image.shape[1:3])}")
    # A shift does not change variances; around zero they lose fewer digits.
    x, y = ((i - 0.5 * data_range).permute(0, 3, 1, 2) for i in (image, target))
    mean_x, mean_y, xx, yy, xy = _window_means(torch.stack([x, y, x * x, y * y, x * y])).unbind()
    variances = (xx - mean_x * mean_x).clamp_min(0) + (yy - mean_y * mean_y).clamp_min(0)
    covariance = xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5 * data_range, mean_y + 0.5 * data_range
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean(dim=(1, 2, 3))


def _window_means(planes: Tensor) -> Tensor:
    """Gaussian-weighted mean [..., H, W] around every pixel, as two matrix products: faster than a convolution."""
    rows, columns = (_window_matrix(size, planes) for size in planes.shape[-2:])
    flat = planes.flatten(0, -3)
    return torch.bmm(rows.expand(len(flat), -1, -1), flat @ columns.T).reshape(planes.shape)


def _window_matrix(size: int, like: Tensor) -> Tensor:
    """Window weights [size, size]: row i holds the weights of a mirrored line's samples in the mean around sample i."""
    offsets = torch.arange(-_WINDOW_RADIUS, _WINDOW_RADIUS + 1, device=like.device)
    weights = torch.softmax(-0.5 * (offsets / _WINDOW_SIGMA).square().to(like.dtype), dim=0)
    source = (torch.arange(size, device=like.device)[:, None] + offsets).abs()
    source = torch.where(source < size, source, 2 * (size - 1) - source)
    return like.new_zeros(size, size).scatter_add_(1, source, weights.expand(size, -1))


def _check_pair(image: Tensor, target: Tensor) -> None:
    check_shape("image", image, ("B", "H", "W", "C"))
    check_shape("target", target, image.shape)
