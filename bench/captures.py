"""Captures as single-image tasks: finds them in a folder, and converts them to the world of a run."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from liftstudio.core.cache import content_key, file_digest
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import save_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.run.config import TruthConfig
from liftstudio.run.truth import Truth, load_truth, source_rotation_deg
from liftstudio.training.captures import find_captures as captures_in
from liftstudio.views.normalization import HALF_SIDE
from liftstudio.views.posed_images import is_capture, read_capture
from liftstudio.views.several_images import azimuth_of

SIDE_DEG = 10.0  # maximum difference of a view from the side that its label names, in azimuth and elevation
TOLERANCE = 0.01  # maximum offset of the cube's corners under the run's camera, as a share of the image side


def find_captures(folder: Path, only: list[str] | None) -> list[Path]:
    """Return the folder itself if it is a capture, else the captures among its sub-folders, filtered by name.

    Raises:
        InputError: there is no capture, or none of a given name.
    """
    try:
        found = {name_of(path): path for path in captures_in(folder)}
    except InputError as error:
        raise InputError(str(error).removeprefix("data.captures: ")) from None
    for name in only or []:
        if name not in found:
            raise InputError(f"--only {name}: no such capture in {folder}; available: {', '.join(found)}")
    return [capture for name, capture in found.items() if not only or name in only]


def holds_meshes(folder: Path) -> bool:
    """Return whether a folder holds packs or mesh files, and no capture, whose mesh may lie next to its views."""
    if not folder.is_dir() or is_capture(folder):
        return False
    return bool(list(folder.glob("*.npz")) or not any(map(is_capture, folder.iterdir())))


def name_of(capture: Path) -> str:
    """Return the name of the folder as given; `.` and `..` are resolved."""
    return capture.name if capture.name.strip(".") else capture.resolve().name


def digest_of(capture: Path) -> str:
    """Return a digest of its cameras, images, masks and mesh."""
    read = read_capture(capture)
    cameras = [
        [frame.name, frame.c2w.tolist(), frame.fx, frame.fy, frame.cx, frame.cy, frame.width, frame.height]
        for frame in read.frames
    ]
    files = [read.mesh, *(path for frame in read.frames for path in (frame.image, frame.mask))]
    digests = [path and file_digest(path) for path in files]
    return content_key({"cameras": cameras, "files": digests, "rotation_deg": source_rotation_deg(capture)})


@dataclass(frozen=True)
class Subject:
    """A capture in the world of a run, its first input view at the azimuth of the run's input image.

    truth: its views, in the order of the file, and its mesh. camera: the input camera, as options of a run. sides: the
    labels of its input views after the first.
    """

    name: str
    truth: Truth
    camera: "InputCamera"
    sides: tuple[str, ...] = ()

    @property
    def views(self) -> ReferenceViews:
        """All views; `input_views` are the indices of the inputs."""
        assert self.truth.views is not None
        return self.truth.views

    def save_pictures(self, folder: Path) -> list[str]:
        """Write the input views as RGBA, unchanged from the capture, and return the options that name them to a run."""
        labels = ["front", *self.sides] if self.sides else [""]
        options = []
        for label, view in zip(labels, self.views.input_views, strict=True):
            path = folder / f"{self.name}{label and '-'}{label}.png"
            save_image(path, torch.cat([self.views.images[view], self.views.masks[view]], dim=-1))
            options.append(f"images.{label}={path}" if label else f"image={path}")
        return options


@dataclass(frozen=True)
class InputCamera:
    """An input camera that looks at the origin; elevation and field of view in degrees, distance in world units."""

    elevation_deg: float
    distance: float
    fov_deg: float


def read_subject(capture: Path, view: str = "", azimuth_deg: float = 0.0, sides: tuple[str, ...] = ()) -> Subject:
    """Read a capture, rotated so that the input camera has the given azimuth.

    view: file name of the input view; empty: the first. sides: labels of further input views, as in `images`, with the
    input view as the front.

    Raises:
        InputError: faulty files, a view that does not exist, or one whose camera a run cannot represent.
    """
    truth = load_truth(TruthConfig(views=str(capture), view=view), azimuth_deg)
    assert truth.views is not None and truth.views.input_view is not None
    true = truth.views.cameras[[truth.views.input_view]]
    camera = InputCamera(*(float(value) for value in (true.elevation_deg, true.distance, true.fov_deg)))
    _check_camera(f"{capture}: {truth.views.names[truth.views.input_view]}", true, camera, azimuth_deg)
    inputs = (truth.views.input_view, *(_view_from(truth.views, side, f"{capture}") for side in sides))
    views = replace(truth.views, input_views=inputs)
    return Subject(name_of(capture), replace(truth, views=views), camera, sides)


def _view_from(views: ReferenceViews, label: str, where: str) -> int:
    """Return the view whose azimuth from the input view is nearest to the label's, at about the same elevation."""
    assert views.input_view is not None
    cameras = views.cameras
    turn = cameras.azimuth_deg - cameras.azimuth_deg[views.input_view] - azimuth_of(label)
    turn = (torch.remainder(turn + 180, 360) - 180).abs()
    turn[(cameras.elevation_deg - cameras.elevation_deg[views.input_view]).abs() > SIDE_DEG] = torch.inf
    if not turn.min() <= SIDE_DEG:
        raise InputError(
            f"{where}: no view from the {label} at the input view's elevation, within {SIDE_DEG:g} degrees"
        )
    return int(turn.argmin())


def sides(views: ReferenceViews) -> list[int]:
    """Return eight views for a sheet: the input view, and those nearest to multiples of 45 degrees azimuth from it."""
    azimuth_deg = views.cameras.azimuth_deg
    assert views.input_view is not None
    turn = azimuth_deg - azimuth_deg[views.input_view]
    wanted = torch.arange(45, 360, 45)
    off = torch.remainder(turn[None] - wanted[:, None] + 180, 360) - 180
    return [views.input_view, *off.abs().argmin(dim=1).tolist()]


def _check_camera(where: str, true: Cameras, camera: InputCamera, azimuth_deg: float) -> None:
    """Check that the camera is upright, looks at the origin, and has a centred principal point, as in a run."""
    sides = torch.tensor([-HALF_SIDE, HALF_SIDE])
    corners = torch.cartesian_prod(sides, sides, sides)
    angles = torch.tensor([azimuth_deg]), torch.tensor([camera.elevation_deg])
    own = orbit_cameras(*angles, camera.distance, camera.fov_deg, true.height, true.width)
    off = (own.project(corners)[0] - true.project(corners)[0]).abs().max() / true.width
    if not off <= TOLERANCE:
        expected = "expected an upright camera with a centred principal point, as in runs"
        raise InputError(f"{where}: {expected}; choose another view by --view (off by {100 * off:.3g} % of the image)")
