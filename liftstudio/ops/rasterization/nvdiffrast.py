"""Rasterisation by nvdiffrast (>= 0.3.3) on CUDA."""

import functools

import nvdiffrast.torch as dr
import torch
from torch import Tensor


@functools.cache
def _context(device: torch.device) -> object:
    return dr.RasterizeCudaContext(device=device)


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """See `reference.rasterize`. nvdiffrast's row 0 is at the bottom, and it returns the face plus one as a float."""
    pixels, _ = dr.rasterize(_context(clip.device), clip.contiguous(), faces.int(), (height, width), grad_db=False)
    return pixels[..., 3].flip(1).int() - 1
