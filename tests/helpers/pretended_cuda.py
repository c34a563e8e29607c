"""CUDA tensors on a machine without CUDA: CPU tensors with a note of the device that they are said to be on.

Everything is computed on the CPU, and what CUDA refuses is refused: tensors of two devices in one operation, draws
from a generator of another device, `numpy()` of a CUDA tensor. So code for CUDA is checked for its devices, with real
values. Kernels, memory, and which operations exist on CUDA are not checked.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import warp as wp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from liftstudio.ops import backends, warp_runtime

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
_FROM_ANYWHERE = {"copy_", "__set__"}  # take values from any device
_INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}  # a CUDA tensor takes indices of the CPU
# A CPU tensor of no dimensions may stand beside CUDA tensors in these; names without underscores and without i and r.
_WITH_NUMBERS = {
    *("add", "sub", "mul", "div", "truediv", "floordiv", "pow", "eq", "ne", "lt", "le", "gt", "ge"),
    *("where", "minimum", "maximum", "fill", "masked_fill"),
}
_TO_ARRAYS = {"numpy", "__array__"}
_ABOUT_DEVICES = {"device", "_parse_to", "_has_compatible_shallow_copy_type"}  # compute nothing


def place_of(value: Tensor) -> torch.device | None:
    """Return the device that a tensor is said to be on; None if torch made it where it cannot be seen."""
    return value.__dict__.get("_place")


class Pretence(TorchFunctionMode):
    """Notes the device of every tensor that is made, and refuses what CUDA refuses."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__
        if name in _ABOUT_DEVICES:
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        first = place_of(tensors[0]) if tensors else None
        if name == "__get__" and first is not None:
            if func.__self__ is Tensor.device:
                return first
            if func.__self__ in (Tensor.is_cuda, Tensor.is_cpu):
                return func.__self__.__name__ == f"is_{first.type}"
        if name == "__set__":
            func(*args, **kwargs)
            args[0].__dict__["_place"] = place_of(args[1]) if isinstance(args[1], Tensor) else first
            return None
        if name in _TO_ARRAYS and first == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        asked = _asked(name, args, kwargs)
        place = asked or (first if name in _FROM_ANYWHERE | {"to"} else _common(name, tensors))
        generator = kwargs.get("generator")
        if generator is not None and place is not None and generator.device.type != place.type:
            raise RuntimeError(f"{name}: expected a generator of {place}, got one of {generator.device}")
        result = func(*tree_map(_without_cuda, args), **tree_map(_without_cuda, kwargs))
        return tree_map(lambda leaf: _noted(leaf, place, is_moved=asked is not None), result)


def _asked(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """Return the device that a call names, or the CPU if it makes a tensor from numbers."""
    if name in ("cuda", "cpu"):
        return CUDA if name == "cuda" else CPU
    named = [_device(leaf) for leaf in tree_leaves((args, kwargs))]
    for device in named:
        if device is not None:
            return CUDA if device.type == "cuda" else device
    if name in ("to", "type_as") and len(args) > 1 and isinstance(args[1], Tensor):
        return place_of(args[1])
    return None if any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))) else CPU


def _device(leaf: object) -> torch.device | None:
    if isinstance(leaf, str) and leaf.split(":")[0] in ("cpu", "cuda", "meta"):
        return torch.device(leaf)
    return leaf if isinstance(leaf, torch.device) else None


def _without_cuda(leaf: Any) -> Any:
    device = _device(leaf)
    return CPU if device is not None and device.type == "cuda" else leaf


def _common(name: str, tensors: list[Tensor]) -> torch.device | None:
    """Return the device of an operation's tensors.

    Raises:
        RuntimeError: they are on two devices, which CUDA refuses.
    """
    places = {place_of(tensor) for tensor in tensors} - {None}
    if len(places) < 2:
        return next(iter(places), None)
    if name in _INDEXING and place_of(tensors[0]) == CUDA:
        return CUDA
    plain = name.strip("_")
    takes_numbers = plain in _WITH_NUMBERS or plain[1:] in _WITH_NUMBERS
    if takes_numbers and all(tensor.dim() == 0 for tensor in tensors if place_of(tensor) == CPU):
        return CUDA
    raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {sorted(map(str, places))}")


def _noted(leaf: Any, place: torch.device | None, is_moved: bool) -> Any:
    """Note the place of a result; a tensor that `to` returned as it is becomes a copy, as between devices."""
    if not isinstance(leaf, Tensor) or place is None:
        return leaf
    before = place_of(leaf)
    if is_moved and before != place and (before is not None or place == CUDA) and leaf.device.type != "meta":
        leaf = leaf.clone()
    if is_moved or before is None:
        leaf.__dict__["_place"] = place
    return leaf


class _Generator(torch.Generator):
    """A generator of the CPU that is said to be of a device."""

    def __new__(cls, device: torch.device | str = "cpu") -> "_Generator":
        made = super().__new__(cls)
        made._place = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:
        return self._place


def _plain(tensor: Tensor) -> Tensor:
    """Return the same memory as a tensor that is not said to be anywhere."""
    made = tensor.detach()
    made.__dict__.pop("_place", None)
    return made


@contextmanager
def pretended_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Let the block make tensors on a CUDA device, with the backends of a machine where only Warp is installed."""
    make_parameter, to_warp, from_numpy = nn.Parameter.__new__, wp.from_torch, torch.from_numpy

    def parameter(cls: type, data: Tensor | None = None, requires_grad: bool = True) -> Any:
        made = make_parameter(cls, data, requires_grad)
        made.__dict__["_place"] = CPU if data is None else place_of(data)
        return made

    def launch(kernel: Any, dim: Any, *arguments: Any, device: torch.device) -> None:
        inputs = [wp.from_torch(a) if isinstance(a, Tensor) else a for a in arguments]
        wp.launch(kernel, dim=dim, inputs=inputs, device="cpu")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "from_numpy", lambda array: _noted(from_numpy(array), CPU, is_moved=False))
        patch.setattr(nn.Parameter, "__new__", parameter)
        patch.setattr(wp, "from_torch", lambda tensor, **options: to_warp(_plain(tensor), **options))
        patch.setattr(wp, "device_from_torch", lambda device: wp.get_device("cpu"))
        patch.setattr(warp_runtime, "launch", launch)
        for op in ("compositing", "hash_grid", "marching", "projection", "rasterization"):
            patch.setattr(f"liftstudio.ops.{op}.warp_kernels.launch", launch)
        patch.setattr(backends, "is_installed", lambda module: module == "warp")
        backends.choose.cache_clear()
        try:
            with Pretence():
                yield CUDA
        finally:
            backends.choose.cache_clear()
