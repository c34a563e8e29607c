"""Which devices a run uses."""

import torch

from liftstudio.core.errors import InputError


def first_device(device: str, gpus: list[int] | None) -> torch.device:
    """The run's first device, where its reference views are made.

    Raises:
        InputError: as `choose_devices`.
    """
    accelerator, devices = choose_devices(device, gpus)
    return torch.device(accelerator, devices[0]) if isinstance(devices, list) else torch.device(accelerator)


def choose_devices(device: str, gpus: list[int] | None) -> tuple[str, list[int] | int]:
    """Accelerator and devices for Fabric.

    Raises:
        InputError: CUDA is asked for and not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for gpu in gpus or []:
        if gpu >= count:
            raise InputError(f"--gpu {gpu}: this machine has {count} CUDA devices (numbered from 0)")
    if gpus:
        return "cuda", gpus
    if device == "cuda" and not count:
        raise InputError("device: cuda is asked for, but there is no CUDA device; use device=cpu or device=auto")
    return ("cpu", 1) if device == "cpu" or not count else ("cuda", [0])
