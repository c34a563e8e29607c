"""Single parts of liftstudio from Python: a prior, an image for it, cameras, renders of a finished mesh."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import trimesh
from torch import Tensor

from liftstudio.core.arguments import checked
from liftstudio.core.assets import input_path
from liftstudio.core.config import ComponentSpec, parse
from liftstudio.core.devices import first_device
from liftstudio.core.extensions import load_components
from liftstudio.core.ranges import PositiveInt, Range
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.orbits import ElevationDeg
from liftstudio.priors.base import PosedImage, Prior
from liftstudio.priors.opening import open_prior
from liftstudio.renderers.textured import render_trimesh
from liftstudio.views.elevation import estimate_elevation
from liftstudio.views.input_image import load_input_image

Pixels = Annotated[int, Range(1, 4096)]
DISTANCE, FOV_DEG = 3.6, 33.8  # of cameras, in which an object 1.8 long fills .83 of the image
WIDEST_DEG = (-89.0, 89.0)  # elevations of cameras that a prior may be asked for


@dataclass
class _OnePrior:
    prior: Annotated[ComponentSpec, "prior"]


@checked
def load_prior(weights: str = "asset://priors/objects", *, device: str = "auto", **options: Any) -> Prior:
    """Return a prior with its networks.

    Args:
        weights: a file of official weights, or a bundled prior: "asset://priors/objects", "asset://priors/toys".
        device: "auto", "cpu" or "cuda".
        options: of the prior, as in a config: precision="float16".

    Raises:
        InputError: missing or damaged weights, weights of no known prior, or a bad option.
    """
    load_components()
    block = parse({"prior": {"type": "auto", "weights": weights, **options}}, _OnePrior).prior
    return open_prior(block, first_device(device, None))


@checked
def load_image(path: str | Path, *, elevation_deg: ElevationDeg | None = None, pixels: Pixels = 256) -> PosedImage:
    """Return the object in an image file, cut out and framed, with its camera at azimuth 0.

    Args:
        path: of an image, with alpha or without; "asset://..." is a packaged one.
        elevation_deg: of the camera above the object's horizon; None: estimated from the image.
        pixels: along each side of the result.

    Raises:
        InputError: see `views.input_image.load_input_image`.
    """
    picture = load_input_image(input_path(str(path)))
    if elevation_deg is None:
        elevation_deg = estimate_elevation(picture, WIDEST_DEG).elevation_deg
    return PosedImage(*picture.frame(pixels), orbit(1, elevation_deg, pixels=pixels))


@checked
def orbit(frames: PositiveInt, elevation_deg: ElevationDeg = 0.0, *, pixels: Pixels = 256) -> Cameras:
    """Return cameras around an object, evenly spaced, counter-clockwise from azimuth 0, where its image was taken.

    Raises:
        InputError: a wrong number, as of all functions here.
    """
    azimuth_deg = torch.arange(frames) * 360.0 / frames
    return orbit_cameras(azimuth_deg, torch.full((frames,), float(elevation_deg)), DISTANCE, FOV_DEG, pixels, pixels)


@checked
def render(mesh: trimesh.Trimesh, cameras: Cameras) -> Tensor:
    """Return images [T, H, W, 4] of a mesh in its base colours over white, with alpha, sRGB in [0, 1].

    mesh: y up, as `Result.mesh`; with a texture or colours of its vertices.
    """
    return torch.cat(render_trimesh(mesh, cameras), dim=-1)
