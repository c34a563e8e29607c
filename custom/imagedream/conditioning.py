"""What ImageDream is told besides the noisy latents: cameras, and the picture as its networks were shown pictures."""

import torch
from PIL import Image
from torch import Tensor

from liftstudio.priors.latent_prior import clip_normalized

VIEWS = 4  # of an object, at right angles: the networks were trained on so many together
# The networks are told no scale: what they know is how much of a view an object takes. Officially its longest side is
# 1 in the middle of a world where half a view shows 0.6 to 0.75 (MVDream: 0.8 to 1); here it is 1.8.
WORLD_SCALE = 1.8


def camera_conditions(c2w: Tensor) -> Tensor:
    """[B, 16] conditions of camera-to-world matrices [B, 4, 4]: row by row, the distance to the origin made 1.

    The networks' world is this project's: z up, the front of the object on +x. The official sampler's azimuths start at
    -y instead: its azimuth is this project's plus 90 degrees.
    """
    conditions = c2w.clone()
    conditions[:, :3, 3] /= conditions[:, :3, 3].norm(dim=-1, keepdim=True) + 1e-8
    return conditions.flatten(1)


def over_grey(rgb: Tensor, alpha: Tensor, grey: float) -> Tensor:
    """[H, W, 3] in [0, 1] of straight colours [H, W, 3] with alpha [H, W, 1] over a grey, 0 to 1.

    In 8 bits, fractions cut off, as officially in float32.
    """
    levels, share = (255 * rgb).round(), (255 * alpha).round() / 255
    return (levels * share + 255 * grey * (1 - share)).floor() / 255


def vae_pixels(image: Tensor, size: int) -> Tensor:
    """[size, size, 3] in [-1, 1] for the autoencoder, of an image [R, R, 3] in [0, 1]; resized in 8 bits."""
    return 2 * _resized(image, size, Image.Resampling.BILINEAR) - 1


def clip_pixels(image: Tensor, size: int) -> Tensor:
    """[1, 3, size, size] for the image tower, of an image [R, R, 3] in [0, 1]; resized in 8 bits and normalised."""
    return clip_normalized(_resized(image, size, Image.Resampling.BICUBIC).permute(2, 0, 1)[None])


def _resized(image: Tensor, size: int, method: Image.Resampling) -> Tensor:
    picture = Image.fromarray((255 * image).round().to(torch.uint8).cpu().numpy())
    resized = torch.frombuffer(bytearray(picture.resize((size, size), method).tobytes()), dtype=torch.uint8)
    return resized.view(size, size, 3).to(image.device) / 255
