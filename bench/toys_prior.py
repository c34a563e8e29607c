"""Quality of a prior on unseen objects: `python -m bench.toys_prior [--weights FILE] [--sampler 50 80 0.05 2.5]`.

Each object is seen on a closed sine orbit of 21 views that ends at the input view; the index of an object fixes its
angles and noise. The 20 novel views are compared with the ground truth over white, at the prior's resolution, also
separately for views on the input's side (`near`) and behind (`back`: 90 degrees and more from the input view). Results
are means over views, then mean and standard error over objects. Baselines: the input view repeated, and the mean of
training objects on the same orbit.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.timing import measure, run_seconds
from bench.unseen import RIG, mean_and_error, prompted, uniform, with_error
from liftstudio.core.assets import output_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import grid, save_image
from liftstudio.data.orbits import sine
from liftstudio.methods.sv3d.denoising import triangle
from liftstudio.metrics.images import psnr, ssim
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior
from liftstudio.priors.samplers import euler, karras_sigmas
from liftstudio.renderers.textured import Pictures
from liftstudio.synthetic import Kind, render
from liftstudio.training.rigs import DISTANCE, FOV_DEG

FRAMES = 21
LEVELS = (5.0, 1.0)  # noise levels of single evaluations, in addition to the highest
MEASURES = {"psnr": 2, "psnr near": 2, "psnr back": 2, "ssim": 3, "iou": 3, "seconds": 2}  # digits
SHEET_OBJECTS = 8


@dataclass(frozen=True)
class Sampler:
    """Euler steps from `sigma_max` to `sigma_min`; guidance rises to `peak` opposite the input view."""

    steps: int
    sigma_max: float
    sigma_min: float
    peak: float

    @property
    def name(self) -> str:
        """Name in the table."""
        guidance = f", guidance {self.peak:g}" if self.peak != 1 else ""
        return f"{self.steps} steps, sigma {self.sigma_max:g} to {self.sigma_min:g}{guidance}"

    def sample(self, prior: Prior, scene: "Scene") -> Tensor:
        """Sample latents of all views."""
        condition, cameras = prior.condition(scene.posed), scene.cameras
        scale = None if self.peak == 1 else triangle(len(cameras), most=self.peak).to(cameras.device)

        def denoise(latents: Tensor, sigma: float) -> Tensor:
            return prior.denoise(NoisyViews(latents, sigma, condition, cameras, scale))

        return euler(denoise, scene.noise, karras_sigmas(self.steps, self.sigma_min, self.sigma_max))


@dataclass(frozen=True)
class Scene:
    """One object: its input view, the orbit that ends there, the true views (on the CPU), and unit noise."""

    posed: PosedImage
    cameras: Cameras
    truth: Pictures
    noise: Tensor


def make_scene(kind: Kind, index: int, prior: Prior, device: torch.device) -> Scene:
    """Return the scene of unseen object `index`; the inputs of the prior are on `device`."""
    generator = torch.Generator().manual_seed(2**31 + index)  # independent of the draws of the input view
    orbit = draw_orbit(prior.resolution, generator)
    seen = render(prompted(kind, index), orbit)
    cameras = orbit.to(device)
    posed = PosedImage(seen.rgb[-1].to(device), seen.alpha[-1].to(device), cameras[-1:])
    noise = torch.randn(FRAMES, *prior.latent_shape, generator=generator).to(device)
    return Scene(posed, cameras, (seen.rgb, seen.alpha), noise)


def draw_orbit(size: int, generator: torch.Generator) -> Cameras:
    """Draw a sine orbit in the ranges of training."""
    elevation_deg = uniform(*RIG.input_elevation_deg, generator)
    amplitude_deg = uniform(-RIG.amplitude_deg, RIG.amplitude_deg, generator)
    return orbit_cameras(*sine(FRAMES, elevation_deg, amplitude_deg), DISTANCE, FOV_DEG, size, size)


def make_baselines(kind: Kind, index: int, scene: Scene, mean_of: int) -> dict[str, Pictures]:
    """Return the views of the baselines; mean_of: number of training objects in the mean orbit, 0 for none."""
    images, masks = scene.truth
    baselines = {"input repeated": (images[-1:].expand_as(images), masks[-1:].expand_as(masks))}
    if mean_of:
        name = f"mean of {mean_of} orbits"
        baselines[name] = mean_orbit(kind, scene.cameras.to("cpu"), index * mean_of, mean_of)
    return baselines


def mean_orbit(kind: Kind, cameras: Cameras, first: int, count: int) -> Pictures:
    """Return the mean views of `count` training objects from index `first` on, input views at azimuth 0."""
    total = torch.zeros(len(cameras), cameras.height, cameras.width, 4)
    for index in range(first, first + count):
        seen = render(prompted(kind, index, "train"), cameras)
        total += torch.cat([seen.rgb, seen.alpha], dim=-1)
    mean = total / count
    return mean[..., :3], mean[..., 3:]


def estimators(prior: Prior, scene: Scene, samplers: list[Sampler]) -> dict[str, Callable[[], Pictures]]:
    """Return functions that generate all views, by name in the table."""
    condition = prior.condition(scene.posed)
    clean = prior.encode(*(pictures.to(scene.noise.device) for pictures in scene.truth))

    def decoded(latents: Tensor) -> Pictures:
        images, masks = prior.decode(latents)
        assert masks is not None, "the benchmark needs a prior with masks"
        return images.cpu(), masks.cpu()

    def at(sigma: float, start: Tensor) -> Callable[[], Pictures]:
        return lambda: decoded(prior.denoise(NoisyViews(start + sigma * scene.noise, sigma, condition, scene.cameras)))

    # The highest level starts from pure noise, as in sampling: even sigma 80 leaves traces of the truth in 4096 pixels.
    evaluations = {f"one evaluation, sigma {prior.sigma_max:g}": at(prior.sigma_max, torch.zeros_like(clean))}
    evaluations |= {f"one evaluation, sigma {level:g}": at(level, clean) for level in LEVELS}
    return evaluations | {s.name: lambda s=s: decoded(s.sample(prior, scene)) for s in samplers}


def compare(pictures: Pictures, truth: Pictures, cameras: Cameras) -> dict[str, float]:
    """Return all measures over the novel views except `seconds`."""
    images, masks, true_images, true_masks = (p[:-1] for p in (*pictures, *truth))
    is_back = ((cameras.azimuth_deg[:-1] - 180).abs() <= 90).cpu()
    decibels = psnr(images, true_images).clamp_max(100.0)
    drawn, true = (m > 0.5 for m in (masks, true_masks))
    both, either = (drawn & true).sum((1, 2, 3)), (drawn | true).sum((1, 2, 3))
    values = {
        "psnr": decibels,
        "psnr near": decibels[~is_back],
        "psnr back": decibels[is_back],
        "ssim": ssim(images, true_images),
        "iou": both / either.clamp_min(1),
    }
    return {name: float(value.mean()) for name, value in values.items()}


@dataclass(frozen=True)
class Measured:
    """Table rows of one object, and its part of the contact sheet."""

    rows: dict[str, dict[str, float]]
    sheet: list[list[Tensor]]


def measure_object(prior: Prior, scene: Scene, samplers: list[Sampler], baselines: dict[str, Pictures]) -> Measured:
    """Return the rows of one object: the baselines, and the views of the prior."""
    pictures, seconds = dict(baselines), dict[str, float]()
    for name, estimate in estimators(prior, scene, samplers).items():

        def keep(name: str = name, estimate: Callable[[], Pictures] = estimate) -> None:
            pictures[name] = estimate()

        seconds[name] = run_seconds(keep)
    rows = {name: compare(made, scene.truth, scene.cameras) for name, made in pictures.items()}
    for name, value in seconds.items():
        rows[name]["seconds"] = value
    shown = [scene.truth[0], *(pictures[s.name][0] for s in samplers), pictures[next(iter(seconds))][0]]
    return Measured(rows, [[scene.truth[0][-1], *images] for images in shown])


def table_of(rows: list[dict[str, dict[str, float]]]) -> Table:
    """Return a Markdown table of mean and standard error over the objects."""
    table = Table("", *MEASURES, box=box.MARKDOWN)
    for name in rows[0]:
        columns = [[row[name][m] for row in rows if m in row[name]] for m in MEASURES]
        texts = [with_error(values, d) if values else "" for values, d in zip(columns, MEASURES.values(), strict=True)]
        table.add_row(name, *texts)
    return table


def summary(rows: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return name -> measure -> (mean, standard error)."""
    return {name: {m: mean_and_error([row[name][m] for row in rows]) for m in rows[0][name]} for name in rows[0]}


