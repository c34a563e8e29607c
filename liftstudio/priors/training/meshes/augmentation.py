"""Pictures as they come: other colours, the same in prompt and views; the prompt a little blurred and noisy."""

import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from kornia.filters import gaussian_blur2d
from torch import Tensor

_RECOLORED, _NOISY, _BLURRED = 0.4, 0.3, 0.3  # shares of objects


def augmented(prompt: Tensor, views: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A prompt [R, R, 4] and views [V, R, R, 4] (rgb over white, and alpha, in [0, 1]) of one object, varied.

    Colours change alike in all, so that the prompt still tells those of the views; blur and noise are the prompt's.
    """
    draws = torch.rand(9, generator=generator).tolist()
    images = torch.cat([prompt[None], views]).permute(0, 3, 1, 2)
    over, alpha = images.split([3, 1], dim=1)
    color = ((over - (1 - alpha)) / alpha.clamp_min(1e-3)).clamp(0, 1)
    if draws[8] < _RECOLORED:
        color = _recolored(color, draws)
    first = color[:1]
    if draws[4] < _NOISY:
        first = (first + 0.03 * draws[5] * torch.randn(first.shape, generator=generator)).clamp(0, 1)
    layers = torch.cat([torch.cat([first, color[1:]]) * alpha, alpha], dim=1)
    if draws[6] < _BLURRED:
        sigma = 0.3 + 0.4 * draws[7]
        layers = torch.cat([gaussian_blur2d(layers[:1], (5, 5), (sigma, sigma)), layers[1:]])
    premultiplied, alpha = layers.split([3, 1], dim=1)
    varied = torch.cat([premultiplied + 1 - alpha, alpha], dim=1).permute(0, 2, 3, 1).contiguous()
    return varied[0], varied[1:]


def _recolored(color: Tensor, draws: list[float]) -> Tensor:
    color = adjust_brightness(color, 0.2 * draws[0] - 0.1)
    color = adjust_contrast(color, 0.8 + 0.4 * draws[1])
    color = adjust_saturation(color, 0.7 + 0.6 * draws[2])
    return adjust_hue(color, 0.3 * draws[3] - 0.15)
