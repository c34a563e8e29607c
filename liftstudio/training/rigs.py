"""Cameras that a training object is seen by: one for the input view, some for the views."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from torch import Tensor

from liftstudio.core.checks import check_pair, check_range
from liftstudio.core.ranges import NonNegativeFloat, PositiveInt, Range, UnitFloat
from liftstudio.data.cameras import Cameras, orbit_cameras, turned
from liftstudio.data.orbits import ElevationDeg

FOV_DEG, DISTANCE = 33.8, 3.6  # SV3D's field of view; objects are 1.8 long and fill the frame from there
HALF_HEIGHT = DISTANCE * math.tan(math.radians(FOV_DEG / 2))  # world units that half an image shows, at the origin
UNSEEN_VIEWS = 6  # of an object that is measured, where the rig fixes no number


LensFovDeg = Annotated[float, Range(5, 120)]
LensMargin = Annotated[float, Range(0.5, 10)]


@dataclass
class RigConfig:
    """Where input view and views are seen from; azimuths are relative to the input view's, elevations absolute."""

    views: tuple[PositiveInt, PositiveInt] = (2, 10)  # least and most views of an object
    azimuths_deg: list[float] = field(default_factory=list)  # of fixed views, instead of `views`; empty: none are fixed
    input_azimuth_deg: Annotated[float, Range(0, 180)] = 46.0  # the input view is within this of the object's front
    input_elevation_deg: tuple[ElevationDeg, ElevationDeg] = (-10.0, 40.0)  # least and most
    elevation_deg: tuple[ElevationDeg, ElevationDeg] | None = (
        -30.0,
        60.0,
    )  # least and most of free and fixed views; none: the input view's
    amplitude_deg: NonNegativeFloat = 40.0  # largest swing of a closed orbit's elevation
    orbit_share: UnitFloat = 0.5  # of objects on a closed orbit that ends at the input view; the others' views are free
    lens_share: UnitFloat = 0.3  # of input views and of view sets with another field of view and distance than SV3D's
    lens_fov_deg: tuple[LensFovDeg, LensFovDeg] = (25.0, 50.0)  # least and most of those
    lens_margin: tuple[LensMargin, LensMargin] = (1.0, 1.2)  # least and most shown at the origin, SV3D's = 1
    roll_deg: Annotated[float, Range(0, 180)] = 0.0  # the input view's camera is turned about its axis by at most this
    shift: Annotated[float, Range(0, 0.4)] = 0.0  # the input view's centre is off by at most this share of the image

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
    """input_camera: one camera at azimuth 0; views: V cameras; front_deg: azimuth of the object's front in that frame.

    Of renders that users bring, `front_deg` is unknown and 0.
    """

    input_camera: Cameras
    views: Cameras
    front_deg: float


def counts(config: RigConfig) -> tuple[int, int]:
    """Least and most views of an object."""
    fixed = len(config.azimuths_deg)
    return (fixed, fixed) if fixed else config.views


def measured_count(config: RigConfig) -> int:
    """Views of an object that is measured: those of training, where their number is fixed."""
    least, most = counts(config)
    return most if least == most else UNSEEN_VIEWS


def draw_count(config: RigConfig, generator: torch.Generator) -> int:
    """How many views the objects of a batch have."""
    least, most = counts(config)
    return int(torch.randint(least, most + 1, (), generator=generator))


def draw_rig(config: RigConfig, count: int, size: int, generator: torch.Generator) -> Rig:
    """A random rig of `count` views with square images of `size` pixels.

    Views beyond the fixed ones are free, as are all where there are neither fixed views nor an orbit.
    """
    elevation = _uniform(*config.input_elevation_deg, generator)
    front = _uniform(-config.input_azimuth_deg, config.input_azimuth_deg, generator)
    angles = _angles(config, count, elevation, generator)
    lenses = [_lens(config, generator) for _ in range(2)]
    input_camera = orbit_cameras(torch.zeros(1), torch.tensor([elevation]), lenses[0][1], lenses[0][0], size, size)
    input_camera = _askew(input_camera, config, generator)
    return Rig(input_camera, orbit_cameras(*angles, lenses[1][1], lenses[1][0], size, size), front)


def fitted(rig: Rig, vertices: Tensor, border: float) -> Rig:
    """The rig with its prompt's camera drawn back along its axis, where needed to see all of an object.

    vertices: [V, 3] world units, of the object in canonical pose. border: share of the image that stays empty around.
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
    """The camera rolled about its axis, and its principal point moved; draws nothing where a config wants neither."""
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
    """Azimuths and elevations [count] of the views; elevation: the input view's."""
    if config.azimuths_deg:
        return _fixed(config, count, elevation, generator)
    if _uniform(0, 1, generator) < config.orbit_share:
        return _orbit(config, count, elevation, generator)
    return _free(config, count, elevation, generator)


def _fixed(config: RigConfig, count: int, elevation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The fixed views, all at one elevation, then free ones."""
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
    """Field of view in degrees and distance."""
    if _uniform(0, 1, generator) >= config.lens_share:
        return FOV_DEG, DISTANCE
    fov_deg, margin = _uniform(*config.lens_fov_deg, generator), _uniform(*config.lens_margin, generator)
    return fov_deg, margin * HALF_HEIGHT / math.tan(math.radians(fov_deg / 2))


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()
