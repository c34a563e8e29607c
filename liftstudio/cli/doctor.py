"""`--doctor`: a report on machine, packages, the backend of each kernel, and extensions."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator

import torch

from liftstudio import __version__
from liftstudio.core import registry
from liftstudio.core.errors import InputError
from liftstudio.core.memory import total_memory_gb
from liftstudio.ops.backends import CUDA_LIBRARIES, choose, is_installed

PACKAGES = ("torch", "numpy", "numba", "warp-lang", "lightning-fabric", "scipy", "trimesh", "xatlas", "omegaconf")


def report() -> str:
    """Return the report as text."""
    sections = {
        "machine": _machine(),
        "packages": _packages(),
        "optional CUDA libraries": _optional(),
        "kernels on the CPU": _kernels("cpu"),
        "kernels on CUDA": _kernels("cuda") if torch.cuda.is_available() else iter(["no CUDA device"]),
        "methods": (f"{name}: {place}" for name, place in registry.declared_methods.items()),
        "extensions": _extensions(),
    }
    return "\n".join(f"{title}\n" + "".join(f"    {line}\n" for line in lines) for title, lines in sections.items())


def _machine() -> Iterator[str]:
    yield f"{platform.platform()}, {platform.machine()}"
    yield f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads for torch and for our kernels"
    memory = total_memory_gb()
    yield f"{memory:.1f} GB of memory" if memory else "memory: unknown"
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}  {device.name}, {device.total_memory / 1e9:.1f} GB"


def _packages() -> Iterator[str]:
    yield f"liftstudio {__version__}"
    yield f"python {sys.version.split()[0]}"
    for package in PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{package} is not installed"


def _optional() -> Iterator[str]:
    for library in sorted({library for library in CUDA_LIBRARIES.values() if library}):
        yield f"{library}: {'installed' if is_installed(library) else 'not installed'}"


def _kernels(device_type: str) -> Iterator[str]:
    for op in CUDA_LIBRARIES:
        try:
            choice = choose(op, device_type)
            yield f"{op}: {choice.backend}  ({choice.reason})"
        except InputError as error:
            yield f"{op}: none  ({error})"


def _extensions() -> Iterator[str]:
    for name, place in registry.loaded_extensions().items():
        yield f"{name}: loaded from {place}"
    for name, trace in registry.extension_failures.items():
        yield f"{name}: failed"
        yield from (f"    {line}" for line in trace.strip().splitlines())
    if not registry.loaded_extensions() and not registry.extension_failures:
        yield "none in ./custom/"
