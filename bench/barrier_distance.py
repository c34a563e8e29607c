"""Minimum barrier distance of an image against plain torch."""

from functools import partial

import torch

from bench.timing import Case
from liftstudio.ops.backends import use_backend
from liftstudio.ops.barrier_distance import barrier_distance

HEIGHT, WIDTH = 60, 80  # a quarter of the picture in which an object is looked for: the reference is slow


def cases(device: torch.device) -> list[Case]:
    """Return one case with random colours."""
    image = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)).to(device)

    def reference() -> torch.Tensor:
        with use_backend("reference"):
            return barrier_distance(image)

    return [
        Case(
            op="barrier_distance",
            size=f"{HEIGHT} x {WIDTH}, 3 channels",
            fast=partial(barrier_distance, image),
            reference=reference,
            reference_name="torch, pixel by pixel",
        )
    ]
