"""Compositing, forward and backward, of the samples that `bench.marching` finds."""

from functools import partial

import torch

from bench.marching import STEP_SIZE, shell_scene
from bench.timing import Case
from liftstudio.ops.backends import use_backend
from liftstudio.ops.compositing import composite
from liftstudio.ops.marching import march


def cases(device: torch.device) -> list[Case]:
    """Return cases of colours, opacity and depth, without and with distortion, against `cumsum` and `index_add`."""
    samples = march(*shell_scene(device), STEP_SIZE)
    rays, count = len(samples.offsets) - 1, len(samples.t_start)
    sigma = (20 * torch.rand(count, device=device)).requires_grad_()
    values = torch.rand(count, 3, device=device).requires_grad_()
    target = torch.rand(rays, 5, device=device)

    def step(distortion: bool) -> None:
        result = composite(sigma, values, samples, distortion)
        loss = (target * torch.cat([result.values, result.opacity, result.depth], dim=1)).sum()
        if result.distortion is not None:
            loss = loss + result.distortion.sum()
        torch.autograd.grad(loss, (sigma, values))

    def reference(distortion: bool) -> None:
        with use_backend("reference"):
            step(distortion)

    return [
        Case(
            "compositing" + (" + distortion" if distortion else ""),
            f"{rays} rays, {count} samples, f+b",
            partial(step, distortion),
            partial(reference, distortion),
            "cumsum + index_add",
            target_ratio=4.0,
        )
        for distortion in (False, True)
    ]
