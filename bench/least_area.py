"""Least-area segmentation of a volume against plain torch."""

from functools import partial

import torch

from bench.timing import Case
from liftstudio.ops.backends import use_backend
from liftstudio.ops.least_area import least_area

SIZE, ITERATIONS = 64, 50


def cases(device: torch.device) -> list[Case]:
    """Return one case with random data."""
    data = torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(device)

    def reference() -> torch.Tensor:
        with use_backend("reference"):
            return least_area(data, ITERATIONS)

    return [
        Case(
            op="least_area",
            size=f"{SIZE}^3, {ITERATIONS} iterations",
            fast=partial(least_area, data, ITERATIONS),
            reference=reference,
            reference_name="torch vectorised",
        )
    ]
