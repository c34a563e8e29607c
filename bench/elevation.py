"""Errors of the estimated elevation: `python -m bench.elevation FOLDER ... [--count 912] [--sheet FILE.png]`.

A FOLDER is a capture, or holds captures: every view is a picture. Or it holds packs with their catalogue, or mesh files
(docs/training-priors.md): the pictures are renders of the meshes that training holds out, under ambient light, from any
azimuth and -10 to 45 degrees elevation; several of each mesh, if `--count` is larger than their number.

"expected" is the error that the network predicts, "of the mean" that of always answering the mean true elevation. The
bias is the mean of estimate minus truth. The sheet shows the pictures with the largest errors, "truth: estimate".
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.captures import find_captures, holds_meshes
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError
from liftstudio.core.logs import warnings_only
from liftstudio.data.images import grid, save_image, straight_from_white
from liftstudio.priors.elevation import ElevationEstimator
from liftstudio.training.data import DataConfig
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.views.elevation import box_frame
from liftstudio.views.input_image import InputImage
from liftstudio.views.posed_images import PosedImages

RENDERED = 128  # pixels across the renders
BIN_DEG = 10  # width of the ranges of true elevations in the second table
SHEET_SIDE = 6  # rows and columns of the sheet


@dataclass(frozen=True)
class Picture:
    """A picture as the network sees it, [SIDE, SIDE, 4], and its true elevation."""

    image: Tensor
    elevation_deg: float


@dataclass(frozen=True)
class Errors:
    """Of N pictures, degrees: true elevations, errors (estimate minus truth), and the errors that were expected."""

    true_deg: Tensor
    error_deg: Tensor
    expected_deg: Tensor

    def row(self) -> list[str]:
        """Return the columns of a table."""
        size, of_mean = self.error_deg.abs(), (self.true_deg - self.true_deg.mean()).abs().mean()
        figures = (
            size.mean(),
            size.median(),
            size.quantile(0.9),
            self.error_deg.mean(),
            self.expected_deg.mean(),
            of_mean,
        )
        return [str(len(size)), *(f"{float(figure):.1f}" for figure in figures)]

    @classmethod
    def joined(cls, parts: list["Errors"]) -> "Errors":
        """Return the errors of all pictures of the parts."""
        rows = [(one.true_deg, one.error_deg, one.expected_deg) for one in parts]
        return cls(*(torch.cat(column) for column in zip(*rows, strict=True)))

    def where(self, chosen: Tensor) -> "Errors":
        """Return the errors of the chosen pictures [N] bool."""
        return Errors(self.true_deg[chosen], self.error_deg[chosen], self.expected_deg[chosen])


def views_of(capture: Path) -> Iterator[Picture]:
    """Yield the views of a capture."""
    views = PosedImages(PosedImages.Config(str(capture)), device=torch.device("cpu")).load()
    for rgb, alpha, elevation_deg in zip(views.images, views.masks, views.cameras.elevation_deg.tolist(), strict=True):
        yield Picture(_framed(rgb, alpha), elevation_deg)


def renders_of(folder: Path, count: int) -> Iterator[Picture]:
    """Yield `count` renders of held-out meshes."""
    source = MeshObjects(DataConfig(objects=str(folder), resolution=RENDERED))
    for number in track(range(count), folder.name, console=Console(stderr=True)):
        sample = source.unseen(number)
        over_white, alpha = sample.input_image.split([3, 1], dim=-1)
        elevation_deg = float(sample.rig.input_camera.elevation_deg)
        yield Picture(_framed(straight_from_white(over_white, alpha), alpha), elevation_deg)


def _framed(rgb: Tensor, alpha: Tensor) -> Tensor:
    return box_frame(InputImage(rgb, alpha, 0.0, 0.0, float(max(rgb.shape[:2]))))


def errors_of(pictures: list[Picture]) -> Errors:
    """Return the errors of the bundled network."""
    estimator = ElevationEstimator()
    found = [estimator(picture.image[None]) for picture in pictures]
    true_deg = torch.tensor([picture.elevation_deg for picture in pictures])
    estimated_deg, expected_deg = (torch.cat(column) for column in zip(*found, strict=True))
    return Errors(true_deg, estimated_deg - true_deg, expected_deg)


def tables(found: dict[str, Errors]) -> tuple[Table, Table]:
    """Return Markdown tables by source of the pictures, and by true elevation over all of them."""
    columns = ("pictures", "mean error", "median", "90 %", "bias", "expected", "of the mean")
    by_name, by_elevation = (Table(name, *columns, box=box.MARKDOWN) for name in ("", "true elevation"))
    for name, errors in found.items():
        by_name.add_row(name, *errors.row())
    together = Errors.joined(list(found.values()))
    place = (together.true_deg / BIN_DEG).floor()
    for low in place.unique().tolist():
        name = f"{BIN_DEG * low:.0f} to {BIN_DEG * (low + 1):.0f}"
        by_elevation.add_row(name, *together.where(place == low).row())
    return by_name, by_elevation


def sheet_of(pictures: list[Picture], errors: Errors) -> Tensor:
    """Return an image [H, W, 3] of the pictures with the largest errors."""
    worst = errors.error_deg.abs().argsort(descending=True)[: SHEET_SIDE**2].tolist()
    cells = [pictures[index].image[..., :3] for index in worst]
    true, found = errors.true_deg.tolist(), (errors.true_deg + errors.error_deg).tolist()
    labels = [f"{true[index]:.0f}: {found[index]:.0f}" for index in worst]
    rows = [slice(start, start + SHEET_SIDE) for start in range(0, len(worst), SHEET_SIDE)]
    return grid([cells[row] for row in rows], [labels[row] for row in rows])


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print two tables; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.elevation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", metavar="FOLDER", type=input_path, nargs="+")
    parser.add_argument("--count", type=int, default=912, help="renders of held-out meshes")
    parser.add_argument("--sheet", type=output_path, help="PNG of the pictures with the largest errors")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise InputError("--count: expected 1 or more")
    pictures: dict[str, list[Picture]] = {}
    for folder in options.folders:
        if holds_meshes(folder):
            pictures["held-out meshes"] = list(renders_of(folder, options.count))
        else:
            with warnings_only():
                pictures |= {capture.name: list(views_of(capture)) for capture in find_captures(folder, None)}
    found = {name: errors_of(group) for name, group in pictures.items()}
    for table in tables(found):
        Console(width=140).print(table)
    if options.sheet:
        everything = [picture for group in pictures.values() for picture in group]
        save_image(options.sheet, sheet_of(everything, Errors.joined(list(found.values()))))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
