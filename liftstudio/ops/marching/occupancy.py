"""The occupancy grid: a running maximum of the density per cell, and the cells to march through.

The scheme is that of Instant-NGP (Mueller et al. 2022, appendix C).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

_CHUNK = 1 << 18  # points evaluated at a time, to bound memory


class OccupancyGrid(nn.Module):
    """Cells of a cubic grid over a box; its buffers are part of the model's state.

    density: [G, G, G] float32, indexed x, y, z: decaying maximum of the densities seen in each cell, per world unit.
    occupied: [G, G, G] bool; all True until the first update.

    A cell is occupied if one marching step at its density is at least as opaque as the smaller of `threshold` and the
    step's opacity at the grid's mean density. Without the mean, a field of low initial density would lose all cells.

    Args:
        resolution: G.
        step_size: length of a marching step, world units.
        threshold: opacity of one step, in [0, 1).
        decay: factor on the old density of a cell when it is updated, in [0, 1].
    """

    density: Tensor
    occupied: Tensor

    def __init__(self, resolution: int, step_size: float, threshold: float = 0.01, decay: float = 0.95) -> None:
        super().__init__()
        self.step_size, self.threshold, self.decay = step_size, threshold, decay
        self.register_buffer("density", torch.zeros(resolution, resolution, resolution))
        self.register_buffer("occupied", torch.ones(resolution, resolution, resolution, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self, density_fn: Callable[[Tensor], Tensor], generator: torch.Generator, aabb: Tensor, warm_up: bool
    ) -> float:
        """Evaluate the density at one random point in each of some cells and recompute which cells are occupied.

        Args:
            density_fn: [N, 3] points in world space -> [N, 1] densities per world unit, >= 0.
            generator: the source of all randomness.
            aabb: [2, 3] the grid's lower and upper corner in world space.
            warm_up: update every cell; otherwise a quarter of all cells, drawn uniformly, and about as many drawn
                from the occupied ones.

        Returns:
            The fraction of cells occupied, in [0, 1].
        """
        cells = self._cells(generator, warm_up)
        points = self._points_in(cells, generator, aabb)
        seen = torch.cat([density_fn(chunk).reshape(-1) for chunk in points.split(_CHUNK)]).to(self.density)
        density = self.density.view(-1)
        density[cells] = torch.maximum(self.decay * density[cells], seen)
        self.occupied.copy_(self._opacity(self.density) >= self._level())
        return float(self.occupied.float().mean())

    def _cells(self, generator: torch.Generator, warm_up: bool) -> Tensor:
        """Indices [N] int64 of the cells to update, unique, ascending."""
        occupied = self.occupied.view(-1)
        if warm_up:
            return torch.arange(occupied.numel(), device=occupied.device)
        among_occupied = 0.25 * occupied.numel() / occupied.sum().clamp(min=1)
        chance = torch.where(occupied, among_occupied.clamp(0.25, 1.0), 0.25)
        return (self._uniform(generator, occupied.numel()) < chance).nonzero().squeeze(1)

    def _points_in(self, cells: Tensor, generator: torch.Generator, aabb: Tensor) -> Tensor:
        """A uniformly random world-space point [N, 3] in each cell."""
        low, high = aabb.to(self.density)
        corner = torch.stack(torch.unravel_index(cells, self.density.shape), dim=1)
        return low + (high - low) * (corner + self._uniform(generator, len(cells), 3)) / len(self.density)

    def _uniform(self, generator: torch.Generator, *size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=generator.device).to(self.density.device)

    def _opacity(self, density: Tensor) -> Tensor:
        return -torch.expm1(-density * self.step_size)

    def _level(self) -> Tensor:
        # In float64 the mean of equal cells is exact, so that all of them are occupied.
        mean = self.density.double().mean().to(self.density.dtype)
        return self._opacity(mean).clamp(max=self.threshold)
