"""Marching tetrahedra, forward and backward, against a version that deduplicates crossed edges at every step."""

from collections.abc import Callable

import torch

from bench.timing import Case
from liftstudio.data.mesh import Mesh
from liftstudio.ops.marching_tetrahedra import TetGrid, marching_tetrahedra, reference, tet_grid

TARGET_RATIOS = {64: 12.0, 128: None}


def cases(device: torch.device) -> list[Case]:
    """Return one case: a bumpy sphere that fills about a tenth of the grid."""
    return [_case(resolution, target, device) for resolution, target in TARGET_RATIOS.items()]


def _case(resolution: int, target_ratio: float | None, device: torch.device) -> Case:
    grid = tet_grid(resolution).to(device)
    positions = grid.vertices.clone().requires_grad_()
    bumps = 0.02 * torch.sin(9 * grid.vertices).sum(-1)
    sdf = (grid.vertices.norm(dim=-1) - 0.6 + bumps).requires_grad_()

    def step(op: Callable[[torch.Tensor, torch.Tensor, TetGrid], Mesh]) -> None:
        loss = op(positions, sdf, grid).vertices.square().sum()
        torch.autograd.grad(loss, (positions, sdf))

    return Case(
        op="marching_tetrahedra",
        size=f"grid {resolution}, {len(grid.tets)} tets, f+b",
        fast=lambda: step(marching_tetrahedra),
        reference=lambda: step(reference.marching_tetrahedra),
        reference_name="torch.unique per step",
        target_ratio=target_ratio,
    )
