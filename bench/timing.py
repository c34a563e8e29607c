"""Timing of a fast implementation against its plain-PyTorch reference, in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class Case:
    """One row of the table: `fast` and `reference` do the same work on the same data.

    reference_name says in a few words what it is compared with; target_ratio is reference time over fast time.
    """

    op: str
    size: str
    fast: Callable[[], object]
    reference: Callable[[], object]
    reference_name: str
    target_ratio: float | None = None


def timed(fn: Callable[[], T]) -> tuple[T, float]:
    """What one call returns, and its wall seconds, the device's queue drained before and after."""
    _synchronize()
    begin = time.perf_counter()
    made = fn()
    _synchronize()
    return made, time.perf_counter() - begin


def run_seconds(fn: Callable[[], object]) -> float:
    """The wall seconds of `timed` alone."""
    return timed(fn)[1]


def measure(fn: Callable[[], object], repeats: int = 5, warmups: int = 2) -> float:
    """Best wall seconds of `fn` over `repeats` calls after `warmups` (compilation, caches)."""
    for _ in range(warmups):
        fn()
    return min(run_seconds(fn) for _ in range(repeats))


def measure_pair(case: Case, repeats: int = 7, warmups: int = 2) -> tuple[float, float]:
    """Best wall seconds of (fast, reference), their runs interleaved so that noise hits both alike.

    Before each timed run comes an untimed one of the same kind: neither is timed with the other's data in the caches.
    """
    for _ in range(warmups):
        case.fast()
        case.reference()
    rounds = [(_warm_seconds(case.fast), _warm_seconds(case.reference)) for _ in range(repeats)]
    return min(fast for fast, _ in rounds), min(reference for _, reference in rounds)


def _warm_seconds(fn: Callable[[], object]) -> float:
    fn()
    return run_seconds(fn)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
