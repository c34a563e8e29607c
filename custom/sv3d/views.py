"""SV3D's views: a closed orbit that ends at the input image."""

import warnings
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import Range
from liftstudio.core.registry import register
from liftstudio.data import orbits
from liftstudio.data.cameras import Cameras
from liftstudio.data.orbits import ElevationDeg
from liftstudio.priors.base import Prior
from liftstudio.priors.classifier_free import GuidanceScale
from liftstudio.views.prior_views import PriorViews

from .denoising import Shape, shaped_scales


@dataclass
class OrbitConfig:
    type: Literal["static", "sine", "dynamic", "list"] = "sine"  # elevation: constant, one sine, random, as listed
    frames: Annotated[int, Range(2)] = 21  # number of views; the last is the input image itself; not for list
    amplitude_deg: float = 30.0  # largest deviation from the input image's elevation; for sine
    azimuths_deg: list[float] = field(default_factory=list)  # of all views but the last, input image: 0; for list
    elevations_deg: list[ElevationDeg] = field(default_factory=list)  # of the same views; for list
    file: str = ""  # or a text file of both: a line "azimuth elevation" for each of these views; for list

    def __post_init__(self) -> None:
        given = [bool(self.azimuths_deg or self.elevations_deg), bool(self.file)]
        if sum(given) != (self.type == "list"):
            raise InputError("azimuths_deg, elevations_deg: expected for type: list, and only there; or a file of them")
        if len(self.azimuths_deg) != len(self.elevations_deg):
            counts = f"{len(self.azimuths_deg)} and {len(self.elevations_deg)}"
            raise InputError(f"azimuths_deg, elevations_deg: expected as many of each, got {counts}")

    def angles(self, elevation_deg: float, seed: int) -> orbits.Angles:
        """Return (azimuth_deg [T], elevation_deg [T]), from one step after the input view to that view.

        Raises:
            InputError: elevations beyond +-89 degrees, or a file that is missing or invalid.
        """
        if self.type == "dynamic":
            generator = torch.Generator().manual_seed(seed)
            return orbits.dynamic(self.frames, elevation_deg, generator)
        if self.type == "list":
            listed = _read_angles(self.file) if self.file else (self.azimuths_deg, self.elevations_deg)
            azimuth_deg = torch.tensor([*listed[0], 0.0]) % 360
            return azimuth_deg, torch.tensor([*listed[1], elevation_deg])
        return orbits.sine(self.frames, elevation_deg, self.amplitude_deg if self.type == "sine" else 0.0)


def _read_angles(name: str) -> tuple[list[float], list[float]]:
    """Return azimuths and elevations, degrees, from the lines "azimuth elevation" of a text file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is an error below
            angles = np.loadtxt(input_path(name), dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(
            f"orbit.file: {name}: expected lines of two numbers, azimuth and elevation ({error})"
        ) from None
    limit = orbits.MAX_ELEVATION_DEG
    if not angles.size or angles.shape[1] != 2 or not np.isfinite(angles).all() or np.abs(angles[:, 1]).max() > limit:
        raise InputError(
            f"orbit.file: {name}: expected lines of an azimuth and an elevation from -{limit:g} to {limit:g}"
        )
    return angles[:, 0].tolist(), angles[:, 1].tolist()


@register("sv3d-views")
class SV3DViews(PriorViews):
    """Views on an orbit around the object in an input image, sampled from a prior as SV3D does.

    After Voleti et al. 2024, "SV3D": Euler steps on the noise levels of Karras et al., classifier-free guidance that
    rises from 1 at the input image to its peak behind the object (the released sampler), and the sine orbit of sec. 4.
    """

    @dataclass
    class Config(PriorViews.Config):
        orbit: OrbitConfig = field(default_factory=OrbitConfig)  # cameras of the views
        guidance_scale: GuidanceScale = 0.0  # the highest; 0: the prior's default
        guidance_shape: Shape = "triangle"  # course over the orbit, from 1 at the input image; constant: the highest

        def __post_init__(self) -> None:
            super().__post_init__()
            self.orbit.angles(0.0 if self.elevation_deg == "auto" else self.elevation_deg, self.seed)

    config: Config

    def angles(self) -> orbits.Angles:
        """Return the orbit's azimuths and elevations."""
        return self.config.orbit.angles(self.elevation_deg, self.config.seed)

    def guidance_scales(self, prior: Prior, cameras: Cameras) -> Tensor:
        """Return guidance scales by the option's shape; see `shaped_scales`."""
        most = self.config.guidance_scale or prior.guidance_scale
        return shaped_scales(self.config.guidance_shape, cameras.azimuth_deg, most)
