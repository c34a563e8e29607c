"""Launches Warp kernels on torch tensors without copies. It imports Warp, so only `warp_kernels` modules import it."""

import logging
from typing import Any

import torch
import warp as wp
from torch import Tensor

# No banner and no compile messages: `quiet` is the switch of older Warp releases, `log_level` that of newer ones.
wp.config.quiet = True
wp.config.log_level = logging.WARNING
wp.init()  # required by `wp.from_torch`


def launch(kernel: Any, dim: int | tuple[int, ...], *arguments: Any, device: torch.device) -> None:
    """Run `kernel` over `dim` threads on `device`, on torch's current stream; contiguous tensors are not copied."""
    inputs = [wp.from_torch(a.detach()) if isinstance(a, Tensor) else a for a in arguments]
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    wp.launch(kernel, dim=dim, inputs=inputs, device=None if stream else "cpu", stream=stream)
