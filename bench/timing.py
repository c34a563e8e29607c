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

    reference_name: short description of the reference. target_ratio: of reference time to fast time.
    """

    op: str
    size: str
    fast: Callable[[], object]
    reference: Callable[[], object]
    reference_name: str
    target_ratio: float | None = None


def timed(fn: Callable[[], T]) -> tuple[T, float]:
    """Call `fn`; return its result and wall time in seconds, synchronising the device before and after."""
    _synchronize()
    begin = time.perf_counter()
    made = fn()
    _synchronize()
    return made, time.perf_counter() - begin


def run_seconds(fn: Callable[[], object]) -> float:
    """Return only the wall time of `timed`, in seconds."""
    return timed(fn)[1]


def measure(fn: Callable[[], object], repeats: int = 5, warmups: int = 2) -> float:
    """Return the best wall time of `fn` in seconds, over `repeats` calls after `warmups` (compilation, caches)."""
    for _ in range(warmups):
        fn()
    return min(run_seconds(fn) for _ in range(repeats))


def measure_pair(case: Case, repeats: int = 7, warmups: int = 2) -> tuple[float, float]:
    """Return the best wall times (fast, reference) in seconds, interleaved so that noise affects both equally.

    An untimed run of the same kind precedes each timed one, so that neither runs with the caches filled by the other.
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
