"""Score distillation at the timesteps of a noise schedule, between bounds that change over the steps."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from liftstudio.core.checks import check_pair
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeInt, PositiveInt, Range
from liftstudio.core.schedules import Schedule, check_milestones, phase
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.orbits import ElevationDeg
from liftstudio.guidance.score_distillation import PriorGuidance
from liftstudio.priors.samplers import scaled_linear_levels

NoiseShares = Annotated[Schedule, Range(0, 0.999)]


class ScheduledDistillation(PriorGuidance):
    """Score distillation with scheduled noise levels, view counts and resolutions; a subclass draws the views."""

    @dataclass(kw_only=True)
    class Config(PriorGuidance.Config):
        views_per_step: list[PositiveInt] = field(default_factory=lambda: [1])  # renders per milestone; or one for all
        resolution: list[NonNegativeInt] = field(default_factory=lambda: [0])  # render width per milestone; 0: prior's
        resolution_milestones: list[int] = field(default_factory=list)  # steps at which the next of these two begin
        # Timesteps are drawn uniformly between these two fractions of the noise schedule's length.
        min_step_percent: NoiseShares = field(
            default_factory=lambda: Schedule.constant(0.02)
        )  # least timestep, as a fraction
        max_step_percent: NoiseShares = field(
            default_factory=lambda: Schedule.constant(0.98)
        )  # largest timestep, as a fraction

        def __post_init__(self) -> None:
            check_milestones("resolution", self.resolution, self.resolution_milestones)
            if len(self.views_per_step) not in (1, len(self.resolution)):
                raise InputError("views_per_step: expected one number, or as many as there are resolutions")
            _check_shares(self.min_step_percent, self.max_step_percent)

    config: Config

    def levels(self) -> Tensor:
        """Return the noise levels of the schedule in ascending order, [timesteps]: those of Stable Diffusion."""
        return scaled_linear_levels()

    def view_count(self, step: int) -> int:
        """Return the number of views of the milestone that `step` falls in."""
        counts = self.config.views_per_step
        return counts[min(phase(self.config.resolution_milestones, step), len(counts) - 1)]

    def draw_sigma(self, step: int, generator: torch.Generator) -> float:
        """Return the noise level of a uniformly drawn timestep, clamped to the range that the prior was trained for."""
        levels = self.levels()
        shares = (schedule(step) for schedule in (self.config.min_step_percent, self.config.max_step_percent))
        least, most = (int(len(levels) * share) for share in shares)  # rounded down, as in ImageDream's release
        timestep = torch.randint(least, most + 1, (), generator=generator, device=generator.device)
        return min(max(levels[int(timestep)].item(), self.prior.sigma_min), self.prior.sigma_max)

    def render_size(self, step: int) -> int:
        """Return the resolution of the milestone that `step` falls in."""
        resolution = self.config.resolution[phase(self.config.resolution_milestones, step)]
        return resolution or self.prior.resolution


class OrbitDistillation(ScheduledDistillation):
    """Scheduled score distillation on random views from all around, at the input view's distance and field of view."""

    @dataclass(kw_only=True)
    class Config(ScheduledDistillation.Config):
        elevations_deg: tuple[ElevationDeg, ElevationDeg] = (-10.0, 60.0)  # least and largest elevation

        def __post_init__(self) -> None:
            super().__post_init__()
            check_pair("elevations_deg", self.elevations_deg)

    config: Config

    def draw_views(self, step: int, generator: torch.Generator) -> Cameras:
        """Return cameras at the distance of `center`, with uniform azimuths and elevations."""
        draws = torch.rand(2, self.view_count(step), generator=generator, device=generator.device).to(self.device)
        low, high = self.config.elevations_deg
        return self._views_at(360 * draws[0], low + (high - low) * draws[1])

    def typical_views(self) -> Cameras:
        """Return cameras behind the object, at the least and the largest elevation."""
        elevations_deg = torch.tensor(self.config.elevations_deg, device=self.device)
        return self._views_at(torch.full_like(elevations_deg, 180), elevations_deg)

    def center(self) -> Cameras:
        """Return the camera whose distance and field of view all views share: that of the input view."""
        return self.posed.camera

    def _views_at(self, turn_deg: Tensor, elevations_deg: Tensor) -> Cameras:
        start, size = self.center(), self.prior.resolution
        azimuths_deg = start.azimuth_deg + turn_deg
        return orbit_cameras(azimuths_deg, elevations_deg, start.distance, start.fov_deg.item(), size, size)


def _check_shares(least: Schedule, most: Schedule) -> None:
    for step in sorted({int(step) for schedule in (least, most) for step, _ in schedule.points}):
        if least(step) > most(step):
            raise InputError(f"min_step_percent: expected at most max_step_percent, got {least(step):g} at step {step}")
