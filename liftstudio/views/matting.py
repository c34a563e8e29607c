"""Cutting the object out of an opaque image with a network: rembg, the matting extra."""

import importlib.util

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liftstudio.core.errors import InputError

MODEL = "u2net"  # rembg's current default model is not free for every use
INSTALL = "install the matting extra: pip install 'rembg[cpu]'"


def installed() -> bool:
    return importlib.util.find_spec("rembg") is not None


def cut_out(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Return straight colour [H, W, 3] and alpha [H, W, 1] of an opaque image [H, W, 3], float32 in [0, 1].

    Raises:
        InputError: rembg's model cannot be downloaded, or its runtime is missing.
    """
    import rembg

    picture = Image.fromarray((rgb * 255).round().to(torch.uint8).numpy())
    try:
        cut = rembg.remove(picture, session=rembg.new_session(MODEL), alpha_matting=True)
    except Exception as error:  # its runtime raises many unrelated types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"rembg failed to cut it out ({reason})") from error
    rgba = torch.from_numpy(np.array(cut.convert("RGBA"))).float() / 255
    return rgba[..., :3], rgba[..., 3:]
