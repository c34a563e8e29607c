"""Launches Warp kernels on torch tensors without copies. Imports Warp, so only modules of kernels import it."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import warp as wp
from torch import Tensor


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what the process, native code too, writes to standard error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


# No banner and no compile messages: `quiet` is the switch of older Warp releases, `log_level` that of newer ones.
wp.config.quiet = True
wp.config.log_level = logging.WARNING
# Without a CUDA driver Warp's library warns of it on standard error, whatever the log level.
with contextlib.nullcontext() if torch.cuda.is_available() else _silent_stderr():
    wp.init()  # required by `wp.from_torch`


def launch(kernel: Any, dim: int | tuple[int, ...], *arguments: Any, device: torch.device) -> None:
    """Run `kernel` over `dim` threads on `device`, on torch's current stream; contiguous tensors are not copied."""
    inputs = [wp.from_torch(a.detach()) if isinstance(a, Tensor) else a for a in arguments]
    stream = wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None
    wp.launch(kernel, dim=dim, inputs=inputs, device=None if stream else "cpu", stream=stream)