def denoise_seconds(prior: Prior, scene: Scene, views: int) -> float:
    """Return the best time in seconds of one evaluation with `views` views."""
    condition, cameras = prior.condition(scene.posed), scene.cameras[:views]
    noisy = prior.sigma_max * scene.noise[:views]
    return measure(lambda: prior.denoise(NoisyViews(noisy, prior.sigma_max, condition, cameras)), repeats=3, warmups=1)


def main() -> None:
    """Run the benchmark and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.toys_prior", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="asset://priors/toys", help="weight file (default: of the bundled prior)")
    parser.add_argument("--kind", choices=get_args(Kind), default="toy")
    parser.add_argument("--count", type=int, default=50, help="number of unseen objects")
    parser.add_argument("--sampler", nargs=4, action="append", metavar=("STEPS", "SIGMA_MAX", "SIGMA_MIN", "PEAK"))
    parser.add_argument("--mean-of", type=int, default=100, help="number of training objects in a mean orbit; 0: none")
    parser.add_argument(
        "--sheet", type=output_path, help="PNG: rows of truth, samples, and evaluations at the highest noise"
    )
    parser.add_argument("--json", type=output_path, help="the table as a file")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config(options.weights)), device)
    given = options.sampler or [(prior.steps, prior.sigma_max, prior.sigma_min, prior.guidance_scale)]
    samplers = [Sampler(int(given_steps), *map(float, others)) for given_steps, *others in given]
    measured = []
    for index in track(range(options.count), "objects", console=Console(stderr=True)):
        scene = make_scene(options.kind, index, prior, device)
        baselines = make_baselines(options.kind, index, scene, options.mean_of)
        measured.append(measure_object(prior, scene, samplers, baselines))
    rows = [each.rows for each in measured]
    Console(width=180).print(table_of(rows))
    seconds = {views: denoise_seconds(prior, scene, views) for views in (4, FRAMES)}
    Console().print("one evaluation:", ", ".join(f"{s:.2f} s for {views} views" for views, s in seconds.items()))
    if options.sheet:
        save_image(options.sheet, grid([row for each in measured[:SHEET_OBJECTS] for row in each.sheet]))
    if options.json:
        weights = {"weights": options.weights, "kind": options.kind, "count": options.count}
        data = {**weights, "seconds": seconds, "mean_and_error": summary(rows), "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
