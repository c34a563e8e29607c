"""Enhancement of degraded or generated views: `python -m bench.view_enhancement [CAPTURES] [--count 8]`.

Unseen toys and composites with high-contrast patterns are seen once from the front (the input image) and from five
other sides. These views are degraded: each loses detail and changes its colours, as generated views do. HiFi-123's
enhancement restores both from the input image. The first row is the plug-in `rgnv` as it is applied to the views of a
run, with the depth of the mask alone; the second has the true depth. Then come the ablations of the paper's figure 7:
with the depth of the mask alone (constant on the object), without depth, without attention to the input image, and
SDEdit, which adds noise instead of inverting, also without attention. For comparison, the degraded and the true views
are passed through the autoencoder alone; the latter is the upper bound. Options of `rgnv` apply to all variants; the
defaults are its own.

With CAPTURES, a folder of captures of real objects, the views are those that the bundled prior `objects` samples from a
capture's first image at the cameras of the others, enlarged as in a run; both plug-ins are compared.

See `bench.textures.Judge.compare` for the metrics. The table has mean and standard error over the objects, also of the
change from the degraded views of the same objects.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bench.captures import find_captures, read_subject
from bench.prior_views import ask, fit
from bench.single_image_tasks import Setting
from bench.textures import Judge, Pictures, Rows, as_views, degraded, scene_cameras, summary, table_of, textured
from bench.timing import timed
from liftstudio.core import registry
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras
from liftstudio.data.images import grid, save_image, straight_from_white
from liftstudio.methods.hifi123 import ddim, model, rgnv, training
from liftstudio.methods.hifi123.depth import depth_channel, mask_channel
from liftstudio.methods.hifi123.prior import GREY, DepthPrior
from liftstudio.methods.hifi123.rgnv import RGNV
from liftstudio.synthetic import ObjectRender, render
from liftstudio.training.rigs import DISTANCE, FOV_DEG
from liftstudio.views.enhancement import ViewEnhancer, with_colors
from liftstudio.views.image_analogy import ImageAnalogy
from liftstudio.views.prior_views import LEAST_SIZE

DEGRADED, CEILING = "degraded", "truth through the autoencoder"
CODED = "degraded, through the autoencoder"
PLUG_IN = "rgnv, the plug-in"
GENERATED, ANALOGY, SECONDS = "generated", "image-analogy", "seconds"
COMPARED_SIZE = 128  # width and height in pixels at which enhanced views of captures are compared
SHOWN_VIEW = 0  # index of the view on the sheet
OPTIONS = {  # of `rgnv`, applied to all variants that have them
    "steps": "number of steps of the timestep grid",
    "levels": "number of those used for inversion and sampling",
    "start_step": "sampling step from which views attend to the input image",
    "last_layers": "number of self-attention layers, the last ones, that attend to the input image; 0: a quarter",
    "prompt": "prompt for sampling",
    "guidance_scale": "guidance scale of the prompt for sampling",
}


@dataclass(frozen=True)
class Way:
    """One variant of the enhancement; the defaults are those of RGNV."""

    depth: Literal["known", "mask", "none"] = "known"
    attends: bool = True  # to the input image
    inverts: bool = True  # else adds noise


WAYS = {
    "RGNV": Way(),
    "depth of the mask alone": Way(depth="mask"),
    "without depth": Way(depth="none"),
    "without attention": Way(attends=False),
    "SDEdit": Way(attends=False, inverts=False),
}


def depth_channels(seen: ObjectRender, side: int) -> dict[str, Tensor]:
    """Return the depth channels [1 + V, 1, side, side] of input image and views, by kind of depth."""
    size = (side, side)
    known = depth_channel(seen.depth, seen.alpha, size, "distance", flat_by_mask=True)
    nothing = torch.full_like(known, training.NO_DEPTH)
    return {"known": known, "mask": mask_channel(seen.alpha, size), "none": nothing}


@torch.no_grad()
def repaint(prior: Any, latents: Tensor, depths: Tensor, way: Way, settings: Any, generator: torch.Generator) -> Tensor:
    """Return enhanced latents [V, 4, h, w] of the views.

    Args:
        settings: options of `rgnv`.
        latents, depths: [1 + V, 4, h, w] and [1 + V, 1, h, w] of the input image and the views.
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
    """Return the views enhanced by the plug-in, as views of a run together with the input image."""
    every = Pictures(torch.cat([picture.images, views.images]), torch.cat([picture.masks, views.masks]))
    own = torch.cat([picture.images, picture.masks], dim=-1)[0]  # not used by rgnv
    painted = enhancer.repaint(as_views(every, cameras), own)[1:]
    return Pictures(painted * views.masks + 1 - views.masks, views.masks)


