"""Memory of a run: how much it used, and which options to lower when there is not enough."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from liftstudio.core.config import to_plain


class OutOfMemoryError(MemoryError):
    """The device or the machine is out of memory; the message says what to lower."""


@contextlib.contextmanager
def memory_advice(config: Any, key: str) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into one that says which options to lower.

    Raises:
        OutOfMemoryError: names the options under the dotted `key` that determine memory use.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        plain = to_plain(config)
        options = memory_options(plain, key) or memory_options(plain, key.partition(".")[0])
        raise OutOfMemoryError(f"out of memory in {key}; lower one of: {', '.join(options)}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is one of the many forms of a failed allocation."""
    texts = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(t in str(error).lower() for t in texts)


def memory_options(plain: dict[str, Any], key: str) -> list[str]:
    """Return `dotted.key=value` of the integers under `key` whose names suggest that they determine memory use."""
    node: Any = plain
    for part in key.split("."):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    words = ("resolution", "rays", "batch", "samples", "size", "frames", "faces", "height", "width")
    found = []
    for name, value in node.items() if isinstance(node, dict) else []:
        if isinstance(value, dict):
            found += memory_options(plain, f"{key}.{name}")
        elif isinstance(value, int) and value > 1 and any(word in name for word in words):
            found.append(f"{key}.{name}={value}")
    return found


def check_growth(growth: float, device: torch.device, advice: str) -> None:
    """Raise if a step would not fit into memory whose activations are `growth` times those of the steps before.

    The estimate scales all memory that this process has used so far, which is simple and conservative.

    Raises:
        OutOfMemoryError: ends with `advice`, which says what to lower.
    """
    if device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(device))
        available = float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)) - used
    else:
        used = memory_high_water_gb().get("memory_gb", 0.0) * 1e9
        available = available_memory_bytes()
    if used * growth > available + used:
        raise OutOfMemoryError(
            f"not enough memory for the next step: it needs about {used * growth / 1e9:.1f} GB, "
            f"{(available + used) / 1e9:.1f} GB are available; {advice}"
        )


def available_memory_bytes() -> float:
    """Return the bytes of memory available to new work on this machine; infinite where the system does not say."""
    with contextlib.suppress(OSError):  # Linux only
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return math.inf


def total_memory_gb() -> float | None:
    """Return the machine's memory in units of 1e9 bytes; None where the system does not say."""
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not on Windows
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return None


def memory_high_water_gb() -> dict[str, float]:
    """Return the peak memory of this process in units of 1e9 bytes, and that of the GPU where one is used."""
    used = {}
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        used["memory_gb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)
    if torch.cuda.is_initialized():
        used["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 3)
    return used
