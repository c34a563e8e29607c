"""Checks at public interfaces: consistent options, tensors of the right shape. Internal code trusts both."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range

if TYPE_CHECKING:
    from torch import Tensor


def check_range(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Check that a value is in [least, most]: for arguments, and for ranges that depend on other options.

    Raises:
        InputError: it is not; contains the name, the range and the value.
    """
    Range(least, most).check(name, value)


def check_pair(name: str, pair: Sequence[float]) -> None:
    """Raise an InputError that names the option if the first of its two values is above the second."""
    if pair[0] > pair[1]:
        raise InputError(f"{name}: expected the lower value first, got {pair[0]:g}, {pair[1]:g}")


def check_shape(name: str, tensor: "Tensor", wanted: Sequence[int | str]) -> None:
    """Check that `tensor` has the shape `wanted`.

    `wanted` consists of sizes and names: `("N", 3)`. A name stands for any size, the same one each time it occurs;
    a leading `"..."` stands for any number of dimensions.

    Raises:
        ValueError: it has not; contains the tensor's name, the expected and the actual shape.
    """
    shape, sizes = list(tensor.shape), list(wanted)
    if sizes and sizes[0] == "...":
        sizes = sizes[1:]
        shape = shape[max(len(shape) - len(sizes), 0) :]
    bound: dict[str, int] = {}
    matches = len(shape) == len(sizes) and all(
        actual == (bound.setdefault(size, actual) if isinstance(size, str) else size)
        for actual, size in zip(shape, sizes, strict=True)
    )
    if not matches:
        raise ValueError(f"{name}: expected shape [{', '.join(map(str, wanted))}], got {list(tensor.shape)}")


def check_indices(name: str, indices: "Tensor", size: int, *, least: int = 0) -> None:
    """Check that all elements of the integer tensor `indices` are in [least, size), since kernels read memory by them.

    Raises:
        ValueError: they are not; contains the tensor's name, the expected and the actual range.
    """
    if indices.numel() == 0:
        return
    low, high = (int(end) for end in indices.aminmax())
    if low < least or high >= size:
        raise ValueError(f"{name}: expected indices from {least} to {size - 1}, got {low} to {high}")


def check_multiples(name: str, values: Sequence[int], factor: int) -> None:
    """Raise an InputError if there are no values, or one is not a positive multiple of `factor`."""
    if not values or any(value < factor or value % factor for value in values):
        raise InputError(f"{name}: expected multiples of {factor}, got {', '.join(map(str, values)) or 'none'}")
