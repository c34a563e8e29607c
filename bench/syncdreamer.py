"""Sixteen synchronised views of objects no prior saw, by both guidances: `python -m bench.syncdreamer [--count 50]`.

Each toy is seen by SyncDreamer's cameras: 16 azimuths, 30 degrees above it; the first view is the prompt, the other 15
are compared with the truth over white, at the prior's resolution. Prompts and noise are fixed by the object's number:
all settings start from the same noise. Means over views and instances, then mean and standard error over objects.
PSNR best: of the best instance of each object (HarmonyView, table 6). CD score and diversity: `metrics.diversity`, on
embeddings of CLIP where its folder is given, else of a tiny encoder; the meaning is the centroid of the true views.
Baselines: the prompt repeated, and the mean of training objects before the same cameras.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.toys_prior import Pictures, mean_orbit
from bench.unseen import prompted, with_error
from liftstudio import assets, registry
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.config import Block
from liftstudio.files import atomic_write
from liftstudio.images import grid, save_image
from liftstudio.metrics.diversity import cd_score, cd_terms, centroid, instance_diversity
from liftstudio.metrics.embeddings import ImageEncoder, load_encoder
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.instances import summarize_instances
from liftstudio.priors.base import ImagePrompt, Prior
from liftstudio.priors.opening import AUTO, RecognizedPrior, open_prior
from liftstudio.priors.training.objects import render

DIGITS = {"psnr": 2, "psnr best": 2, "ssim": 3, "iou": 3, "diversity": 4}
SHEET_OBJECTS = 4


@dataclass(frozen=True)
class Scene:
    """One object: its prompt, the cameras, and what is truly seen."""

    prompt: ImagePrompt
    cameras: Cameras
    truth: Pictures


def make_scene(index: int, source: Any, prior: Prior) -> Scene:
    """The scene of the index-th unseen toy, before the cameras of a source `syncdreamer-views`; on the CPU."""
    size = prior.resolution
    azimuth_deg, elevation_deg = source.angles()
    lens = source.config
    cameras = orbit_cameras(azimuth_deg, elevation_deg, lens.distance, lens.fov_deg, size, size)
    seen = render(prompted("toy", index), cameras)
    return Scene(ImagePrompt(seen.rgb[0], seen.alpha[0], cameras[:1]), cameras, (seen.rgb, seen.alpha))


def make_source(instances: int, options: dict[str, Any], device: torch.device) -> Any:
    """The source of views with these options."""
    found = registry.find("syncdreamer-views", "views")
    block = Block("prior", AUTO, RecognizedPrior.Config("asset://priors/toys"))
    config = found.Config(image="", prior=block, instances=instances, **options)
    return found(config, device=device)


def baselines(scene: Scene, index: int, mean_of: int) -> dict[str, Pictures]:
    """One instance each, of one who knows no prior; `mean_of`: training toys in the mean views, 0 for none."""
    images, masks = scene.truth
    pictures = {"input repeated": (images[:1].expand_as(images)[None], masks[:1].expand_as(masks)[None])}
    if mean_of:
        mean_images, mean_masks = mean_orbit("toy", scene.cameras, index * mean_of, mean_of)
        pictures[f"mean of {mean_of} orbits"] = mean_images[None], mean_masks[None]
    return pictures


@torch.no_grad()
def sample(source: Any, prior: Prior, scene: Scene, index: int) -> Pictures:
    """Images [S, T, R, R, 3] and masks [S, T, R, R, 1] of all instances, on the CPU."""
    generator = torch.Generator().manual_seed(2**31 + index)
    sigmas = prior.sigmas(source.suited_steps(prior))
    prompt, device = scene.prompt, source.device
    given = ImagePrompt(prompt.image.to(device), prompt.mask.to(device), prompt.camera.to(device))
    latents = source.sample(prior, given, scene.cameras.to(device), sigmas, generator, lambda step, latents: None)
    images, masks = prior.decode(latents.cpu())
    assert masks is not None, "only priors that know masks are measured"
    shape = (source.config.instances, len(scene.cameras))
    return images.unflatten(0, shape), masks.unflatten(0, shape)


def compare(pictures: Pictures, scene: Scene, encoder: ImageEncoder) -> dict[str, Any]:
    """The measures over the novel views: of each instance [S], and `diversity` of all; terms of the CD score [S]."""
    images, masks = (p[:, 1:] for p in pictures)
    true_images, true_masks = (p[1:] for p in scene.truth)
    drawn, true = masks > 0.5, true_masks > 0.5
    both, either = (drawn & true).sum((2, 3, 4)), (drawn | true).sum((2, 3, 4))
    embedded = torch.stack([encoder.images(views) for views in pictures[0]])
    distance, variance = cd_terms(embedded, centroid(encoder.images(scene.truth[0])))
    return {
        "psnr": torch.stack([psnr(one, true_images).clamp_max(100).mean() for one in images]).tolist(),
        "ssim": torch.stack([ssim(one, true_images).mean() for one in images]).tolist(),
        "iou": (both / either.clamp_min(1)).mean(1).tolist(),
        "cd distance": distance.tolist(),
        "cd variance": variance.tolist(),
        "diversity": instance_diversity(embedded) if len(images) > 1 else None,
    }


def table_of(rows: list[dict[str, dict[str, Any]]]) -> Table:
    """A line for every setting, in Markdown."""
    table = Table("", *DIGITS, "CD score", "variance of psnr", box=box.MARKDOWN)
    for name in rows[0]:
        found = [row[name] for row in rows]
        columns = {m: [sum(row[m]) / len(row[m]) for row in found] for m in ("psnr", "ssim", "iou")}
        columns["psnr best"] = [max(row["psnr"]) for row in found]
        columns["diversity"] = [row["diversity"] for row in found if row["diversity"] is not None]
        texts = [with_error(columns[m], d) if columns[m] else "" for m, d in DIGITS.items()]
        spread = summarize_instances(torch.tensor([row["psnr"] for row in found]), higher_is_better=True).variance
        table.add_row(name, *texts, f"{score_of(found):.3f}", f"{spread:.4f}" if len(found[0]["psnr"]) > 1 else "")
    return table


def score_of(rows: list[dict[str, Any]]) -> float:
    """The CD score over all instances of all objects."""
    distance, variance = (torch.tensor([row[f"cd {term}"] for row in rows]) for term in ("distance", "variance"))
    return cd_score(distance, variance) or float("nan")


def settings_of(scales: list[float], harmony_scales: list[list[float]]) -> dict[str, dict[str, Any]]:
    """Name in the table -> options of the view source."""
    plain = {f"cfg {scale:g}": {"guidance": "cfg", "guidance_scale": scale} for scale in scales}
    harmony = {
        f"harmonyview {s1:g}, {s2:g}": {"guidance": "harmonyview", "harmony_scales": (s1, s2)}
        for s1, s2 in harmony_scales
    }
    return plain | harmony


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.syncdreamer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", default="asset://priors/toys", help="weight file (default: the bundled prior's)")
    parser.add_argument("--count", type=int, default=50, help="unseen toys")
    parser.add_argument("--instances", type=int, default=4, help="of each toy")
    parser.add_argument("--cfg", type=float, nargs="*", help="guidance scales (default: what suits the prior)")
    parser.add_argument("--harmony", type=float, nargs=2, action="append", metavar=("S1", "S2"), help="as --cfg")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--mean-of", type=int, default=100, help="training toys in the mean views; 0: none")
    parser.add_argument("--sheet", type=Path, help="PNG: truth over the first instance of every setting")
    parser.add_argument("--json", type=Path, help="all figures as a file")
    options = parser.parse_args()

    registry.load_extensions(assets.ROOT / "custom")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prior = open_prior(Block("prior", AUTO, RecognizedPrior.Config(options.weights)), device)
    encoder = load_encoder(options.clip)
    scales = [prior.guidance_scale] if options.cfg is None else options.cfg
    settings = settings_of(scales, options.harmony or [list(prior.decomposed_scales)])
    sources = {name: make_source(options.instances, given, device) for name, given in settings.items()}
    rows, sheet = [], []
    for index in track(range(options.count), "toys", console=Console(stderr=True)):
        scene = make_scene(index, next(iter(sources.values())), prior)
        pictures = baselines(scene, index, options.mean_of)
        for name, source in sources.items():
            pictures[name] = sample(source, prior, scene, index)
        rows.append({name: compare(made, scene, encoder) for name, made in pictures.items()})
        if index < SHEET_OBJECTS:
            sheet += [list(scene.truth[0]), *(list(pictures[name][0][0]) for name in sources)]
    Console(width=200).print(table_of(rows))
    Console().print("embeddings:", encoder.name)
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    if options.json:
        data = {"weights": options.weights, "embeddings": encoder.name, "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
