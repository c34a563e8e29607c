"""Choice of the implementation of each op on a device."""

import contextlib
import contextvars
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from liftstudio.core.errors import InputError

# op -> the optional CUDA library that is preferred if installed
CUDA_LIBRARIES = {
    "hash_grid": "tinycudann",
    "marching": None,
    "compositing": "nerfacc",
    "rasterization": "nvdiffrast",
    "interpolation": None,
    "edges": None,
    "antialiasing": None,
    "barrier_distance": None,
    "least_area": None,
    "lifting": None,
    "marching_tetrahedra": None,
    "projection": None,
    "spherical_gaussians": None,
}
WARP_ONLY = ("projection",)  # ops that need a hierarchy of bounding volumes
# Ops whose vectorised torch form is already fast: on every device, or on CUDA only.
TORCH_ONLY = ("spherical_gaussians",)
TORCH_ON_CUDA = (
    "interpolation", "edges", "antialiasing", "barrier_distance", "least_area", "lifting", "marching_tetrahedra",
)  # fmt: skip

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("forced_backend", default=None)


@dataclass(frozen=True)
class Choice:
    """The chosen backend ("reference", "numba", "warp" or a CUDA library's name), and why, in a line for `--doctor`."""

    backend: str
    reason: str


def is_installed(module: str) -> bool:
    """Whether `module` is installed; does not import it."""
    return importlib.util.find_spec(module) is not None


@functools.cache
def choose(op: str, device_type: str) -> Choice:
    """The implementation of `op` for float32 tensors on `device_type` ("cpu" or "cuda").

    Raises:
        InputError: on CUDA, if neither the op's library nor Warp is installed; there is no silent slow path.
    """
    if op in TORCH_ONLY:
        return Choice("reference", "vectorised torch is fast on every device")
    if op in WARP_ONLY and device_type in ("cpu", "cuda"):
        return Choice("warp", "by Warp's bounding volume hierarchy")
    if device_type == "cpu":
        return Choice("numba", "CPU tensors: compiled by numba, run on a thread pool")
    if device_type != "cuda":
        return Choice("reference", f"no kernels for device type '{device_type}': plain torch")
    if op in TORCH_ON_CUDA:
        return Choice("reference", "vectorised torch is fast on CUDA")
    library = CUDA_LIBRARIES[op]
    if library and is_installed(library):
        return Choice(library, f"{library} is installed")
    if is_installed("warp"):
        return Choice("warp", f"{library} not installed: built-in Warp kernel" if library else "built-in Warp kernel")
    needed = f"{library} or Warp" if library else "Warp"
    raise InputError(f"{op} on CUDA needs {needed}; install it with: pip install warp-lang")


def backend_for(op: str, tensor: Tensor) -> str:
    """The backend name for `op` on `tensor`; float64 always uses the reference, as only it supports that precision."""
    forced = _forced.get()
    if forced is not None:
        return forced
    return "reference" if tensor.dtype == torch.float64 else choose(op, tensor.device.type).backend


def fast_bfloat16(device_type: str) -> bool:
    """Whether this machine multiplies matrices faster in bfloat16 than in float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device_type == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every op inside the block on `backend`: for tests and benchmarks."""
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)
