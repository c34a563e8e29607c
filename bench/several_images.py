"""One against several pictures of unseen objects: `python -m bench.several_images FOLDER [--count 10] [--off 0]`.

FOLDER is a capture or holds captures, as for `bench.single_image`; or it holds packs with their catalogue, or mesh
files, as for `bench.objects_prior`, of which those count that training holds out. The pictures are from the front, the
back and the object's left, at one elevation. Views of the prior are sampled as in a run and compared at 64 pixels with
true ones that are none of the pictures; the occupancy that the prior estimates is compared with the true one on a grid
of 64^3. The last column says for how many objects that is better than from the front alone.

`--off DEGREES` renders the back and the left up to so many degrees from where the prior is told they are.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.captures import find_captures, holds_meshes, name_of, read_subject
from bench.objects_prior import open_suited
from bench.runs import Row
from bench.unseen import uniform, with_error
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras, turned
from liftstudio.data.images import grid, save_image
from liftstudio.metrics.contextual import PixelPatches, contextual_distance
from liftstudio.metrics.images import psnr
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.metrics.voxels import occupancy
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.objects.prior import SURFACE_LEVEL, ObjectsPrior
from liftstudio.priors.samplers import euler
from liftstudio.renderers.textured import Pictures
from liftstudio.run.truth import resized
from liftstudio.training.data import DataConfig
from liftstudio.training.meshes.posing import pose
from liftstudio.training.meshes.rendering import EVEN, render
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.training.rigs import DISTANCE, FOV_DEG
from liftstudio.views.normalization import HALF_SIDE

PIXELS = 64
CELLS = 64  # along each side of the grid, which spans twice the object's longest side
AZIMUTHS_DEG = (0.0, 180.0, 90.0)  # front, back, left
NAMES = ("front", "front, back", "front, back, left")
MEASURES = {"psnr": 2, "silhouette iou": 3, "contextual": 3, "iou in space": 3}  # digits


@dataclass(frozen=True)
class Subject:
    """An object: pictures from the three sides, true views [V, 64, 64, 4] over white with alpha, and its interior.

    inside: [CELLS^3] bool, at `cells`.
    """

    name: str
    pictures: list[PosedImage]
    cameras: Cameras
    images: Tensor
    inside: Tensor


def cells() -> Tensor:
    """Return the grid's points in the run's world, those of `metrics.voxels.occupancy`, [CELLS^3, 3]."""
    axis = 2 * HALF_SIDE * (2 * torch.arange(CELLS) / CELLS - 1)
    return torch.cartesian_prod(axis, axis, axis)


def posed(image: Tensor, camera: Cameras) -> PosedImage:
    """Return an image [R, R, 4] over white with alpha, as a prior takes it."""
    return PosedImage(image[..., :3], image[..., 3:], camera)


def held_out(folder: str, count: int, off_deg: float) -> Iterator[Subject]:
    """Yield the first held-out meshes of a folder; the number of an object fixes its angles."""
    source = MeshObjects(DataConfig(objects=folder))
    for number, (pack, index) in enumerate(source.measured[:count]):
        mesh, rig = pack.mesh(index), rig_of(number, off_deg)
        seen = render(obj := pose(mesh), turned(concatenate([rig.true, rig.novel]), -rig.front_deg), EVEN)
        rgba = torch.cat([seen.rgb, seen.alpha], dim=-1)
        pictures = [posed(image, rig.told[[n]]) for n, image in enumerate(rgba[:3])]
        inside = source.solids.of(mesh, obj, rig.front_deg).contains(cells())
        yield Subject(f"{pack.name}/{pack.ids[index]}", pictures, rig.novel, rgba[3:], inside)


@dataclass(frozen=True)
class SideRig:
    """Cameras for an object: of the three pictures, as the prior is told and as they are; and of the true views.

    front_deg: azimuth of the object's front.
    """

    told: Cameras
    true: Cameras
    novel: Cameras
    front_deg: float


def rig_of(number: int, off_deg: float = 0.0) -> SideRig:
    """Return the cameras for the object of this number; off_deg: largest error of the told azimuths."""
    generator = torch.Generator().manual_seed(number)
    elevation_deg, front_deg = uniform(-5, 25, generator), uniform(-20, 20, generator)
    off = off_deg * (2 * torch.rand(3, generator=generator) - 1)
    off[0] = 0
    told = torch.tensor(AZIMUTHS_DEG)
    around, heights = 22.5 + 45 * torch.arange(8), torch.tensor([elevation_deg, 30, 0, 15]).repeat(2)
    given, true = (_cameras(a, torch.full((3,), elevation_deg)) for a in (told, told + off))
    return SideRig(given, true, _cameras(around, heights), front_deg)


def captured(folder: Path, count: int) -> Iterator[Subject]:
    """Yield the captures of a folder that have a mesh; their first view is the front."""
    for capture in find_captures(folder, None)[:count]:
        subject = read_subject(capture)
        views, mesh = resized(subject.views, PIXELS), subject.truth.mesh
        if mesh is None:
            raise InputError(f"{capture}: no mesh to compare with")
        rgba = torch.cat([views.over(1.0), views.masks], dim=-1)
        turns = torch.remainder(views.cameras.azimuth_deg[None] - torch.tensor(AZIMUTHS_DEG)[:, None] + 180, 360) - 180
        sides = turns.abs().argmin(1).tolist()
        others = [view for view in range(len(views)) if view not in sides]
        pictures = [posed(rgba[side], views.cameras[[side]]) for side in sides]
        inside = torch.from_numpy(occupancy(mesh, CELLS)).flatten()
        yield Subject(name_of(capture), pictures, views.cameras[others], rgba[others], inside)


def _cameras(azimuths_deg: Tensor, elevations_deg: Tensor) -> Cameras:
    return orbit_cameras(azimuths_deg, elevations_deg, DISTANCE, FOV_DEG, PIXELS, PIXELS)


def measure(prior: ObjectsPrior, subject: Subject, pictures: int) -> tuple[Row, Tensor]:
    """Return the measures from the first `pictures` pictures, and the views [V, 64, 64, 3]."""
    front, *others = subject.pictures[:pictures]
    given = replace(front, others=tuple(others))
    condition, cameras = prior.condition(given), subject.cameras
    noise = torch.randn(len(cameras), *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    sigmas = prior.sigmas(prior.steps)
    latents = euler(lambda z, sigma: prior.denoise(NoisyViews(z, sigma, condition, cameras)), noise, sigmas)
    images, masks = prior.decode(latents)
    inside = prior.occupancy(given, cells()) > SURFACE_LEVEL
    row = {**_closeness((images, masks), subject.images)}
    row["iou in space"] = float((inside & subject.inside).sum() / (inside | subject.inside).sum().clamp_min(1))
    return row, images


def _closeness(made: Pictures, truth: Tensor) -> Row:
    (images, masks), true, true_masks = made, truth[..., :3], truth[..., 3:]
    return {
        "psnr": float(psnr(images, true).clamp_max(100.0).mean()),
        "silhouette iou": float(silhouette_iou(masks, true_masks).mean()),
        "contextual": float(contextual_distance(images, true, PixelPatches()).mean()),
    }


def table_of(rows: list[list[Row]]) -> Table:
    """Return a Markdown table of mean and standard error over the objects; rows: by number of pictures, by object."""
    table = Table("", *MEASURES, "better", box=box.MARKDOWN)
    space = "iou in space"
    for name, each in zip(NAMES, rows, strict=True):
        better = sum(row[space] > alone[space] for row, alone in zip(each, rows[0], strict=True))
        means = (with_error([row[measure] for row in each], digits) for measure, digits in MEASURES.items())
        table.add_row(name, *means, "" if each is rows[0] else f"{better} of {len(each)}")
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.several_images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--weights", default="asset://priors/objects", help="weight file of an `objects` prior")
    parser.add_argument("--count", type=int, default=10, help="maximum number of objects")
    parser.add_argument("--off", type=float, default=0.0, help="maximum error of a label, degrees; not for captures")
    parser.add_argument("--sheet", type=output_path, help="PNG: pictures and true views, above the views of each row")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.count < 1 or not 0 <= options.off <= 45:
        raise InputError("--count: expected 1 or more; --off: expected 0 to 45")
    return options


@torch.no_grad()
def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    prior = open_suited(options.weights, PIXELS)
    if not isinstance(prior, ObjectsPrior):
        raise InputError(f"--weights {options.weights}: {prior.name} has no occupancy to compare")
    folder = input_path(options.folder)
    is_captured = not holds_meshes(folder)
    if is_captured and options.off:
        raise InputError("--off: only for meshes, which are rendered; the pictures of captures exist already")
    subjects = captured(folder, options.count) if is_captured else held_out(options.folder, options.count, options.off)
    rows: list[list[Row]] = [[] for _ in NAMES]
    sheet: list[list[Tensor]] = []
    for subject in subjects:
        found = [measure(prior, subject, number + 1) for number in range(len(NAMES))]
        for each, (row, _) in zip(rows, found, strict=True):
            each.append(row)
        Console(stderr=True).print(subject.name, *(f"{row['iou in space']:.3f}" for row, _ in found))
        sheet.append([*(picture.image for picture in subject.pictures), *subject.images[..., :3]])
        sheet += [[torch.ones_like(images[0])] * 3 + list(images) for _, images in found]
    Console(width=180).print(table_of(rows))
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
