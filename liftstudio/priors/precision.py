"""The precision that a prior's network computes in."""

import torch
from torch import nn

from liftstudio.core.devices import kind_of
from liftstudio.ops.backends import fast_bfloat16

LARGE = 100_000_000  # weights of a network from which on float32 takes too much memory and time on a CPU

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that an option names; "auto": bfloat16 where it is faster than float32."""
    if precision == "auto":
        return torch.bfloat16 if fast_bfloat16(device.type) else torch.float32
    return _DTYPES[precision]


def network_dtype(precision: str, device: torch.device, network: nn.Module) -> torch.dtype:
    """Return the dtype that an option names, for a network as it was published, often in half precision.

    "auto": float16 on CUDA; on a CPU bfloat16 if the network is large and the CPU is fast in it, else float32.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if kind_of(device) == "cuda":
        return torch.float16
    is_large = sum(weight.numel() for weight in network.parameters()) >= LARGE
    return compute_dtype("auto", device) if is_large else torch.float32
