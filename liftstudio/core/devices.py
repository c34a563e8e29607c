"""Choice of the devices that a run uses."""

import contextlib
import contextvars
from collections.abc import Iterator

import torch

from liftstudio.core.errors import InputError

_planned: contextvars.ContextVar[str] = contextvars.ContextVar("planned", default="")


@contextlib.contextmanager
def planned_for(kind: str) -> Iterator[None]:
    """Let options whose default depends on the device be inside the block as on this kind: "cpu" or "cuda"."""
    token = _planned.set(kind)
    try:
        yield
    finally:
        _planned.reset(token)


def kind_of(device: torch.device) -> str:
    """Return the kind of device that such options depend on: that of the device, or of the plan that is made."""
    return _planned.get() or device.type


def first_device(device: str, gpus: list[int] | None) -> torch.device:
    """Return the run's first device, on which its reference views are generated.

    Raises:
        InputError: see `choose_devices`.
    """
    accelerator, devices = choose_devices(device, gpus)
    return torch.device(accelerator, devices[0]) if isinstance(devices, list) else torch.device(accelerator)


def choose_devices(device: str, gpus: list[int] | None) -> tuple[str, list[int] | int]:
    """Return the accelerator and the devices for Fabric.

    Raises:
        InputError: CUDA is requested but not available.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus or []:
        if gpu >= count:
            raise InputError(f"--gpu {gpu}: this machine has {count} CUDA devices (numbered from 0)")
    if gpus:
        return "cuda", gpus
    if device == "cuda" and not count:
        raise InputError("device: expected a CUDA device, but none is available; use device=cpu or device=auto")
    return ("cpu", 1) if device == "cpu" or not count else ("cuda", [0])
