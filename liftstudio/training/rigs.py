"""Random camera rigs for training objects: one camera for the input view, several for the other views."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor

from liftstudio.core.checks import check_pair, check_range
from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, Range, UnitFloat
from liftstudio.data.cameras import Cameras, orbit_cameras, turned
from liftstudio.data.orbits import ElevationDeg

FOV_DEG, DISTANCE = 33.8, 3.6  # SV3D's field of view; at this distance, objects of length 1.8 fill the frame
HALF_HEIGHT = DISTANCE * math.tan(math.radians(FOV_DEG / 2))  # world units in half the image height, at the origin
UNSEEN_VIEWS = 6  # views of an evaluated object, if the rig does not fix their number


LensFovDeg = Annotated[float, Range(5, 120)]
LensMargin = Annotated[float, Range(0.5, 10)]


@dataclass
class RigConfig:
    """Distribution of input views and views; azimuths are relative to the input view, elevations are absolute."""

    views: tuple[PositiveInt, PositiveInt] = (2, 10)  # minimum and maximum number of views of an object
    azimuths_deg: list[float] = field(default_factory=list)  # of fixed views, instead of `views`; empty: none
    input_azimuth_deg: Annotated[float, Range(0, 180)] = 46.0  # maximum angle of the input view from the object's front
    input_elevation_deg: tuple[ElevationDeg, ElevationDeg] = (-10.0, 40.0)  # range of the input view
    elevation_deg: tuple[ElevationDeg, ElevationDeg] | None = (-30.0, 60.0)  # of free/fixed views; none: as input view
    amplitude_deg: NonNegativeFloat = 40.0  # maximum amplitude of the elevation on a closed orbit
    orbit_share: UnitFloat = 0.5  # share of objects on a closed orbit ending at the input view; else views are free
    lens_share: UnitFloat = 0.3  # share of input views, and of sets of views, whose lens and distance are not SV3D's
    lens_fov_deg: tuple[LensFovDeg, LensFovDeg] = (25.0, 50.0)  # range of their field of view
    lens_margin: tuple[LensMargin, LensMargin] = (1.0, 1.2)  # range of the extent shown at the origin, SV3D's = 1
    roll_deg: Annotated[float, Range(0, 180)] = 0.0  # maximum rotation of the input camera about its axis
    shift: Annotated[float, Range(0, 0.4)] = 0.0  # maximum offset of the input view's centre, share of the image

    def __post_init__(self) -> None:
        check_pair("views", self.views)
        check_pair("input_elevation_deg", self.input_elevation_deg)
        if self.elevation_deg is not None:
            check_pair("elevation_deg", self.elevation_deg)
        check_pair("lens_fov_deg", self.lens_fov_deg)
        check_pair("lens_margin", self.lens_margin)
        check_range("amplitude_deg", self.amplitude_deg, 0, 89 - max(map(abs, self.input_elevation_deg)))


@dataclass(frozen=True)
class Rig:
    """Cameras of one sample.

    input_camera: one camera, at azimuth 0. views: V cameras. front_deg: azimuth of the object's front in this frame;
    unknown for captures, and 0 there.
    """

    input_camera: Cameras
    views: Cameras
    front_deg: float


def counts(config: RigConfig) -> tuple[int, int]:
    """Return the minimum and maximum number of views of an object."""
    fixed = len(config.azimuths_deg)
    return (fixed, fixed) if fixed else config.views


def measured_count(config: RigConfig) -> int:
    """Return the number of views of an evaluated object: that of training if it is fixed, else `UNSEEN_VIEWS`."""
    least, most = counts(config)
    return most if least == most else UNSEEN_VIEWS


def draw_count(config: RigConfig, generator: torch.Generator) -> int:
    """Draw the number of views of the objects of a batch."""
    least, most = counts(config)
    return int(torch.randint(least, most + 1, (), generator=generator))


def draw_rig(config: RigConfig, count: int, size: int, generator: torch.Generator) -> Rig:
    """Draw a random rig of `count` views with square images of `size` pixels.

    Views beyond the fixed ones are free. Without fixed views, all views lie on an orbit, or all are free.
    """
    elevation = _uniform(*config.input_elevation_deg, generator)
    front = _uniform(-config.input_azimuth_deg, config.input_azimuth_deg, generator)
    angles = _angles(config, count, elevation, generator)
    lenses = [_lens(config, generator) for _ in range(2)]
    input_camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation]), lenses[0][1], lenses[0][0], size, size)
    input_camera = _askew(input_camera, config, generator)
    return Rig(input_camera, orbit_cameras(*angles, lenses[1][1], lenses[1][0], size, size), front)


def fitted(rig: Rig, vertices: Tensor, border: float) -> Rig:
    """Return the rig with its input camera moved back along its axis, if needed to see the whole object.

    vertices: [V, 3] of the object in canonical pose, world units. border: share of the image kept empty on every side.
    """
    camera = turned(rig.input_camera, -rig.front_deg)
    x, y, back = camera.to_camera(vertices)[0].unbind(-1)
    right, up = camera.fx * x, camera.fy * y
    width, height = camera.width, camera.height
    rooms = [width * (1 - border) - camera.cx, camera.cx - width * border]
    rooms += [camera.cy - height * border, height * (1 - border) - camera.cy]
    # At z-depth d a vertex is `right` / d pixels from the axis.
    needed = [side / room for side, room in zip((right, -right, up, -up), rooms, strict=True)]
    more = float((torch.stack(needed).amax(0) + back).amax())
    if more <= 0:
        return rig
    c2w = rig.input_camera.c2w.clone()
    c2w[:, :3, 3] += more * c2w[:, :3, 2]
    return replace(rig, input_camera=replace(rig.input_camera, c2w=c2w))


def _askew(input_camera: Cameras, config: RigConfig, generator: torch.Generator) -> Cameras:
    """Roll the camera about its axis and shift its principal point; makes no draws for an option that is 0."""
    if config.roll_deg:
        roll = torch.deg2rad(torch.tensor(_uniform(-config.roll_deg, config.roll_deg, generator)))
        turn = torch.eye(4)
        turn[0, 0] = turn[1, 1] = roll.cos()
        turn[1, 0], turn[0, 1] = roll.sin(), -roll.sin()
        input_camera = replace(input_camera, c2w=input_camera.c2w @ turn)
    if config.shift:
        x, y = (_uniform(-config.shift, config.shift, generator) for _ in range(2))
        input_camera = replace(
            input_camera, cx=input_camera.cx + x * input_camera.width, cy=input_camera.cy + y * input_camera.height
        )
    return input_camera


def _angles(config: RigConfig, count: int, elevation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw azimuths and elevations [count] of the views; elevation: that of the input view."""
    if config.azimuths_deg:
        return _fixed(config, count, elevation, generator)
    if _uniform(0, 1, generator) < config.orbit_share:
        return _orbit(config, count, elevation, generator)
    return _free(config, count, elevation, generator)


