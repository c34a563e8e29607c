"""Memory of a run: how much it used, and which options to lower when there is not enough."""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from liftstudio.core.config import ExportOnly, to_plain
from liftstudio.core.logs import log
from liftstudio.core.shares import Share

T = TypeVar("T")


class OutOfMemoryError(MemoryError):
    """The device or the machine is out of memory; the message says what to lower."""


@dataclass(frozen=True)
class Cost:
    """Rough memory that an option takes where all others have usual values: `bytes * value ** power`.

    zero:   the value that 0 stands for, if any.
    is_log: the option is a logarithm to the base 2; the memory is `bytes * 2 ** value`.
    """

    bytes: float
    power: int = 1
    zero: int = 0
    is_log: bool = False

    def __call__(self, value: int) -> float:
        return self.bytes * (2.0**value if self.is_log else float(value) ** self.power)


# By the end of the dotted key. A ray of a volume takes about 64 kB with gradients, a pixel of a surface 2 kB.
COSTS = {
    "volume.resolution": Cost(4 * 64e3, 2, zero=256),
    "surface.resolution": Cost(4 * 2e3, 2, zero=256),
    "volume.views_per_step": Cost(64**2 * 64e3),
    "surface.views_per_step": Cost(256**2 * 2e3),
    "samples_across": Cost(4 * 64**2 * 500),
    "grid_resolution": Cost(600, 3),
    "eval_rays": Cost(20e3),
    "encoder_chunk": Cost(200e6, zero=3),
    "chunk": Cost(200e6, zero=8),
    "geometry.resolution": Cost(200, 3),
    "surface_resolution": Cost(100, 3),
    "log2_table_size": Cost(16 * 2 * 16, is_log=True),
    "features_per_level": Cost(16 * 2**15 * 16),
    "texture_size": Cost(100, 2),
    "target_faces": Cost(500),
    "export.faces": Cost(500),
    "views.resolution": Cost(20e3, 2),
    "views.max_size": Cost(1e3, 2, zero=4096),
    "test.size": Cost(3e3, 2),
    "frames": Cost(256**2 * 20),
    "hidden": Cost(1e6),
}
OTHERS = Cost(1)  # of options whose names only sound as if they took memory
SOUNDS = ("resolution", "rays", "batch", "samples", "size", "frames", "faces", "height", "width")
MUCH = 0.3  # share of the largest cost from which an option is named, too


@contextlib.contextmanager
def memory_advice(config: Any, *keys: str, side: int = 0) -> Iterator[None]:
    """Turn an out-of-memory error inside the block into one that says which options to lower.

    keys: dotted keys of the blocks of options that determine the memory; the first one names the phase of the run.
    side: pixels along the longer side of the reference views, which renders have where `resolution` is 0; 0: unknown.

    Raises:
        OutOfMemoryError: names the option whose value takes most of the memory, and others that take nearly as much.
    """
    try:
        yield
    except OutOfMemoryError:  # has its own advice
        raise
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        plain = to_plain(config, without=None if keys[0] == "export" else ExportOnly)
        advice = [line for key in keys for line in memory_options(plain, key, side)]
        advice = advice or memory_options(plain, keys[0].partition(".")[0], side)  # of a system without such a block
        shown = [text for cost, text in sorted(advice, reverse=True) if cost >= MUCH * max(advice)[0]]
        tried = f"; try {' or '.join(shown)}" if shown else ""
        raise OutOfMemoryError(f"out of memory in {keys[0]}{tried}") from error


class Chunks:
    """Work on a few frames at a time; if memory runs out, on half as many from then on.

    size: frames at a time. option: name of the option that sets it, for the warning.
    """

    def __init__(self, size: int, option: str) -> None:
        self.size, self.option = size, option

    def map(self, work: Callable[..., T], *frames: Tensor) -> list[T]:
        """Return `work(*chunk)` for all chunks of tensors that have the same length; `work` may be repeated."""
        done: list[T] = []
        begin = 0
        while begin < len(frames[0]):
            chunk = [each[begin : begin + self.size] for each in frames]
            try:
                done.append(work(*chunk))
                begin += self.size
            except (MemoryError, RuntimeError) as error:
                if self.size == 1 or not is_out_of_memory(error):
                    raise
                self.size //= 2
                log.warning("out of memory; going on with %s=%d", self.option, self.size)
        return done


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is one of the many forms of a failed allocation."""
    texts = ("out of memory", "allocate memory", "not enough memory", "failed to allocate", "bad_alloc", "alloc_failed")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(t in str(error).lower() for t in texts)


def memory_options(plain: dict[str, Any], key: str, side: int = 0) -> list[tuple[float, str]]:
    """Return cost in bytes and advice ("key=lower value (now value)") of the options under `key` that take memory."""
    node: Any = plain
    for part in key.split("."):
        node = node.get(part, {}) if isinstance(node, dict) else {}
    return list(_options(node, key, "surface", side)) if isinstance(node, dict) else []


def _options(node: dict[str, Any], key: str, rendered: str, side: int) -> Iterator[tuple[float, str]]:
    """Yield as `memory_options`; `rendered`: what the renderer of the block's stage renders, a volume or a surface."""
    if isinstance(renderer := node.get("renderer"), dict):
        rendered = "volume" if "samples_across" in renderer else "surface"
    for name, value in node.items():
        place = f"{key}.{name}"
        if isinstance(value, dict):
            yield from _options(value, place, rendered, side)
        elif cost := _cost(place, rendered, side):
            yield from _advice(place, value, cost, side)


def _cost(place: str, rendered: str, side: int) -> Cost | None:
    """Return the cost of an option by its dotted key; None if it takes no memory."""
    *before, name = place.split(".")
    is_render = "guidance" in before[-2:]
    scope = rendered if is_render else before[-1]
    cost = COSTS.get(f"{scope}.{name}") or COSTS.get(name)
    if cost is None:
        return OTHERS if any(word in name for word in SOUNDS) else None
    return replace(cost, zero=side) if is_render and side and cost.zero else cost


def _advice(place: str, value: Any, cost: Cost, side: int) -> Iterator[tuple[float, str]]:
    given = value if isinstance(value, list) else [value]
    values = [share.of(side) if (share := Share.parse(each)) else each for each in given]
    if not values or not all(isinstance(each, int) and not isinstance(each, bool) for each in values):
        return
    meant = [each or cost.zero for each in values]
    most = max(meant)
    if most <= 1:
        return
    lower = [min(each, most - 1 if cost.is_log else most // 2) for each in meant]
    text = f"{place}={lower if isinstance(value, list) else lower[0]} (now {value})"
    yield cost(most), text.replace(", ", ",")


def check_growth(growth: float, advice: str) -> None:
    """Raise if a step on the CPU would not fit into memory whose activations are `growth` times those before.

    The system kills a process that takes too much, so it is stopped before. The estimate scales all memory that this
    process has used so far, which is simple and conservative.

    Raises:
        OutOfMemoryError: ends with `advice`, which says what to lower.
    """
    used = memory_high_water_gb().get("memory_gb", 0.0) * 1e9
    available = available_memory_bytes() + used
    if used * growth > available:
        raise OutOfMemoryError(
            f"not enough memory for the next step: it needs about {used * growth / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are available; {advice}"
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
