"""Every Warp kernel is compiled to PTX for NVIDIA GPUs by Warp's ahead-of-time interface; none is needed for it."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import warp as wp

from liftstudio import ops

KERNELS = sorted(Path(path).parent.name for root in ops.__path__ for path in Path(root).glob("*/warp_kernels.py"))
ARCHITECTURES = (75, 80, 89, 90)  # Turing, Ampere, Ada and Hopper


def modules_of(name: str) -> list[Any]:
    """Return the Warp modules of an op, with what each holds: kernels that are made per width, those of width 2."""
    kernels = importlib.import_module(f"liftstudio.ops.{name}.warp_kernels")
    if hasattr(kernels, "_kernels"):
        return [each.module for each in vars(kernels._kernels(2)).values() if isinstance(each, wp.Kernel)]
    return [wp.get_module(kernels.__name__)]


def test_all_kernels_are_found() -> None:
    assert {"compositing", "hash_grid", "marching", "projection", "rasterization"} <= set(KERNELS)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_compiled(name: str, arch: int, tmp_path: Path) -> None:
    for number, module in enumerate(modules_of(name)):
        folder = tmp_path / str(number)
        wp.compile_aot_module(module, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        assert module.kernels and all(f".entry {key}" in text for key in module.kernels)
