"""Lifting of multi-view features, against grid_sample with the samples of all views in memory."""

from collections.abc import Callable

import torch

from bench.timing import Case
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.orbits import sine
from liftstudio.ops.backends import use_backend
from liftstudio.ops.lifting import lift
from liftstudio.priors.projections import projections

BATCH, CHANNELS, SIZE, GRID = 2, 16, 64, 32


def cases(device: torch.device) -> list[Case]:
    """Return cases as in the bundled prior: a training step with few views, and forward only for an orbit of 21."""
    return [_case(device, views=6, backward=True), _case(device, views=21, backward=False)]


def _case(device: torch.device, views: int, *, backward: bool) -> Case:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, views, SIZE, SIZE, CHANNELS, generator=generator).to(device)
    cameras = orbit_cameras(*sine(views, 10.0, 20.0), 3.6, 33.8, SIZE, SIZE)
    matrices = projections(cameras).expand(BATCH, -1, -1, -1).contiguous().to(device)
    points = (2 * torch.rand(GRID**3, 3, generator=generator) - 1).to(device)
    grad = torch.randn(BATCH, GRID**3, 2 * CHANNELS, generator=generator).to(device)
    features.requires_grad_(backward)

    def work() -> None:
        lifted = lift(features, matrices, points)
        if backward:
            torch.autograd.grad(lifted, features, grad)

    size = f"{BATCH} x {views} x {SIZE}^2 x {CHANNELS}, {GRID}^3 points"
    return Case(
        f"lifting {'f+b' if backward else 'forward'}", size, work, _on_reference(work), "grid_sample, then mean"
    )


def _on_reference(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with use_backend("reference"):
            work()

    return run
