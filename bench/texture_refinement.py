"""Texture refined by RGSD, by plain SDS, by the input image alone: `python -m bench.texture_refinement [--count 8]`.

Unseen toys and composites with high-contrast patterns are seen once from the front. From that input image,
`configs/hifi123-toys.yaml` makes one coarse result per object. Its last stage then refines the texture of this result
as in the config (RGSD), by plain score distillation with the same model, and by the losses on the input image alone;
the baseline is no refinement, that is, the last stage before its first step. `--captions` prompts both kinds of
distillation with a caption of each object's colours and pattern. With `--coarse degraded`, the coarse stage fits many
true views of reduced detail and changed colours instead: the shape is nearly right, and only the texture is wrong.

Renders from five other sides are compared with the ground truth and with the input image (see
`bench.textures.Judge.compare`): mean and standard error over the objects, also of the change from the unrefined renders
of the same objects. `key=value` overrides the config.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from rich.console import Console

from bench.textures import Judge, Pictures, Rows, as_views, degraded, scene_cameras, summary, table_of, textured
from liftstudio.core import assets, registry
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.cache import cached, content_key
from liftstudio.core.checkpoints import seed_everything
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.files import atomic_write
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import grid, save_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.hifi123.captions import caption
from liftstudio.priors.opening import resolve
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.inputs import Inputs
from liftstudio.run.run import Run, check_finite, make_fabric, versions
from liftstudio.synthetic import TexturedObject, render
from liftstudio.systems.base import System
from liftstudio.training.data import KINDS
from liftstudio.views.prior_views import LEAST_SIZE

Coarse = Literal["config", "degraded"]

CONFIG = assets.packaged("configs") / "hifi123-toys.yaml"
UNREFINED, PICTURE_ALONE, SDS, RGSD = "no refine stage", "picture alone", "SDS", "RGSD"
VIEW_SIZE = 128  # width and height in pixels of the views that are compared
SHOWN_VIEWS = (0, 2)  # of those on the sheet
# Column -> digits. Seconds: of the whole stage, divided by its steps. Evaluations: UNet images per step.
COST = {"seconds per step": 3, "unet evaluations": 1}
# The gradient is the distance of the latents to their estimate, times 2 alpha for RGSD and sqrt(alpha (1 - alpha)) for
# SDS: 1.62 and 0.33 on average over cameras and timesteps. This factor makes both gradients equally strong.
SDS_WEIGHT = 1.62 / 0.33


def settings_of(config: RunConfig) -> dict[str, RunConfig]:
    """Return configs by name in the table; they differ in how the last stage refines."""
    guidance, name = last_guidance(config)
    return {
        PICTURE_ALONE: with_guidance(config, {key: block for key, block in guidance.items() if key != name}),
        SDS: with_guidance(config, {**guidance, name: plain_distillation(guidance[name].options)}),
        RGSD: config,
    }


def captioned(config: RunConfig, number: int) -> RunConfig:
    """Return the config with a caption of the object as the prompt of RGSD, in words that `depth-tiny` knows."""
    guidance, name = last_guidance(config)
    noun = "toy" if KINDS[number % len(KINDS)] == "toy" else "object"
    options = replace(guidance[name].options, prompt=caption(textured(number), noun))
    return with_guidance(config, {**guidance, name: replace(guidance[name], options=options)})


def last_guidance(config: RunConfig) -> tuple[dict[str, ComponentSpec], str]:
    """Return the guidances of the last stage, and the name of the one that is RGSD."""
    guidance = list(config.system.options.stages.values())[-1].guidance
    return guidance, next(name for name, block in guidance.items() if block.type == "hifi123-rgsd")


def plain_distillation(rgsd: Any) -> ComponentSpec:
    """Return an SDS guidance with the model, the prompt and the random cameras of RGSD with these options."""
    weight = Schedule(tuple((step, SDS_WEIGHT * value) for step, value in rgsd.lambda_rgsd.points))
    options = registry.find("depth-sds", "guidance").Config(
        start=rgsd.start,
        prior=rgsd.prior,
        prompt=rgsd.prompt,
        guidance_scale=rgsd.guidance_scale,
        elevations_deg=rgsd.elevations_deg,
        resolution=[rgsd.resolution],
        lambda_sds=weight,
    )
    return ComponentSpec("guidance", "depth-sds", options)


def with_guidance(config: RunConfig, guidance: dict[str, ComponentSpec], stage: int = -1) -> RunConfig:
    """Return the config with the guidances of one stage replaced, by default of the last."""
    options = config.system.options
    name = list(options.stages)[stage]
    stages = {**options.stages, name: replace(options.stages[name], guidance=guidance)}
    return replace(config, system=replace(config.system, options=replace(options, stages=stages)))


def by_degraded_views(config: RunConfig) -> RunConfig:
    """Return the config with a first stage that reconstructs all its views."""
    options = registry.find("reconstruction", "guidance").Config(resolution=[64])
    return with_guidance(config, {"views": ComponentSpec("guidance", "reconstruction", options)}, stage=0)


def picture_view(obj: TexturedObject, camera: Cameras) -> ReferenceViews:
    """Return the input image as the only view of a run."""
    camera = camera.resized(LEAST_SIZE, LEAST_SIZE)
    seen = render(obj, camera)
    return as_views(Pictures(seen.rgb, seen.alpha), camera)


def degraded_views(obj: TexturedObject, lens: Any, number: int) -> ReferenceViews:
    """Return degraded views of the object from all around; the first has the camera of the input image."""
    azimuths_deg, elevations_deg = torch.meshgrid(torch.arange(12) * 30.0, torch.tensor([10.0, 45.0]), indexing="ij")
    angles = azimuths_deg.flatten(), elevations_deg.flatten()
    cameras = orbit_cameras(*angles, lens.distance, lens.fov_deg, VIEW_SIZE, VIEW_SIZE)
    seen = render(obj, cameras)
    generator = torch.Generator().manual_seed(number)
    return as_views(degraded(Pictures(seen.rgb, seen.alpha), generator, alike=True), cameras)


def build(config: RunConfig, views: ReferenceViews) -> System:
    """Build the system of a run."""
    return Run(config, Inputs(views, None, torch.eye(4)), make_fabric(config.device, None)).system


def fit(system: System, stage: str, seed: int) -> dict[str, float]:
    """Run all steps of the current stage; return what the last one logs."""
    seed_everything(seed)
    logged: dict[str, float] = {}
    for step in range(system.stages[stage]):
        logged = system.step(step)
        check_finite(logged, stage, step + 1)
    return logged


def coarse_result(config: RunConfig, views: ReferenceViews) -> dict[str, Any]:
    """Return the state of the system at the start of its last stage."""
    system = build(config, views)
    *before, last = system.stages
    for stage in before:
        system.enter(stage)
        fit(system, stage, config.seed)
    system.enter(last)
    return system.state()


def coarse_key(config: RunConfig, number: int) -> str:
    """Return a key of all that determines an object's coarse result, except the code.

    Of the last stage, only what determines its initial state counts.
    """
    plain = to_plain(config)
    *_, last = plain["system"]["stages"].values()
    for name in ("guidance", "steps", "regularizers"):
        last.pop(name)
    *before, _ = config.system.options.stages.values()
    guidance = [block.options for stage in before for block in stage.guidance.values()]
    weights = [resolve(options.prior).fingerprint() for options in guidance if hasattr(options, "prior")]
    decides = {name: plain[name] for name in ("seed", "views", "system")}
    return content_key({"object": number, "weights": weights, **decides, **versions()})


def refined(
    config: RunConfig, views: ReferenceViews, coarse: dict[str, Any], cameras: Cameras, *, steps: bool = True
) -> tuple[Pictures, dict[str, float]]:
    """Return renders after the last stage, or before its first step if not `steps`, and the cost of the steps."""
    system = build(config, views)
    *_, last = system.stages
    system.enter(last, coarse)
    cost: dict[str, float] = {}
    if steps:
        begin = time.perf_counter()
        logged = fit(system, last, config.seed)
        cost["seconds per step"] = (time.perf_counter() - begin) / system.stages[last]
        for name in logged:
            if name.endswith("/unet_evaluations"):
                cost["unet evaluations"] = logged[name]
    seen = system.render(cameras)
    return Pictures(seen.over(1.0).clamp(0, 1), seen.opacity), cost


def measure_object(number: int, config: RunConfig, kind: Coarse, judge: Judge) -> tuple[Rows, dict[str, Pictures]]:
    """Return the rows of one object, and its images: input, ground truth, and the renders of each variant."""
    assert config.views is not None
    obj, lens = textured(number), config.views.options
    cameras = scene_cameras(lens.distance, lens.fov_deg, VIEW_SIZE)
    views = picture_view(obj, cameras[:1])
    picture, truth = Pictures.of(render(obj, cameras))
    shown = views
    if kind == "degraded":
        config, shown = by_degraded_views(config), degraded_views(obj, lens, number)
    coarse = cached("coarse", coarse_key(config, number), lambda: coarse_result(config, shown))
    rows, found = {}, {}
    found[UNREFINED], rows[UNREFINED] = refined(config, views, coarse, cameras[1:], steps=False)
    for name, setting in settings_of(config).items():
        found[name], rows[name] = refined(setting, views, coarse, cameras[1:])
    for name, each in found.items():
        rows[name] = judge.compare(each, truth, picture) | rows[name]
    return rows, {"picture": picture.repeated(len(truth.images)), "truth": truth, **found}


def main() -> None:
    """Run the benchmark and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.texture_refinement",
        usage="python -m bench.texture_refinement [options] [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--count", type=int, default=8, help="number of unseen toys and composites, alternating")
    parser.add_argument("--coarse", choices=get_args(Coarse), default="config", help="the coarse result to refine")
    parser.add_argument("--captions", action="store_true", help="prompt with each object's colours and pattern")
    parser.add_argument("--keep", type=output_path, help="folder that keeps coarse results for later calls")
    parser.add_argument(
        "--vgg", type=input_path, help="LPIPS weights for VGG-16 (default: contextual on pixel patches)"
    )
    parser.add_argument("--clip", type=input_path, help="folder of a CLIP checkpoint (default: a tiny encoder)")
    parser.add_argument("--sheet", type=output_path, help="PNG, two views per object: input, truth, rows of the table")
    parser.add_argument("--json", type=output_path, help="file for all results")
    overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in sys.argv[1:] if word not in overrides])

    registry.load_methods()
    config = load_run_config(CONFIG, overrides)
    judge = Judge(options.vgg, options.clip)
    rows: list[Rows] = []
    sheet = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LIFTSTUDIO_CACHE"] = str(options.keep or temporary)
        for number in range(options.count):
            setting = captioned(config, number) if options.captions else config
            found, pictures = measure_object(number, setting, options.coarse, judge)
            rows.append(found)
            sheet += [[each.images[view] for each in pictures.values()] for view in SHOWN_VIEWS]
            Console(width=240).print(table_of(rows, f"{number + 1} objects", UNREFINED, COST))
            if options.sheet:
                save_image(options.sheet, grid(sheet))
            if options.json:
                known = {"overrides": overrides, "coarse": options.coarse, "captions": options.captions}
                data = {**known, "by": judge.names, "ways": summary(rows, UNREFINED), "objects": rows}
                atomic_write(options.json, json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
