"""Quality of a prior on unseen meshes: `python -m bench.objects_prior FOLDER [--weights FILE ...] [--count 64]`.

FOLDER holds packs with their catalogue, or mesh files (docs/training-priors.md). The benchmark uses the meshes that
training holds out: under ambient light, an input view from any azimuth and -10 to 45 degrees elevation, six views from
anywhere; the index of an object fixes its angles and noise. Results are means over views, then mean and standard error
over objects. `--licences others` measures meshes from which the shipped prior is kept by their licences.

"IoU in space" compares the occupancy estimated from the input image alone with the true one, on a grid over a cube, at
the threshold that is best over all objects.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import get_args

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.runs import Row
from bench.unseen import with_error
from liftstudio.cli import command_line
from liftstudio.core.assets import output_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.data.images import grid, save_image
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior
from liftstudio.priors.samplers import euler
from liftstudio.renderers.textured import Pictures
from liftstudio.training.data import DataConfig, Licences, Sample
from liftstudio.training.meshes.source import MeshObjects

CELLS = 48  # along each side of the cube in which occupancies are compared
HALF_SIDE = 0.95  # half the side of that cube, world units
LEVELS = torch.arange(-4.0, 2.01, 0.25)  # logits above which a cell counts as inside
MEASURES = {"psnr": 2, "ssim": 3, "silhouette iou": 3, "iou in space": 3}  # digits
SHEET_OBJECTS = 16
ONCE = "one evaluation"


def estimators(prior: Prior, sample: Sample, number: int, steps: list[int]) -> dict[str, Callable[[], Pictures]]:
    """Return functions that generate all views, by name in the table; steps: numbers of steps to sample with."""
    condition, cameras = prior.condition(input_of(sample)), sample.rig.views
    noise = torch.randn(len(cameras), *prior.latent_shape, generator=torch.Generator().manual_seed(number))

    def decoded(latents: Tensor) -> Pictures:
        images, masks = prior.decode(latents)
        assert masks is not None, "checked when the weights were opened"
        return images, masks

    def once() -> Pictures:
        return decoded(prior.denoise(NoisyViews(prior.sigma_max * noise, prior.sigma_max, condition, cameras)))

    def sampled(count: int) -> Pictures:
        sigmas = prior.sigmas(count)
        return decoded(euler(lambda z, sigma: prior.denoise(NoisyViews(z, sigma, condition, cameras)), noise, sigmas))

    return {ONCE: once} | {f"sampled, {count} steps": partial(sampled, count) for count in steps}


def compare(pictures: Pictures, sample: Sample) -> Row:
    """Return the metrics, averaged over the views."""
    (images, masks), truth = pictures, sample.images
    return {
        "psnr": float(psnr(images, truth[..., :3]).clamp_max(100.0).mean()),
        "ssim": float(ssim(images, truth[..., :3]).mean()),
        "silhouette iou": float(silhouette_iou(masks, truth[..., 3:]).mean()),
    }


def volumes(prior: ObjectsPrior, sample: Sample) -> Tensor:
    """Return IoU [L] with the true occupancy at each of LEVELS."""
    assert sample.solid is not None
    axis = HALF_SIDE * ((2 * torch.arange(CELLS) + 1) / CELLS - 1)
    points = torch.cartesian_prod(axis, axis, axis)
    inside, logits = sample.solid.contains(points), prior.occupancy(input_of(sample), points)
    guessed = logits[None] > LEVELS[:, None]
    return (guessed & inside).sum(1) / (guessed | inside).sum(1).clamp_min(1)


def input_of(sample: Sample) -> PosedImage:
    """Return the input view in the form that a prior takes."""
    return PosedImage(sample.input_image[..., :3], sample.input_image[..., 3:], sample.rig.input_camera)


def measure(
    prior: Prior, samples: list[Sample], label: str, steps: list[int]
) -> tuple[dict[str, list[Row]], list[list[list[Tensor]]]]:
    """Return the rows of all objects by name in the table, and sheet rows for the first objects."""
    rows: dict[str, list[Row]] = {}
    sheet: list[list[list[Tensor]]] = []
    levels = []
    for number, sample in enumerate(track(samples, label, console=Console(stderr=True))):
        made = {name: estimate() for name, estimate in estimators(prior, sample, number, steps).items()}
        for name, pictures in made.items():
            rows.setdefault(f"{label}: {name}", []).append(compare(pictures, sample))
        if isinstance(prior, ObjectsPrior):
            levels.append(volumes(prior, sample))
        if number < SHEET_OBJECTS:
            sheet.append([list(images) for images, _ in made.values()])
    if levels:
        by_level = torch.stack(levels)
        best = int(by_level.mean(0).argmax())
        Console().print(f"{label}: IoU in space at level {LEVELS[best]:g}")
        for row, values in zip(rows[f"{label}: {ONCE}"], by_level, strict=True):
            row["iou in space"] = float(values[best])
    return rows, sheet


def repeated(sample: Sample) -> Row:
    """Return the row of the baseline that repeats the input image at all cameras."""
    rgb, alpha = sample.input_image.expand_as(sample.images).split([3, 1], dim=-1)
    return compare((rgb, alpha), sample)


def table_of(rows: dict[str, list[Row]]) -> Table:
    """Return a Markdown table of mean and standard error over the objects."""
    table = Table("", *MEASURES, box=box.MARKDOWN)
    for name, each in rows.items():
        columns = [[row[measure] for row in each if measure in row] for measure in MEASURES]
        digits = MEASURES.values()
        table.add_row(name, *(with_error(c, d) if c else "" for c, d in zip(columns, digits, strict=True)))
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.objects_prior", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--weights", nargs="+", default=["asset://priors/objects"], help="weight files")
    parser.add_argument("--steps", type=int, nargs="*", default=[], help="also sample with these numbers of steps")
    parser.add_argument("--count", type=int, default=64, help="maximum number of held-out meshes")
    parser.add_argument("--licences", choices=get_args(Licences), default="permissive")
    parser.add_argument("--sheet", type=output_path, help="PNG: input view and truth, above the results of each prior")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if min(options.count, *options.steps, 1) < 1:
        raise InputError("--count, --steps: expected 1 or more")
    return options


def open_suited(weights: str, resolution: int) -> Prior:
    """Open the prior of a weight file, for views of `resolution` pixels with masks.

    Raises:
        InputError: missing or unknown weights, or a prior that has another resolution or no masks.
    """
    prior = open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config(weights)), torch.device("cpu"))
    if prior.resolution != resolution:
        expected = f"expected {resolution} pixels"
        raise InputError(f"--weights {weights}: {prior.name} generates views of {prior.resolution} pixels; {expected}")
    if prior.decode(torch.zeros(1, *prior.latent_shape))[1] is None:
        raise InputError(f"--weights {weights}: {prior.name} generates no masks, which this benchmark needs")
    return prior


@torch.no_grad()
def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    data = DataConfig(objects=options.folder, licences=options.licences)
    priors = {weights: open_suited(weights, data.resolution) for weights in options.weights}
    source = MeshObjects(data)
    count = min(options.count, len(source.measured))
    if count < options.count:
        Console(stderr=True).print(f"--count {options.count}: training holds out only {count} meshes; using all")
    samples = [source.unseen(number) for number in range(count)]
    rows = {"input repeated": [repeated(sample) for sample in samples]}
    blocks: list[list[list[Tensor]]] = [
        [[sample.input_image[..., :3], *sample.images[..., :3]]] for sample in samples[:SHEET_OBJECTS]
    ]
    for weights, prior in priors.items():
        found, sheet = measure(prior, samples, prior.name if len(priors) == 1 else weights, options.steps)
        rows |= found
        for block, more in zip(blocks, sheet, strict=False):
            block += [[torch.ones_like(block[0][0]), *images] for images in more]
    Console(width=180).print(table_of(rows))
    if options.sheet:
        half = (len(blocks) + 1) // 2
        columns = [[row for block in part for row in block] for part in (blocks[:half], blocks[half:])]
        save_image(options.sheet, grid([left + right for left, right in zip_longest(*columns, fillvalue=[])]))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
