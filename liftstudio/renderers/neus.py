"""Volume rendering of a signed distance field (NeuS)."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.geometry.base import Geometry
from liftstudio.ops.compositing.reference import sum_before
from liftstudio.ops.marching import Samples, march
from liftstudio.ops.marching.occupancy import OccupancyGrid
from liftstudio.renderers.base import SamplesAcross
from liftstudio.renderers.scene import Scene
from liftstudio.renderers.volume import VolumeRenderer

NEGLIGIBLE = 1e-3  # opacity or transmittance below which samples are skipped
ANNEALING = Schedule(((0.0, 0.0), (200.0, 1.0)))


@register("neus")
class NeusRenderer(VolumeRenderer):
    """Marches rays through the cells near the surface; weights from the signed distance peak at the surface (NeuS)."""

    @dataclass
    class Config(VolumeRenderer.Config):
        samples_across: SamplesAcross = 128  # samples along the side of the object's box; sets the step size
        pieces: Annotated[int, Range(1, 64)] = 2  # that a step near the surface is split into, once s is large enough
        cosine_annealing: Annotated[Schedule, Range(0, 1)] = ANNEALING  # 0: all directions slightly opaque; 1: exact

    config: Config
    cosine_annealing: Tensor

    def __init__(self, config: Config, *, box: Tensor) -> None:
        super().__init__(config, box=box)
        # The density bound of a cell depends only on its centre, so old values need not be kept: no decay.
        self.occupancy = OccupancyGrid(config.grid_resolution, self.step_size, NEGLIGIBLE, decay=0.0).to(box.device)
        self.register_buffer("cosine_annealing", torch.tensor(config.cosine_annealing(0), device=box.device))

    @torch.no_grad()
    def update(self, scene: Scene, step: int, generator: torch.Generator) -> None:
        """Apply the annealing; refresh the occupancy grid every `update_every` steps, all of it during the warm-up."""
        self.cosine_annealing.fill_(self.config.cosine_annealing(step))
        if step % self.config.update_every == 0:
            self.occupancy.update(
                lambda points: self._density_in_cell(scene.geometry, points),
                generator,
                scene.geometry.box,
                warm_up=step < self.config.warm_up,
            )

    def _density_in_cell(self, geometry: Geometry, points: Tensor) -> Tensor:
        """Upper bound [N, 1] of the logistic density of the distance in the cells that contain points [N, 3]."""
        cell = (geometry.box[1] - geometry.box[0]) / self.config.grid_resolution
        middles = geometry.box[0] + (((points - geometry.box[0]) / cell).floor() + 0.5) * cell
        distance, sharpness = geometry.signed_distance(middles), geometry.sharpness()
        nearest = sharpness * (distance.abs() - 0.5 * cell.norm()).clamp_min(0)
        return sharpness * torch.sigmoid(nearest) * torch.sigmoid(-nearest)

    def _sample(
        self, scene: Scene, origins: Tensor, directions: Tensor, jitter: Tensor | None
    ) -> tuple[Samples, Tensor, Tensor, Tensor]:
        samples = self._sections(scene, origins, directions, jitter)
        first, last = self._at_ends(scene, origins, directions, samples)
        length = samples.t_end - samples.t_start
        density = section_density(first, last, length, scene.geometry.sharpness(), self.cosine_annealing)
        t = torch.lerp(samples.t_start, samples.t_end, crossing(first.detach(), last.detach()))
        points = origins[samples.ray_index] + t[:, None] * directions[samples.ray_index]
        return samples, points, density, scene.geometry.features_seen(points, -directions[samples.ray_index])

    @torch.no_grad()
    def _sections(self, scene: Scene, origins: Tensor, directions: Tensor, jitter: Tensor | None) -> Samples:
        """The steps in which the surface may be visible, split into pieces: one round of up-sampling."""
        length, sharpness = self.step_size, scene.geometry.sharpness()
        steps = march(origins, directions, self.occupancy.occupied, scene.geometry.box, length, jitter=jitter)
        first, last = self._at_ends(scene, origins, directions, steps)
        density = section_density(first, last, length, sharpness, self.cosine_annealing)
        transmittance = torch.exp(-sum_before(density * length, steps))
        nearest = 0.5 * (first + last - length)  # minimum of the distance in the step, if its gradient has length 1
        shows = (transmittance > NEGLIGIBLE) & (torch.sigmoid(-sharpness * nearest) > NEGLIGIBLE)
        return cut(steps, shows, min(max(round(float(sharpness) * length), 1), self.config.pieces))

    def _at_ends(self, scene: Scene, origins: Tensor, directions: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        """The signed distances [S] at the starts and at the ends of the samples."""
        ray, t, end = section_ends(samples)
        distance = scene.geometry.signed_distance(origins[ray] + t[:, None] * directions[ray])[:, 0]
        return distance[: len(end)], distance[end]


def cut(steps: Samples, chosen: Tensor, pieces: int) -> Samples:
    """The steps selected by `chosen` [S] bool, each split into `pieces` of equal length."""
    share = torch.arange(pieces + 1, device=chosen.device) / pieces
    t = torch.lerp(steps.t_start[chosen, None], steps.t_end[chosen, None], share)
    ray = steps.ray_index[chosen].repeat_interleave(pieces)
    counts = torch.bincount(ray, minlength=len(steps.offsets) - 1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Samples(ray, t[:, :-1].flatten(), t[:, 1:].flatten(), offsets)


def section_ends(samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """The start and end points of S samples without duplicates: most samples start where the previous one ends.

    Returns the ray [P] and the distance along it [P] of every point, and the index [S] of each sample's end point.
    The start points are the first S points, in order.
    """
    count = len(samples.t_start)
    gap = samples.t_start[1:] - samples.t_end[:-1]
    apart = (samples.ray_index[1:] != samples.ray_index[:-1]) | (gap > 0.5 * (samples.t_end - samples.t_start)[1:])
    is_last = torch.ones(count, dtype=torch.bool, device=gap.device)
    is_last[:-1] = apart
    end = torch.arange(1, count + 1, device=gap.device)
    end[is_last] = count + torch.arange(int(is_last.sum()), device=gap.device)
    ray = torch.cat([samples.ray_index, samples.ray_index[is_last]])
    return ray, torch.cat([samples.t_start, samples.t_end[is_last]]), end


def section_density(
    first: Tensor, last: Tensor, length: Tensor | float, sharpness: Tensor, annealing: Tensor
) -> Tensor:
    """Density [S] that gives a ray section of `length` the opacity of NeuS (Wang et al. 2021, eq. 13).

    alpha = max(1 - Phi(last) / Phi(first), 0) with Phi the logistic function of `sharpness`: the optical depth is the
    difference of log Phi. The distance is taken as linear between the ends, with the cosine to its gradient as the
    rate of decrease. As in the authors' code, this rate is annealed from (1 - cosine) / 2, which makes all directions
    slightly opaque, to the true one.

    first, last: [S] signed distances at the ends of the sections, world units. length: of the sections, world units.
    sharpness: scalar s > 0, per world unit. annealing: scalar in [0, 1], 1 for eq. 13.
    """
    slope = (last - first) / length  # minus the paper's cosine
    falling = torch.lerp(F.relu(0.5 - 0.5 * slope), F.relu(-slope), annealing)
    middle, half = 0.5 * (first + last), 0.5 * length * falling
    return (F.logsigmoid(sharpness * (middle + half)) - F.logsigmoid(sharpness * (middle - half))) / length


def crossing(first: Tensor, last: Tensor) -> Tensor:
    """Position [S] in [0, 1] at which a section crosses the surface; clamped to the nearer end if it lies outside.

    first, last: [S] signed distances at the ends. 0.5 where the distance does not decrease along the section.
    """
    falls = last < first
    return torch.where(falls, (first / (first - last).where(falls, 1.0)).clamp(0, 1), 0.5)
