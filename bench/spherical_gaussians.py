"""Irradiance of 24 lobes, forward and backward, against the published formula evaluated lobe by lobe."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing import Case
from liftstudio.ops.spherical_gaussians import COSINE_AMPLITUDE, COSINE_SHARPNESS, irradiance

LOBES = 24
NORMALS = 65536


def cases(device: torch.device) -> list[Case]:
    """Return one case with random normals and lobes."""
    generator = torch.Generator().manual_seed(0)
    normals, axes = (
        F.normalize(torch.randn(count, 3, generator=generator), dim=-1).to(device).requires_grad_()
        for count in (NORMALS, LOBES)
    )
    sharpness = torch.full((LOBES,), 8.0, device=device, requires_grad=True)
    amplitude = torch.full((LOBES,), 0.6, device=device, requires_grad=True)
    inputs = (normals, axes, sharpness, amplitude)

    def step(op: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> None:
        torch.autograd.grad(op(*inputs).square().sum(), inputs)

    return [
        Case(
            op="spherical_gaussians",
            size=f"{NORMALS} normals, {LOBES} lobes, f+b",
            fast=lambda: step(irradiance),
            reference=lambda: step(_one_by_one),
            reference_name="torch, lobe by lobe",
        )
    ]


def _one_by_one(normals: Tensor, axes: Tensor, sharpness: Tensor, amplitude: Tensor) -> Tensor:
    total = torch.zeros(len(normals), 1, device=normals.device)
    for axis, s, a in zip(axes, sharpness, amplitude, strict=True):
        d = (s * axis + COSINE_SHARPNESS * normals).norm(dim=-1, keepdim=True)
        product = torch.exp(d - s - COSINE_SHARPNESS) * (1 - torch.exp(-2 * d)) / d
        total = total + (2 * math.pi * a * COSINE_AMPLITUDE * product).clamp(min=0) / math.pi
    return total
