"""The precision that a prior's network computes in."""

import torch

from liftstudio.core.devices import kind_of
from liftstudio.ops.backends import fast_bfloat16

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that an option names; "auto": bfloat16 where it is faster than float32."""
    if precision == "auto":
        return torch.bfloat16 if fast_bfloat16(device.type) else torch.float32
    return _DTYPES[precision]


def half_on_cuda(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that an option names; "auto": float16 on CUDA, for large networks that were published in it."""
    if precision == "auto":
        return torch.float16 if kind_of(device) == "cuda" else torch.float32
    return _DTYPES[precision]
