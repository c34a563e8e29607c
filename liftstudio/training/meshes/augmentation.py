"""Image augmentation: colours vary jointly in input and views; only the input is slightly blurred and noisy."""

import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from kornia.filters import gaussian_blur2d
from torch import Tensor

from liftstudio.data.images import straight_from_white
from liftstudio.synthetic.draws import Draws

_RECOLORED, _NOISY, _BLURRED = 0.4, 0.3, 0.3  # shares of objects


def augmented(input_image: Tensor, views: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return an augmented input image [R, R, 4] and views [V, R, R, 4] (rgb over white, and alpha, in [0, 1]).

    All images get the same colour change, so that the input still determines the colours of the views. Only the input
    gets blur and noise.
    """
    draws = Draws(generator)
    over, alpha = torch.cat([input_image[None], views]).split([3, 1], dim=-1)
    color, alpha = (image.permute(0, 3, 1, 2) for image in (straight_from_white(over, alpha), alpha))
    if draws.chance(_RECOLORED):
        color = _recolored(color, draws)
    first = color[:1]
    if draws.chance(_NOISY):
        deviation = draws.uniform(0, 0.03)
        first = (first + deviation * torch.randn(first.shape, generator=generator)).clamp(0, 1)
    layers = torch.cat([torch.cat([first, color[1:]]) * alpha, alpha], dim=1)
    if draws.chance(_BLURRED):
        sigma = draws.uniform(0.3, 0.7)
        layers = torch.cat([gaussian_blur2d(layers[:1], (5, 5), (sigma, sigma)), layers[1:]])
    premultiplied, alpha = layers.split([3, 1], dim=1)
    varied = torch.cat([premultiplied + 1 - alpha, alpha], dim=1).permute(0, 2, 3, 1).contiguous()
    return varied[0], varied[1:]


def _recolored(color: Tensor, draws: Draws) -> Tensor:
    color = adjust_brightness(color, draws.uniform(-0.1, 0.1))
    color = adjust_contrast(color, draws.uniform(0.8, 1.2))
    color = adjust_saturation(color, draws.uniform(0.7, 1.3))
    return adjust_hue(color, draws.uniform(-0.15, 0.15))
