"""RGNV on degraded views of unseen objects: `python -m bench.view_enhancement [--prior FOLDER] [--count 8]`.

Toys and composites that no training saw, with strong patterns, are seen once from the front, which is the picture, and
from five more sides. Of these views detail is taken away and their colours are changed, each by itself, as happens to
generated views. HiFi-123's enhancement by the picture is to bring both back. Beside it are its ablations, as in the
paper's figure 7: with the depth of the mask alone (constant on the object), without depth, without the picture's
attention, and SDEdit, where noise is added instead of found by inversion, likewise without attention. What the
model's autoencoder alone makes of the degraded and of the true views is beside them: the latter is the ceiling. See
`bench.textures.Judge.compare` for the measures; mean and standard error over the objects, and of the change from the
degraded views of the same objects.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bench.textures import Judge, Pictures, Rows, degraded, extension, scene_cameras, summary, table_of, textured
from liftstudio import assets, registry
from liftstudio.config import Block
from liftstudio.files import atomic_write
from liftstudio.images import grid, save_image
from liftstudio.priors.training.objects import ObjectRender, render
from liftstudio.priors.training.rigs import DISTANCE, FOV_DEG

DEGRADED, CEILING = "degraded", "truth through the autoencoder"
CODED = "degraded, through the autoencoder"
SHOWN_VIEW = 0  # on the sheet


@dataclass(frozen=True)
class Way:
    """What is done to views; the defaults are RGNV's."""

    depth: Literal["known", "mask", "none"] = "known"
    attends: bool = True  # to the picture
    inverts: bool = True  # else noise is added


WAYS = {
    "RGNV": Way(),
    "depth of the mask alone": Way(depth="mask"),
    "without depth": Way(depth="none"),
    "without attention": Way(attends=False),
    "SDEdit": Way(attends=False, inverts=False),
}


@dataclass(frozen=True)
class Settings:
    """As of `rgnv`: steps of the grid, steps of inversion and of sampling, prompt and its scale."""

    steps: int
    levels: int
    prompt: str
    guidance_scale: float


def depth_channels(seen: ObjectRender, side: int) -> dict[str, Tensor]:
    """The channels [1 + V, 1, side, side] of picture and views, of each kind of depth."""
    depth, size = extension("depth"), (side, side)
    known = depth.depth_channel(seen.depth, seen.alpha, size, "distance", flat_by_mask=True)
    nothing = torch.full_like(known, extension("training").NO_DEPTH)
    return {"known": known, "mask": depth.mask_channel(seen.alpha, size), "none": nothing}


@torch.no_grad()
def repaint(
    prior: Any, latents: Tensor, depths: Tensor, way: Way, settings: Settings, generator: torch.Generator
) -> Tensor:
    """Latents [V, 4, h, w] of the views.

    Args:
        latents, depths: [1 + V, 4 and 1, h, w] of the picture and the views.
    """
    enhancement, levels, unet = extension("enhancement"), settings.levels, prior.unet
    grid_of, prompts = prior.grid(settings.steps), prior.prompts(settings.prompt)
    scale = settings.guidance_scale if settings.prompt else 1.0
    form = enhancement.Form(levels, levels if way.attends else 0, scale)
    if not way.inverts:
        alpha_bar = grid_of.alpha_bars[levels]
        noise = torch.randn(latents[1:].shape, generator=generator).to(latents)
        noisy = alpha_bar**0.5 * latents[1:] + (1 - alpha_bar) ** 0.5 * noise
        predict = extension("denoising").with_cached_reference(unet, depths[1:], prompts, scale, {})
        return extension("ddim").sample(predict, noisy, grid_of, levels)
    reference = enhancement.prepare_reference(unet, latents[:1], depths[:1], prompts.empty, grid_of, form)
    return enhancement.enhance(unet, latents[1:], depths[1:], prompts, reference, grid_of, form)


@torch.no_grad()
def repaint_all(prior: Any, number: int, settings: Settings) -> tuple[Pictures, Pictures, dict[str, Pictures]]:
    """The picture and the true views of an object, and what becomes of degraded ones in each way."""
    seen = render(textured(number), scene_cameras(DISTANCE, FOV_DEG, prior.resolution))
    picture, truth = Pictures.of(seen)
    generator = torch.Generator().manual_seed(number)
    views = degraded(truth, generator)
    grey = extension("prior").GREY

    def encode(*pictures: Pictures) -> Tensor:
        images = torch.cat([each.images - (1 - each.masks) * (1 - grey) for each in pictures])
        return prior.encode(images.to(prior.device))

    def decode(latents: Tensor) -> Pictures:
        images = prior.decode(latents).cpu() + (1 - truth.masks) * (1 - grey)
        return Pictures(images.clamp(0, 1).where(truth.masks > 0, 1.0), truth.masks)

    latents = encode(picture, views)
    depths = {name: each.to(prior.device) for name, each in depth_channels(seen, latents.shape[-1]).items()}
    found = {
        name: decode(repaint(prior, latents, depths[way.depth], way, settings, generator)) for name, way in WAYS.items()
    }
    return picture, truth, {DEGRADED: views, CODED: decode(latents[1:]), **found, CEILING: decode(encode(truth))}


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.view_enhancement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prior", default="asset://priors/depth-tiny", help="folder (default: the bundled prior's)")
    parser.add_argument("--count", type=int, default=8, help="unseen objects, toys and composites in turns")
    parser.add_argument("--steps", type=int, default=20, help="of the grid")
    parser.add_argument("--levels", type=int, default=12, help="of those: steps of inversion, and of sampling")
    parser.add_argument("--prompt", default="", help="of sampling (default: none)")
    parser.add_argument("--guidance-scale", type=float, default=9.0, help="of sampling by the prompt")
    parser.add_argument("--vgg", type=Path, help="LPIPS's files for VGG-16 (default: contextual by patches of pixels)")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--sheet", type=Path, help="PNG, a row per object: picture, truth, then as in the table")
    parser.add_argument("--json", type=Path, help="all figures as a file")
    options = parser.parse_args()

    registry.load_extensions(assets.ROOT / "custom")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = extension("prior").DepthPrior.Config(weights=options.prior)
    prior: Any = Block("depth-prior", "sd2-depth", block).build(device=device)
    prior.check(options.prompt, extension("injection").LAST_LAYERS, prior.resolution)
    judge = Judge(options.vgg, options.clip)
    settings = Settings(options.steps, options.levels, options.prompt, options.guidance_scale)
    rows: list[Rows] = []
    sheet = []
    for number in track(range(options.count), "objects", console=Console(stderr=True)):
        picture, truth, found = repaint_all(prior, number, settings)
        rows.append({name: judge.compare(views, truth, picture) for name, views in found.items()})
        shown = [truth, *found.values()]
        sheet.append([picture.images[0], *(each.images[SHOWN_VIEW] for each in shown)])
    Console(width=220).print(table_of(rows, "", DEGRADED))
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    if options.json:
        known = {"settings": vars(settings), "prior": options.prior, "by": judge.names}
        data = {**known, "ways": summary(rows, DEGRADED), "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
