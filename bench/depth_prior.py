"""Inversion with depth against inversion without: `python -m bench.depth_prior [--prior FOLDER] [--count 12]`.

Images of unseen toys and composites with high-contrast patterns, composited over grey, are inverted by DDIM and sampled
back with the empty prompt, as in the comparison of HiFi-123's supplement: with their depth, with the depth of their
masks alone (constant on the object), and without depth. The results are compared with the original images. The
autoencoder alone is the upper bound. The table has mean and standard error over the objects; gains are paired.
"""

import argparse
import json
from typing import Any, get_args

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.textures import Rows
from bench.unseen import mean_and_error, with_error
from liftstudio.core import registry
from liftstudio.core.assets import output_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.files import atomic_write
from liftstudio.data.images import grid, save_image
from liftstudio.methods.hifi123 import training
from liftstudio.methods.hifi123.depth import mask_channel
from liftstudio.methods.hifi123.prior import GREY, DepthPrior
from liftstudio.metrics.images import psnr, ssim
from liftstudio.synthetic import Kind
from liftstudio.training.data import DataConfig, ProceduralObjects, Sample
from liftstudio.training.rigs import RigConfig

DIGITS = {"psnr": 2, "ssim": 4, "psnr on the object": 2}
CEILING, BASELINE = "autoencoder alone", "without depth"
VIEWS = 2  # images per object
SHEET_OBJECTS = 8  # of each kind, on the sheet


def unseen(kind: Kind, index: int, resolution: int) -> Sample:
    """Return views from anywhere of unseen object `index` of a kind, with high-contrast patterns."""
    rig = RigConfig(views=(VIEWS, VIEWS), orbit_share=0.0)
    data = DataConfig(toys=float(kind == "toy"), patterned=1.0, resolution=resolution, rig=rig)
    return ProceduralObjects(data).unseen(index)


def depth_channels(sample: Sample, side: int) -> dict[str, Tensor]:
    """Return the depth channels [V, 1, side, side] of each variant."""
    known = training.view_depths(sample, side)
    masks = mask_channel(sample.images[..., 3:], (side, side))
    nothing = torch.full_like(known, training.NO_DEPTH)
    return {"depth": known, "mask alone": masks, BASELINE: nothing}


@torch.no_grad()
def measure_object(prior: Any, sample: Sample, steps: int, levels: int) -> tuple[Rows, dict[str, Tensor]]:
    """Return the rows of one object, and its images of each variant."""
    masks = sample.images[..., 3:]
    images = training.before(GREY, sample.images)
    latents = prior.encode(images.to(prior.device))
    found = {CEILING: latents}
    for name, depths in depth_channels(sample, latents.shape[-1]).items():
        found[name] = training.reconstructed(prior, latents, depths.to(prior.device), steps, levels)
    pictures = {name: prior.decode(each).cpu() for name, each in found.items()}
    return {name: compare(each, images, masks) for name, each in pictures.items()}, {"picture": images, **pictures}


def compare(images: Tensor, truth: Tensor, masks: Tensor) -> dict[str, float]:
    """Return means over images [V, R, R, 3]; "on the object": only over pixels inside the masks [V, R, R, 1]."""
    inside = (masks > 0.5).expand_as(truth)
    error = (images - truth)[inside].square().mean()
    values = {"psnr": psnr(images, truth).mean(), "ssim": ssim(images, truth).mean()}
    return {name: float(value) for name, value in {**values, "psnr on the object": -10 * error.log10()}.items()}


def table_of(rows: list[Rows], title: str) -> Table:
    """Return a Markdown table of mean and standard error over the objects, and the gain over no depth."""
    table = Table(title, *DIGITS, "psnr gained", box=box.MARKDOWN)
    for name in rows[0]:
        texts = [with_error([row[name][measure] for row in rows], digits) for measure, digits in DIGITS.items()]
        gains = [row[name]["psnr"] - row[BASELINE]["psnr"] for row in rows]
        table.add_row(name, *texts, "" if name == BASELINE else with_error(gains, 2))
    return table


def summary(rows: list[Rows]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return variant -> measure -> (mean, standard error)."""
    return {name: {m: mean_and_error([row[name][m] for row in rows]) for m in DIGITS} for name in rows[0]}


def main() -> None:
    """Run the benchmark and print a table for each kind of object and one for all."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.depth_prior", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", default="asset://priors/depth-tiny", help="folder (default: of the bundled prior)")
    parser.add_argument("--count", type=int, default=12, help="number of unseen objects of each kind")
    parser.add_argument("--steps", type=int, default=20, help="steps of the timestep grid")
    parser.add_argument("--levels", type=int, default=0, help="number of steps to invert (default: all)")
    parser.add_argument("--sheet", type=output_path, help="PNG: the images, above a row per variant")
    parser.add_argument("--json", type=output_path, help="the table as a file")
    options = parser.parse_args()

    registry.load_methods()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = DepthPrior.Config(weights=options.prior)
    prior: Any = ComponentSpec("depth-prior", "sd2-depth", block).build(device=device)
    levels = options.levels or options.steps
    rows: dict[str, list[Rows]] = {}
    columns = []
    for kind in get_args(Kind):
        rows[kind] = []
        for index in track(range(options.count), f"{kind}s", console=Console(stderr=True)):
            row, pictures = measure_object(prior, unseen(kind, index, prior.resolution), options.steps, levels)
            rows[kind].append(row)
            columns += [[each[0] for each in pictures.values()]] if index < SHEET_OBJECTS else []
    rows["all"] = [row for each in rows.values() for row in each]
    for kind, measured in rows.items():
        Console(width=160).print(table_of(measured, kind))
    if options.sheet:
        save_image(options.sheet, grid([list(row) for row in zip(*columns, strict=True)]))
    if options.json:
        settings = {"prior": options.prior, "count": options.count, "steps": options.steps, "levels": levels}
        data = {**settings, "mean_and_error": {kind: summary(each) for kind, each in rows.items()}, "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
