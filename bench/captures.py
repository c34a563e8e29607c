"""Captures as objects of one picture: found in a folder, and seen as a run of a config sees them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.errors import InputError
from liftstudio.evaluation import TruthConfig
from liftstudio.images import save_image
from liftstudio.metrics.truth import Truth, load_truth
from liftstudio.views.base import ReferenceViews
from liftstudio.views.normalization import HALF_SIDE
from liftstudio.views.posed_images import is_capture

LENS_TOLERANCE = 0.01  # of the picture's side; so far off may a run's camera show the corners of the object's cube


def find_captures(folder: Path, only: list[str] | None) -> list[Path]:
    """The folder itself, if it is a capture, else the captures among its sub-folders; or those of these names.

    Raises:
        InputError: there is none, or none of such a name.
    """
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    paths = [folder] if is_capture(folder) else [path for path in inside if is_capture(path)]
    found = {path.resolve().name: path for path in paths}
    if not found:
        raise InputError(f"{folder}: no captures; wanted a folder for each object, with a transforms.json")
    for name in only or []:
        if name not in found:
            raise InputError(f"--only {name}: no such capture in {folder}; there are: {', '.join(found)}")
    return [capture for name, capture in found.items() if not only or name in only]


@dataclass(frozen=True)
class Subject:
    """A capture as a run has it, its input view at azimuth 0.

    truth: its views, in the order of the file, and its mesh. lens: what a run must know of the input view's camera.
    """

    name: str
    truth: Truth
    lens: "Lens"

    @property
    def views(self) -> ReferenceViews:
        """All views; `prompt` is the input view."""
        assert self.truth.views is not None
        return self.truth.views

    def save_picture(self, path: Path) -> None:
        """Write the input view as RGBA, as the capture has it."""
        picture = self.views.select([self.views.prompt or 0])
        save_image(path, torch.cat([picture.images, picture.masks], dim=-1)[0])


@dataclass(frozen=True)
class Lens:
    """The camera of a picture that looks at the origin: degrees above the horizon, world units, degrees."""

    elevation_deg: float
    distance: float
    fov_deg: float

    def camera(self, size: int) -> Cameras:
        """At azimuth 0."""
        angles = torch.zeros(1), torch.tensor([self.elevation_deg])
        return orbit_cameras(*angles, self.distance, self.fov_deg, size, size)


def read_subject(capture: Path, view: str = "", azimuth_deg: float = 0.0) -> Subject:
    """The capture with the input view of this file name (empty: the first), whose camera comes to that azimuth.

    Raises:
        InputError: faulty files, a view that is not there, or one that no run's camera can stand for.
    """
    truth = load_truth(TruthConfig(views=str(capture), view=view), azimuth_deg)
    assert truth.views is not None and truth.views.prompt is not None
    camera = truth.views.cameras[[truth.views.prompt]]
    lens = Lens(*(float(value) for value in (camera.elevation_deg, camera.distance, camera.fov_deg)))
    _check_lens(f"{capture}: {truth.views.names[truth.views.prompt]}", camera, lens, azimuth_deg)
    return Subject(capture.resolve().name, truth, lens)


def sides(views: ReferenceViews) -> list[int]:
    """Eight views for a sheet: the input view, and those nearest to each further 45 degrees of azimuth from it."""
    azimuth_deg = views.cameras.azimuth_deg
    assert views.prompt is not None
    turn = azimuth_deg - azimuth_deg[views.prompt]
    wanted = torch.arange(45, 360, 45)
    off = torch.remainder(turn[None] - wanted[:, None] + 180, 360) - 180
    return [views.prompt, *off.abs().argmin(dim=1).tolist()]


def _check_lens(where: str, camera: Cameras, lens: Lens, azimuth_deg: float) -> None:
    """A run's cameras stand upright, look at the origin, and have the principal point in the middle."""
    sides = torch.tensor([-HALF_SIDE, HALF_SIDE])
    corners = torch.cartesian_prod(sides, sides, sides)
    angles = torch.tensor([azimuth_deg]), torch.tensor([lens.elevation_deg])
    own = orbit_cameras(*angles, lens.distance, lens.fov_deg, camera.height, camera.width)
    off = (own.project(corners)[0] - camera.project(corners)[0]).abs().max() / camera.width
    if not off <= LENS_TOLERANCE:
        wanted = "wanted an upright camera, its principal point in the middle, as the pictures of runs are taken by"
        raise InputError(f"{where}: {wanted}; choose another view by --view (off by {100 * off:.3g} % of the picture)")