@torch.no_grad()
def repaint_all(enhancer: Any, number: int) -> tuple[Pictures, Pictures, dict[str, Pictures]]:
    """Return the input image and the true views of an object, and the enhanced views of each variant.

    enhancer: the plug-in `rgnv`; the other variants use its options.
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


@torch.no_grad()
def enhance_capture(enhancers: dict[str, ViewEnhancer], capture: Path, judge: Judge) -> tuple[Rows, list[Tensor]]:
    """Return the rows of one capture, and a row of the sheet: input, then truth and each variant, by generated views.

    enhancers: by the variant's name.
    """
    setting, subject = Setting(overrides=("prior.weights=asset://priors/objects",)), read_subject(capture)
    with tempfile.TemporaryDirectory() as folder:
        config = setting.of(subject, *subject.save_pictures(Path(folder)))
        assert config.views is not None
        asked = ask(config.views, subject, torch.device("cpu"))
        images, masks = asked.decoded(asked.sample())[0]
    true, given = subject.views, subject.views.input_view
    assert given is not None
    sides = [index for index in range(len(true)) if index != given]
    frames = fit(torch.cat([images, masks], dim=-1), LEAST_SIZE)
    known = fit(torch.cat([true.over(1.0), true.masks], dim=-1), LEAST_SIZE)
    frames[given] = known[given]
    views = replace(
        true,
        images=straight_from_white(frames[..., :3], frames[..., 3:]),
        masks=frames[..., 3:],
        cameras=true.cameras.resized(LEAST_SIZE, LEAST_SIZE),
    )
    own = torch.cat([images[given], masks[given]], dim=-1)
    found, seconds = {GENERATED: views}, {GENERATED: 0.0}
    for name, enhancer in enhancers.items():
        colors, seconds[name] = timed(partial(enhancer.repaint, views, own))
        found[name] = with_colors(views, colors)
    pictures = {name: small_pictures(each.over(1.0), each.masks) for name, each in found.items()}
    truth = small_pictures(known[..., :3], known[..., 3:])
    rows = {
        name: judge.compare(each.select(sides), truth.select(sides), truth.select([given])) | {SECONDS: seconds[name]}
        for name, each in pictures.items()
    }
    turn = (true.cameras.azimuth_deg - true.cameras.azimuth_deg[given]) % 360
    back = int((turn - 180).abs().argmin())
    return rows, [truth.images[given], truth.images[back], *(each.images[back] for each in pictures.values())]


def small_pictures(images: Tensor, masks: Tensor) -> Pictures:
    """Return images over white and masks, reduced to COMPARED_SIZE."""
    return Pictures(fit(images, COMPARED_SIZE), fit(masks, COMPARED_SIZE))


def main() -> None:
    """Run the benchmark and print one table."""
    registry.load_methods()
    shipped = RGNV.Config()
    parser = argparse.ArgumentParser(
        prog="python -m bench.view_enhancement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("captures", nargs="?", type=input_path, metavar="CAPTURES", help="folder of captures")
    parser.add_argument("--prior", default="asset://priors/depth-tiny", help="folder (default: of the bundled prior)")
    parser.add_argument(
        "--count", type=int, default=8, help="number of unseen toys and composites, alternating, or of captures"
    )
    for name, meaning in OPTIONS.items():
        value = getattr(shipped, name)
        text = f"{meaning} (default: {value!r})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=text)
    parser.add_argument(
        "--vgg", type=input_path, help="LPIPS weights for VGG-16 (default: contextual on pixel patches)"
    )
    parser.add_argument("--clip", type=input_path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--sheet", type=output_path, help="PNG, a row per object: input, truth, then as in the table")
    parser.add_argument("--json", type=output_path, help="file for all results")
    options = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    block = DepthPrior.Config(weights=options.prior)
    given = {name: getattr(options, name) for name in OPTIONS}
    settings = replace(shipped, prior=ComponentSpec("depth-prior", "sd2-depth", block), **given)
    enhancer: Any = RGNV(settings, device=device)
    judge = Judge(options.vgg, options.clip)
    rows: list[Rows] = []
    sheet = []
    captures = find_captures(options.captures, None)[: options.count] if options.captures else []
    analogy = ImageAnalogy(ImageAnalogy.Config(), device=device)
    for capture in track(captures, "captures", console=Console(stderr=True)):
        measured, strip = enhance_capture({ANALOGY: analogy, PLUG_IN: enhancer}, capture, judge)
        rows.append(measured)
        sheet.append(strip)
    for number in track(range(0 if captures else options.count), "objects", console=Console(stderr=True)):
        picture, truth, found = repaint_all(enhancer, number)
        rows.append({name: judge.compare(views, truth, picture) for name, views in found.items()})
        shown = [truth, *found.values()]
        sheet.append([picture.images[0], *(each.images[SHOWN_VIEW] for each in shown)])
    baseline = GENERATED if captures else DEGRADED
    Console(width=220).print(table_of(rows, "", baseline, {SECONDS: 1} if captures else None))
    if options.sheet:
        save_image(options.sheet, grid(sheet))
    if options.json:
        known = {"settings": to_plain(settings), "by": judge.names}
        data = {**known, "ways": summary(rows, baseline), "objects": rows}
        atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
