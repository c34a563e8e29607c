"""Conditions of ImageDream besides the noisy latents: cameras, and the input image, prepared as in training."""

import torch
from PIL import Image
from torch import Tensor

from liftstudio.priors.latent_prior import clip_normalized

VIEWS = 4  # of an object, at right angles: the networks were trained on four at a time
# The networks are given no scale: they only know how much of a view an object fills. Officially its longest side is 1,
# in the middle of a world where half a view shows 0.6 to 0.75 (MVDream: 0.8 to 1); here it is 1.8.
WORLD_SCALE = 1.8


def camera_conditions(c2w: Tensor) -> Tensor:
    """Return camera conditions [B, 16] of camera-to-world matrices [B, 4, 4]: row by row, at distance 1 to the origin.

    The world axes are this project's: z up, the front of the object on +x. The azimuths of the official sampler start
    at -y instead: they are this project's plus 90 degrees.
    """
    conditions = c2w.clone()
    conditions[:, :3, 3] /= conditions[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    return conditions.flatten(1)


def over_grey(rgb: Tensor, alpha: Tensor, grey: float) -> Tensor:
    """Return straight colours [H, W, 3] with alpha [H, W, 1] composited over a grey: [H, W, 3], all in [0, 1].

    Quantised to 8 bits by truncation, in float32, as in the official code.
    """
    levels, share = (255 * rgb).round(), (255 * alpha).round() / 255
    return (levels * share + 255 * grey * (1 - share)).floor() / 255


def vae_pixels(image: Tensor, size: int) -> Tensor:
    """Return an image [R, R, 3] in [0, 1] as [size, size, 3] in [-1, 1] for the autoencoder; resized in 8 bits."""
    return 2 * _resized(image, size, Image.Resampling.BILINEAR) - 1


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """Return an image [R, R, 3] in [0, 1] as [1, 3, size, size] for the image tower; resized in 8 bits, normalised."""
    return clip_normalized(_resized(image, size, Image.Resampling.BICUBIC).permute(2, 0, 1)[None])


def _resized(image: Tensor, size: int, method: Image.Resampling) -> Tensor:
    picture = Image.fromarray((255 * image).round().to(torch.uint8).cpu().numpy())
    resized = torch.frombuffer(bytearray(picture.resize((size, size), method).tobytes()), dtype=torch.uint8)
    return resized.view(size, size, 3).to(image.device) / 255
