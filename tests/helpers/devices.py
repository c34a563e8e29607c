"""The device of the tests marked `cuda`, and random numbers that are the same on all devices."""

import os
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# `cpu` shows on a machine without CUDA that the tests themselves are right.
DEVICE = torch.device(os.environ.get("LIFTSTUDIO_TEST_DEVICE", "cuda"))


def has_device() -> bool:
    """Return whether this machine has the device."""
    return DEVICE.type == "cpu" or torch.cuda.is_available()


class SameDraws(TorchFunctionMode):
    """Draws on the CPU what a generator of another device is asked for, so that two devices can be compared.

    A generator's draws start from the seed it had at its first use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}  # the first is kept for its id

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None or generator.device.type == "cpu":
            return func(*args, **kwargs)
        twin = torch.Generator().manual_seed(generator.initial_seed())
        kwargs["generator"] = self.twins.setdefault(id(generator), (generator, twin))[1]
        kwargs.pop("device", None)
        if func.__name__.endswith("_"):
            filled = args[0] if args else kwargs.pop("tensor")
            return filled.copy_(func(torch.empty(filled.shape, dtype=filled.dtype), *args[1:], **kwargs))
        drawn = func(*(arg.cpu() if isinstance(arg, Tensor) else arg for arg in args), **kwargs)
        return drawn.to(generator.device)
