"""RGNV on degraded views of unseen objects: `python -m bench.view_enhancement [--prior FOLDER] [--count 8]`.

Toys and composites that no training saw, with strong patterns, are seen once from the front, which is the picture, and
from five more sides. Of these views detail is taken away and their colours are changed, each by itself, as happens to
generated views. HiFi-123's enhancement by the picture is to bring both back: in its first row as the plug-in `rgnv`, to
which a run's views are given, with the depth of the mask alone; in its second with the true depth. Beside them are its
ablations, as in the paper's figure 7: with the depth of the mask alone (constant on the object), without depth, without
the picture's attention, and SDEdit, where noise is added instead of found by inversion, likewise without attention.
What the model's autoencoder alone makes of the degraded and of the true views is beside them: the latter is the
ceiling. Options of `rgnv` are those of all ways; by default they are what it is shipped with.

See `bench.textures.Judge.compare` for the measures; mean and standard error over the objects, and of the change from
the degraded views of the same objects.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bench.textures import Judge, Pictures, Rows, as_views, degraded, scene_cameras, summary, table_of, textured
from liftstudio.core import registry
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import grid, save_image
from liftstudio.methods.hifi123 import ddim, model, rgnv, training
from liftstudio.methods.hifi123.depth import depth_channel, mask_channel
from liftstudio.methods.hifi123.prior import GREY, DepthPrior
from liftstudio.methods.hifi123.rgnv import RGNV
from liftstudio.synthetic import ObjectRender, render
from liftstudio.training.rigs import DISTANCE, FOV_DEG

DEGRADED, CEILING = "degraded", "truth through the autoencoder"
CODED = "degraded, through the autoencoder"
PLUG_IN = "rgnv, the plug-in"
SHOWN_VIEW = 0  # on the sheet
OPTIONS = {  # of `rgnv`, and of all ways, where they have it
    "steps": "of the grid",
    "levels": "of those: steps of inversion, and of sampling",
    "start_step": "of sampling, from which on views look at the picture",
    "last_layers": "self-attentions that look at the picture; 0: the last quarter of all",
    "prompt": "of sampling",
    "guidance_scale": "of sampling by the prompt",
}


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


def depth_channels(seen: ObjectRender, side: int) -> dict[str, Tensor]:
    """The channels [1 + V, 1, side, side] of picture and views, of each kind of depth."""
    size = (side, side)
    known = depth_channel(seen.depth, seen.alpha, size, "distance", flat_by_mask=True)
    nothing = torch.full_like(known, training.NO_DEPTH)
    return {"known": known, "mask": mask_channel(seen.alpha, size), "none": nothing}


@torch.no_grad()
def repaint(prior: Any, latents: Tensor, depths: Tensor, way: Way, settings: Any, generator: torch.Generator) -> Tensor:
    """Latents [V, 4, h, w] of the views.

    Args:
        settings: options of `rgnv`.
        latents, depths: [1 + V, 4 and 1, h, w] of the picture and the views.
    """
    levels, unet = settings.levels, prior.unet
    grid_of, prompts = prior.grid(settings.steps), prior.prompts(settings.prompt)
    scale = settings.guidance_scale if settings.prompt else 1.0
    injected = levels - settings.start_step if way.attends else 0
    form = rgnv.Form(levels, injected, scale, settings.last_layers)
    if not way.inverts:
        alpha_bar = grid_of.alpha_bars[levels]
        noise = torch.randn(latents[1:].shape, generator=generator).to(latents)
        noisy = alpha_bar**0.5 * latents[1:] + (1 - alpha_bar) ** 0.5 * noise
        predict = model.with_cached_reference(unet, depths[1:], prompts, scale, {})
        return ddim.sample(predict, noisy, grid_of, levels)
    reference = rgnv.prepare_reference(unet, latents[:1], depths[:1], prompts.empty, grid_of, form)
    return rgnv.enhance(unet, latents[1:], depths[1:], prompts, reference, grid_of, form)


def repaint_by_plug_in(enhancer: Any, picture: Pictures, views: Pictures, cameras: Cameras) -> Pictures:
    """What the plug-in makes of the views of a run, of which the picture is one."""
    every = Pictures(torch.cat([picture.images, views.images]), torch.cat([picture.masks, views.masks]))
    painted = enhancer.repaint(as_views(every, cameras))[1:]
    return Pictures(painted * views.masks + 1 - views.masks, views.masks)


@torch.no_grad()
def repaint_all(enhancer: Any, number: int) -> tuple[Pictures, Pictures, dict[str, Pictures]]:
    """The picture and the true views of an object, and what becomes of degraded ones in each way.

    enhancer: the plug-in `rgnv`; the other ways have its options.
    """
    prior, settings = enhancer.prior, enhancer.config
    cameras = scene_cameras(DISTANCE, FOV_DEG, prior.resolution)
    seen = render(textured(number), cameras)
    picture, truth = Pictures.of(seen)
    generator = torch.Generator().manual_seed(number)
    views = degraded(truth, generator)

    def encode(*pictures: Pictures) -> Tensor:
        images = torch.cat([each.images - (1 - each.masks) * (1 - GREY) for each in pictures])
        return prior.encode(images.to(prior.device))

    def decode(latents: Tensor) -> Pictures:
        images = prior.decode(latents).cpu() + (1 - truth.masks) * (1 - GREY)
        return Pictures(images.clamp(0, 1).where(truth.masks > 0, 1.0), truth.masks)

    latents = encode(picture, views)
    depths = {name: each.to(prior.device) for name, each in depth_channels(seen, latents.shape[-1]).items()}
    found = {PLUG_IN: repaint_by_plug_in(enhancer, picture, views, cameras)}
    for name, way in WAYS.items():
        found[name] = decode(repaint(prior, latents, depths[way.depth], way, settings, generator))
    return picture, truth, {DEGRADED: views, CODED: decode(latents[1:]), **found, CEILING: decode(encode(truth))}


def main() -> None:
    """Measure, and print one table."""
    registry.load_methods()
    shipped = RGNV.Config()
    parser = argparse.ArgumentParser(
        prog="python -m bench.view_enhancement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prior", default="asset://priors/depth-tiny", help="folder (default: the bundled prior's)")
    parser.add_argument("--count", type=int, default=8, help="unseen objects, toys and composites in turns")
    for name, meaning in OPTIONS.items():
        value = getattr(shipped, name)
        text = f"{meaning} (default: {value!r})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=text)
    parser.add_argument("--vgg", type=Path, help="LPIPS's files for VGG-16 (default: contextual by patches of pixels)")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--sheet", type=Path, help="PNG, a row per object: picture, truth, then as in the table")
    parser.add_argument("--json", type=Path, help="all figures as a file")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = DepthPrior.Config(weights=options.prior)
    given = {name: getattr(options, name) for name in OPTIONS}
    settings = replace(shipped, prior=ComponentSpec("depth-prior", "sd2-depth", block), **given)
    enhancer: Any = RGNV(settings, device=device)
    judge = Judge(options.vgg, options.clip)
    rows: list[Rows] = []
    sheet = []
    for number in track(range(options.count), "objects", console=Console(stderr=True)):
        picture, truth, found = repaint_all(enhancer, number)
        rows.append({name: judge.compare(views, truth, picture) for name, views in found.items()})
        shown = [truth, *found.values()]
        sheet.append([picture.images[0], *(each.images[SHOWN_VIEW] for each in shown)])
    Console(width=220).print(table_of(rows, "", DEGRADED))
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    if options.json:
        known = {"settings": to_plain(settings), "by": judge.names}
        data = {**known, "ways": summary(rows, DEGRADED), "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