def _fixed(config: RigConfig, count: int, elevation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the fixed views, all at one elevation, followed by free ones."""
    low, high = config.elevation_deg or (elevation, elevation)
    azimuths = torch.tensor(config.azimuths_deg)[:count]
    elevations = torch.full_like(azimuths, _uniform(low, high, generator))
    more = _free(config, count - len(azimuths), elevation, generator)
    return torch.cat([azimuths, more[0]]), torch.cat([elevations, more[1]])


def _orbit(config: RigConfig, count: int, elevation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    turn = torch.arange(1, count + 1) / count
    amplitude = _uniform(-config.amplitude_deg, config.amplitude_deg, generator)
    return 360 * turn, elevation + amplitude * torch.sin(2 * math.pi * turn)


def _free(config: RigConfig, count: int, elevation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    azimuth, height = torch.rand(2, count, generator=generator)
    low, high = config.elevation_deg or (elevation, elevation)
    return 360 * azimuth, low + (high - low) * height


def _lens(config: RigConfig, generator: torch.Generator) -> tuple[float, float]:
    """Draw a field of view in degrees and the distance that goes with it."""
    if _uniform(0, 1, generator) >= config.lens_share:
        return FOV_DEG, DISTANCE
    fov_deg, margin = _uniform(*config.lens_fov_deg, generator), _uniform(*config.lens_margin, generator)
    return fov_deg, margin * HALF_HEIGHT / math.tan(math.radians(fov_deg / 2))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
