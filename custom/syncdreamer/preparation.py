"""Preprocessing of the input image as in SyncDreamer."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def framed(rgba: Tensor, size: int, crop: int) -> tuple[Tensor, Tensor]:
    """Frame an image with straight alpha: image [size, size, 3] over white and mask [size, size, 1], in [0, 1].

    This follows the official script, in 8 bits: the bounding box of non-transparent pixels, without its last row and
    column, is resized bicubically so that its longer side has `crop` pixels (sizes are rounded down), and centred.

    Args:
        rgba: [H, W, 4] float32 in [0, 1], not transparent everywhere.
        crop: pixels; 0: resize the whole image, padded to a square, instead.
    """
    picture = Image.fromarray((rgba * 255).round().to(torch.uint8).cpu().numpy())
    if crop:
        rows, columns = (np.flatnonzero((rgba[..., 3] > 0).any(axis).cpu().numpy()) for axis in (1, 0))
        left, top, right, bottom = (int(place) for place in (columns[0], rows[0], columns[-1], rows[-1]))
        picture = picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        scale = crop / max(picture.size)
        width, height = (max(int(scale * side), 1) for side in picture.size)
        picture = _centered(picture.resize((width, height), Image.Resampling.BICUBIC), size)
    else:
        picture = _centered(picture, max(picture.size)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(picture)).float() / 255
    rgb, mask = pixels.split([3, 1], dim=-1)
    return rgb * mask + 1 - mask, mask


def _centered(picture: Image.Image, size: int) -> Image.Image:
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return canvas
