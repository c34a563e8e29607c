"""Sixteen synchronised views of unseen objects, under both guidances: `python -m bench.syncdreamer [--count 50]`.

Each toy is seen by SyncDreamer's cameras: 16 azimuths at elevation 30 degrees. The first is the input view, the others
are compared with the ground truth over white, at the prior's resolution. The index of an object fixes its input and
noise, so all settings start from the same noise. Results are means over views, then average, best and variance over the
instances of each object (HarmonyView, table 6), then mean and standard error over objects. CD score and diversity: see
`metrics.diversity`. With `--clip`, the CD score is that of HarmonyView, for the text "An image of NOUN"; without it, a
tiny encoder embeds the views, and the centroid of the true views replaces the text. E_flow, with `--raft`: see
`metrics.flow`, in pixels of all 16 views resized to 256 as in the paper. If a prior has no masks, silhouettes of its
views over white are used. Baselines: the input view repeated, and the mean of training objects at the same cameras.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bench.toys_prior import mean_orbit
from bench.unseen import prompted, with_error
from liftstudio.cli import command_line
from liftstudio.core import registry
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import grid, resize_smooth, save_image
from liftstudio.metrics.diversity import cd_score, cd_terms, centroid, instance_diversity
from liftstudio.metrics.embeddings import Clip, load_encoder, object_prompt
from liftstudio.metrics.flow import flow_error, load_raft, orbit_flows
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.instances import summarize_instances
from liftstudio.priors.base import PosedImage, Prior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior
from liftstudio.renderers.textured import Pictures
from liftstudio.synthetic import render
from liftstudio.views.prior_views import silhouette

MEASURES = {"psnr": 2, "ssim": 3, "iou": 3, "e_flow": 3}  # measure of each instance -> digits
LOWER_IS_BETTER = {"e_flow"}
FLOW_SIZE = 256  # width and height in pixels of the views for optical flow
NOUN = "toy"  # describes all objects
SHEET_OBJECTS = 4

Rows = dict[str, dict[str, Any]]  # setting -> measure -> value


@dataclass(frozen=True)
class Scene:
    """One object: its input view, the cameras, and the true views."""

    posed: PosedImage
    cameras: Cameras
    truth: Pictures


def make_scene(index: int, source: Any, prior: Prior) -> Scene:
    """Return the scene of unseen toy `index`, with the cameras of a source `syncdreamer-views`; on the CPU.

    Raises:
        InputError: the prior does not support these cameras.
    """
    size = prior.resolution
    azimuth_deg, elevation_deg = source.angles()
    lens = source.config
    cameras = orbit_cameras(azimuth_deg, elevation_deg, lens.distance, lens.fov_deg, size, size)
    prior.check_cameras(cameras[:1], cameras)
    seen = render(prompted("toy", index), cameras)
    return Scene(PosedImage(seen.rgb[0], seen.alpha[0], cameras[:1]), cameras, (seen.rgb, seen.alpha))


def make_source(instances: int, options: dict[str, Any], device: torch.device) -> Any:
    """Build the source of views with these options."""
    found = registry.find("syncdreamer-views", "views")
    block = ComponentSpec("prior", AUTO, AutoPrior.Config("asset://priors/toys"))
    config = found.Config(image="none", prior=block, instances=instances, **options)
    return found(config, device=device)


def baselines(scene: Scene, index: int, mean_of: int) -> dict[str, Pictures]:
    """Return the baselines, one instance each; mean_of: number of training toys in the mean views, 0 for none."""
    images, masks = scene.truth
    pictures = {"input repeated": (images[:1].expand_as(images)[None], masks[:1].expand_as(masks)[None])}
    if mean_of:
        mean_images, mean_masks = mean_orbit("toy", scene.cameras, index * mean_of, mean_of)
        pictures[f"mean of {mean_of} orbits"] = mean_images[None], mean_masks[None]
    return pictures


@torch.no_grad()
def sample(source: Any, prior: Prior, scene: Scene, index: int) -> Pictures:
    """Sample images [S, T, R, R, 3] and masks [S, T, R, R, 1] of all instances; on the CPU."""
    generator = torch.Generator().manual_seed(2**31 + index)
    sigmas = prior.sigmas(source.config.steps or source.suited_steps(prior))
    posed, device = scene.posed, source.device
    given = PosedImage(posed.image.to(device), posed.mask.to(device), posed.camera.to(device))
    latents = source.sample(prior, given, scene.cameras.to(device), sigmas, generator, lambda step, latents: None)
    images, masks = prior.decode(latents)
    images = images.cpu()
    if masks is None:  # like `liftstudio.views.prior_views`
        masks = torch.stack([silhouette(image) for image in images])
    shape = (source.config.instances, len(scene.cameras))
    return images.unflatten(0, shape), masks.cpu().unflatten(0, shape)


class Judge:
    """Compares instances with the ground truth.

    Args:
        clip: folder of a CLIP checkpoint; None: a tiny encoder, and the centroid of the true views instead of a text.
        noun: noun for the objects in CLIP's text.
        raft: weights of RAFT, or a folder with them; None: no E_flow.
        device: of the networks.

    Raises:
        InputError: weights are missing or faulty, or torchvision, which RAFT needs, is missing.
    """

    def __init__(self, clip: Path | None, noun: str, raft: Path | None, device: torch.device) -> None:
        self.encoder = load_encoder(clip, device)
        self.text: str | None = None
        self.meaning: Tensor | None = None  # embedding of the text
        if isinstance(self.encoder, Clip):
            self.text = object_prompt(noun)
            self.meaning = self.encoder.text(self.text)
        self.estimate = load_raft(str(raft), device) if raft else None

    @torch.no_grad()
    def compare(self, found: dict[str, Pictures], scene: Scene) -> Rows:
        """Return for each setting MEASURES and CD score terms per instance [S], and the diversity over all."""
        truth = scene.truth[0]
        meaning = centroid(self.encoder.images(truth)) if self.meaning is None else self.meaning
        true_flows = self._flows(truth) if self.estimate else None
        return {name: self._row(pictures, scene, meaning, true_flows) for name, pictures in found.items()}

    def _row(self, pictures: Pictures, scene: Scene, meaning: Tensor, true_flows: Tensor | None) -> dict[str, Any]:
        images, masks = (p[:, 1:] for p in pictures)
        true_images, true_masks = (p[1:] for p in scene.truth)
        drawn, true = masks > 0.5, true_masks > 0.5
        both, either = (drawn & true).sum((2, 3, 4)), (drawn | true).sum((2, 3, 4))
        embedded = torch.stack([self.encoder.images(views) for views in pictures[0]])
        distance, variance = cd_terms(embedded, meaning)
        row = {
            "psnr": torch.stack([psnr(one, true_images).clamp_max(100).mean() for one in images]).tolist(),
            "ssim": torch.stack([ssim(one, true_images).mean() for one in images]).tolist(),
            "iou": (both / either.clamp_min(1)).mean(1).tolist(),
            "cd distance": distance.tolist(),
            "cd variance": variance.tolist(),
            "diversity": instance_diversity(embedded) if len(images) > 1 else None,
        }
        if true_flows is not None:
            row["e_flow"] = [flow_error(self._flows(views), true_flows) for views in pictures[0]]
        return row

    def _flows(self, views: Tensor) -> Tensor:
        assert self.estimate is not None
        return orbit_flows(resize_smooth(views, FLOW_SIZE, FLOW_SIZE), self.estimate)


def table_of(rows: list[Rows]) -> Table:
    """Return a Markdown table with a line per setting."""
    measures = [measure for measure in MEASURES if all(measure in row for row in rows[0].values())]
    columns = [f"{measure}{kind}" for measure in measures for kind in ("", " best", " variance")]
    table = Table("", *columns, "diversity", "CD score", box=box.MARKDOWN)
    for name in rows[0]:
        found = [row[name] for row in rows]
        texts = [text for measure in measures for text in over_instances(found, measure)]
        diversity = [row["diversity"] for row in found if row["diversity"] is not None]
        score = score_of(found)
        texts += [with_error(diversity, 4) if diversity else "", "" if score is None else f"{score:.3f}"]
        table.add_row(name, *texts)
    return table


def over_instances(rows: list[dict[str, Any]], measure: str) -> list[str]:
    """Return average, best and variance with standard errors over objects; only the average for single instances."""
    values, digits = [torch.tensor([row[measure]]) for row in rows], MEASURES[measure]
    each = [summarize_instances(value, higher_is_better=measure not in LOWER_IS_BETTER) for value in values]
    average = with_error([one.average for one in each], digits)
    if values[0].shape[1] == 1:
        return [average, "", ""]
    best, variance = [one.best for one in each], [one.variance for one in each]
    return [average, with_error(best, digits), with_error(variance, 2 * digits)]


def score_of(rows: list[dict[str, Any]]) -> float | None:
    """Return the CD score over all instances of all objects; None if their views do not vary."""
    distance, variance = (torch.tensor([row[f"cd {term}"] for row in rows]) for term in ("distance", "variance"))
    return cd_score(distance, variance)


def settings_of(scales: list[float], harmony_scales: list[list[float]]) -> dict[str, dict[str, Any]]:
    """Return the options of the view source by name in the table."""
    plain = {f"cfg {scale:g}": {"guidance": "cfg", "guidance_scale": scale} for scale in scales}
    harmony = {
        f"harmonyview {s1:g}, {s2:g}": {"guidance": "harmonyview", "harmony_scales": (s1, s2)}
        for s1, s2 in harmony_scales
    }
    return plain | harmony


def guidance_scale(text: str) -> float:
    """Parse an argument of --cfg. In configs, 0 selects the prior's default; here, omitting --cfg does."""
    scale = float(text)
    if not scale >= 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}; omit --cfg for the prior's default")
    return scale


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.syncdreamer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="asset://priors/toys", help="weight file (default: of the bundled prior)")
    parser.add_argument("--count", type=int, default=50, help="number of unseen toys")
    parser.add_argument("--instances", type=int, default=4, help="instances per toy")
    parser.add_argument("--cfg", type=guidance_scale, nargs="*", help="guidance scales (default: the prior's)")
    parser.add_argument("--harmony", type=float, nargs=2, action="append", metavar=("S1", "S2"), help="like --cfg")
    parser.add_argument("--clip", type=input_path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--noun", help=f"noun for the objects in CLIP's text (default: {NOUN})")
    parser.add_argument("--raft", type=input_path, help="RAFT's weight file, for E_flow; needs torchvision")
    parser.add_argument("--mean-of", type=int, default=100, help="number of training toys in the mean views; 0: none")
    parser.add_argument("--sheet", type=output_path, help="PNG: truth, above the first instance of every setting")
    parser.add_argument("--json", type=output_path, help="file for all results")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.noun and not options.clip:
        raise InputError("--noun: only CLIP encodes text; give its folder by --clip")
    if options.count < 1:
        raise InputError(f"--count: expected 1 or more, got {options.count}")
    return options


def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    registry.load_methods()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    judge = Judge(options.clip, options.noun or NOUN, options.raft, device)
    prior = open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config(options.weights)), device)
    scales = [prior.guidance_scale] if options.cfg is None else options.cfg
    settings = settings_of(scales, options.harmony or [list(prior.decomposed_scales)])
    sources = {name: make_source(options.instances, given, device) for name, given in settings.items()}
    rows, sheet = [], []
    for index in track(range(options.count), "toys", console=Console(stderr=True)):
        scene = make_scene(index, next(iter(sources.values())), prior)
        pictures = baselines(scene, index, options.mean_of)
        for name, source in sources.items():
            pictures[name] = sample(source, prior, scene, index)
        rows.append(judge.compare(pictures, scene))
        if index < SHEET_OBJECTS:
            sheet += [list(scene.truth[0]), *(list(pictures[name][0][0]) for name in sources)]
    Console(width=260).print(table_of(rows))
    meaning = judge.text or "centroid of the true views"
    Console().print(f"embeddings: {judge.encoder.name}; CD score: {meaning}")
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    if options.json:
        known = {"weights": options.weights, "embeddings": judge.encoder.name, "meaning": meaning}
        atomic_write(options.json, json.dumps({**known, "objects": rows}, indent=1) + "\n")
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
