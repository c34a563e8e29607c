"""Image to mesh, on unseen toys of known shape: `python -m bench.image_to_mesh [--config NAME]`.

A toy is rendered from within 46 degrees of its front, at elevation 10 degrees, through the lens of the config's views,
and `configs/NAME.yaml` (default: sv3d-masked-sds) makes a mesh from this image. Azimuth 0 is that of the input view. If
the views have an option for its azimuth (imagedream-toys), azimuth 0 is the front of the object instead, and the option
is set. The benchmark measures the exported files: IoU and Chamfer distance in the unit box (see
`liftstudio.metrics.meshes`), PSNR and SSIM of the shaded mesh on an orbit of 21 novel views, and the albedo error on
these, next to the error of the true shaded views. `--views true` replaces the generated views by true ones at the same
cameras, which isolates the reconstruction, for configs that learn from views. `--variants` modify sv3d-masked-sds.

Each run has its own process, so that its memory is measured separately. Rows are appended to a JSON Lines file;
existing runs are not repeated.
"""

import liftstudio  # isort: skip  # noqa: F401  before torch: it sets how OpenMP threads wait

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import trimesh
from rich import box
from rich.console import Console
from rich.table import Table

from bench.light import scale_invariant_rmse
from bench.runs import (
    append_rows,
    cells,
    config_path,
    cost_of,
    in_own_process,
    mean_cells,
    read_rows,
    render_glb,
    run_all,
    with_cost,
)
from bench.unseen import canonical, front_deg, prompted
from liftstudio.cli import command_line
from liftstudio.core import registry
from liftstudio.core.assets import output_path
from liftstudio.core.cache import file_digest
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import save_image, straight_from_white
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.images import psnr, ssim
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.priors.opening import resolve
from liftstudio.renderers.textured import SUPERSAMPLING
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.inputs import Inputs
from liftstudio.run.run import load_inputs
from liftstudio.run.truth import unit_from_world
from liftstudio.synthetic import TexturedObject, render
from liftstudio.synthetic.truth import to_mesh
from liftstudio.views.prior_views import PriorViews

ELEVATION_DEG = 10.0  # of the input view
# Of the evaluated views, one turn from the input view and back to it: a sum of sinusoids that was drawn once.
NOVEL_ELEVATIONS_DEG = [5.81, 6.57, 13.78, 18.8, 17.13, 16.71, 25.13, 36.5, 40.0, 36.24, 34.65, 37.46, 36.79, 27.48]
NOVEL_ELEVATIONS_DEG += [13.98, 3.17, -2.14, -1.32, 4.67, 10.44, 10.0]
TOYS = "asset://priors/toys"  # the prior, unless another is given
PROMPT_SIZE, VIEW_SIZE = 512, 256  # pixels across the input image, and across the views of the evaluation
UNIT_FROM_WORLD = unit_from_world()

_STAGES = "system.stages"
_UNSEEN = f"{_STAGES}.fine.guidance.unseen"
# Changes to sv3d-masked-sds, which has a sine-30 orbit, a soft mask and a light of 24 spherical Gaussians.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "static": {"views.orbit.type": "static"},
    "sine-50": {"views.orbit.amplitude_deg": 50},
    "photometric": {f"{_UNSEEN}.start": 10**6},  # after the last step
    "naive-sds": {f"{_UNSEEN}.mask": "none"},
    "hard-mask": {f"{_UNSEEN}.mask": "hard"},
    "z-test": {f"{_UNSEEN}.mask": "soft-z-test"},
    "uniform-light": {
        "system.light": "uniform",
        f"{_STAGES}.coarse.guidance.views.lambda_illumination": 0,
        f"{_STAGES}.fine.guidance.views.lambda_illumination": 0,
        # Those of the config, without the light.
        f"{_STAGES}.fine.optimizer.groups": "{geometry.sdf: {lr: [0, 0.002, 0.0005, 1000]}, "
        "geometry.deformation: {lr: [0, 0.01, 0.002, 1000]}}",
    },
}
GEOMETRY = {"iou": 3, "chamfer": 4, "f_score_0.02": 3, "normal_consistency": 3}  # column -> digits
APPEARANCE = {"psnr": 2, "ssim": 3, "silhouette_iou": 3, "albedo_rmse": 3, "shaded_rmse": 3}


@dataclass(frozen=True)
class Job:
    """One run of a config.

    views: generated or true. pixels: resolution of the true views, which are then resized like those of the prior.
    """

    toy: int
    variant: str
    views: Literal["prior", "true"] = "prior"
    pixels: int = VIEW_SIZE
    overrides: tuple[str, ...] = ()
    config: str = "sv3d-masked-sds"

    def options(self) -> list[str]:
        """Config overrides of this job."""
        return [*(f"{key}={value}" for key, value in VARIANTS[self.variant].items()), *self.overrides]

    @property
    def setting(self) -> str:
        """Name in folders and tables."""
        views = f"true-{self.pixels}" if self.views == "true" else "prior"
        return f"{self.config}-{views}-{self.variant}"

    def load(self, *options: str) -> RunConfig:
        """Load the config with the prior of toys and `options`, followed by those of the job."""
        return load_run_config(config_path(self.config), [f"prior.weights={TOYS}", *options, *self.options()])


def reconstruct(job: Job, folder: Path) -> dict[str, Any]:
    """Run one job in `folder`; return its row."""
    begin = time.perf_counter()
    registry.load_methods()
    folder.mkdir(parents=True, exist_ok=True)
    toy, angles = pose(job)
    picture, truth = folder / f"toy-{job.toy:02d}.png", folder / f"toy-{job.toy:02d}.ply"
    config = job.load(
        f"image={picture}",
        "views.recenter=false",
        *(f"views.{name}={value}" for name, value in angles.items()),
        f"runs_dir={folder}",
        f"name={job.setting}",
        f"tag=toy-{job.toy:02d}",
        "export.shaded=true",
    )
    assert config.views is not None
    save_picture(toy, picture, config.views.options)
    save_unit_mesh(toy, truth)
    inputs = make_inputs(job, toy, config)
    views_seconds = time.perf_counter() - begin
    inputs = replace(inputs, truth_mesh=truth, data_from_world=UNIT_FROM_WORLD)
    run = run_all(config, inputs, "python -m bench.image_to_mesh")
    metrics = json.loads(run.folder.metrics.read_text())
    return {
        **metrics["mesh"],
        **appearance(run.folder.export, toy),
        "views_s": views_seconds,
        **cost_of(run.folder),
        "all_s": time.perf_counter() - begin,
        "folder": str(run.folder.path),
    }


def pose(job: Job) -> tuple[TexturedObject, dict[str, float]]:
    """Return the toy in the run's world, and the view options that describe the input camera."""
    views = job.load("image=none").views
    assert views is not None
    if not hasattr(views.options, "azimuth_deg"):
        return prompted("toy", job.toy), {"elevation_deg": ELEVATION_DEG}
    return canonical("toy", job.toy), {"elevation_deg": ELEVATION_DEG, "azimuth_deg": -front_deg(job.toy)}


def save_picture(toy: TexturedObject, path: Path, lens: Any) -> None:
    """Write the input image of the toy as RGBA with straight alpha; lens: options of the views."""
    angles = torch.tensor([getattr(lens, "azimuth_deg", 0.0)]), torch.tensor([ELEVATION_DEG])
    camera = orbit_cameras(*angles, lens.distance, lens.fov_deg, PROMPT_SIZE, PROMPT_SIZE)
    seen = render(toy, camera, supersampling=SUPERSAMPLING)
    save_image(path, torch.cat([straight_from_white(seen.rgb, seen.alpha), seen.alpha], dim=-1)[0])


def save_unit_mesh(toy: TexturedObject, path: Path) -> None:
    """Write the true surface scaled to longest side 1, the unit box of the mesh metrics."""
    mesh = to_mesh(toy)
    scale = UNIT_FROM_WORLD[0, 0]
    trimesh.Trimesh((mesh.vertices * scale).numpy(), mesh.faces.numpy(), process=False).export(path)


def make_inputs(job: Job, toy: TexturedObject, config: RunConfig) -> Inputs:
    """Return the inputs of the run."""
    if job.views == "prior":
        return load_inputs(config, None)
    assert config.views is not None
    return Inputs(true_views(toy, config.views, job.pixels), None, torch.eye(4))


def true_views(toy: TexturedObject, views: ComponentSpec, pixels: int) -> ReferenceViews:
    """Return the true views of the toy at the cameras of the config's view source, at a resolution of `pixels`."""
    source: PriorViews = views.build(device=torch.device("cpu"))
    lens = views.options
    cameras = orbit_cameras(*source.angles(), lens.distance, lens.fov_deg, pixels, pixels)
    seen = render(toy, cameras, supersampling=SUPERSAMPLING)
    return source.assemble(seen.rgb, seen.alpha, source.input_image())


def novel_cameras() -> Cameras:
    """Return the orbit of uneven elevations on which meshes are evaluated, with the lens of SV3D's views."""
    lens = registry.find("sv3d-views", "views").Config
    azimuth_deg = 360 / 21 * torch.arange(1, 22) % 360
    elevation_deg = torch.tensor(NOVEL_ELEVATIONS_DEG)
    return orbit_cameras(azimuth_deg, elevation_deg, lens.distance, lens.fov_deg, VIEW_SIZE, VIEW_SIZE)


def appearance(export: Path, toy: TexturedObject) -> dict[str, float]:
    """Compare renders of the exported files with the toy on `novel_cameras`.

    psnr, ssim: of the shaded mesh over white. silhouette_iou: mean over views. albedo_rmse, shaded_rmse: RMSE of the
    exported albedo, and of the true shaded views, against the true albedo, where both objects are visible. *_free: the
    same after scaling by the best common factor, since light and albedo have a scale ambiguity.
    """
    cameras = novel_cameras()
    lit, alpha = render_glb(export / "mesh_shaded.glb", cameras)
    albedo, _ = render_glb(export / "mesh.glb", cameras)
    true_lit = render(toy, cameras, supersampling=SUPERSAMPLING)
    true_albedo = render(toy, cameras, shaded=False, supersampling=SUPERSAMPLING).rgb
    inside = ((alpha > 0.99) & (true_lit.alpha > 0.99))[..., 0]
    found = {"albedo": albedo[inside], "shaded": true_lit.rgb[inside]}
    wanted = true_albedo[inside]
    return {
        "psnr": float(psnr(lit, true_lit.rgb).mean()),
        "ssim": float(ssim(lit, true_lit.rgb).mean()),
        "silhouette_iou": float(silhouette_iou(alpha, true_lit.alpha).mean()),
        **{f"{name}_rmse": float((colors - wanted).square().mean().sqrt()) for name, colors in found.items()},
        **{f"{name}_rmse_free": scale_invariant_rmse(colors, wanted) for name, colors in found.items()},
    }


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return a Markdown table with a line per run, and one with mean and standard error per setting.

    Stages that a config does not have stay empty.
    """
    columns = with_cost(GEOMETRY | APPEARANCE, rows)
    table = Table("views and variant", "toy", *columns, box=box.MARKDOWN)
    for setting in dict.fromkeys(row["setting"] for row in rows):
        chosen = [row for row in rows if row["setting"] == setting]
        for row in chosen:
            table.add_row(setting, str(row["toy"]), *cells(row, columns))
        table.add_row(f"**{setting}**", "mean", *mean_cells(chosen, columns))
    return table


def key_of(job: Job) -> dict[str, Any]:
    """Return the key of a job's row: the job, and the digest of the prior's weights.

    Raises:
        InputError: the config rejects the job's options, true views are requested though it does not learn from views,
            or the weights are missing.
    """
    config = job.load("image=none")
    assert config.views is not None
    views = config.views.options
    if job.views == "true" and views.held_out:
        raise InputError(f"--views true: {job.config} does not learn from views (views.held_out is true)")
    return {**json.loads(json.dumps(asdict(job))), "weights": file_digest(resolve(views.prior).weights.path)}


def main(arguments: list[str] | None = None) -> int:
    """Run what has no row yet and print the requested table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.image_to_mesh",
        usage="python -m bench.image_to_mesh [options] [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default=Job.config, help="name of a file in configs/, without .yaml")
    parser.add_argument("--count", type=int, default=10, help="number of unseen toys, from index 0")
    parser.add_argument("--only", type=int, nargs="+", help="indices of toys")
    parser.add_argument("--views", choices=("prior", "true"), default="prior", help="generated or true views")
    parser.add_argument("--pixels", type=int, default=VIEW_SIZE, help="resolution of true views before resizing")
    parser.add_argument("--variants", nargs="+", choices=("all", *VARIANTS), default=["default"])
    parser.add_argument(
        "--results", type=output_path, default=Path("rows.jsonl"), help="file of rows, read and extended"
    )
    parser.add_argument("--keep", type=output_path, help="folder that keeps the runs, with sheets, videos and meshes")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in arguments if word not in overrides])
    variants = list(VARIANTS) if "all" in options.variants else options.variants
    jobs = [
        Job(toy, variant, options.views, options.pixels, tuple(overrides), options.config)
        for variant in variants
        for toy in options.only or range(options.count)
    ]
    registry.load_methods()
    keys = [key_of(job) for job in jobs]
    rows = read_rows(options.results)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        os.environ.setdefault("LIFTSTUDIO_CACHE", str(folder / "cache"))  # a fresh cache, so that `views_s` is measured
        for job, key in zip(jobs, keys, strict=True):
            if not any(key.items() <= row.items() for row in rows):
                rows.append({**key, "setting": job.setting, **in_own_process(reconstruct, job, folder)})
                append_rows(options.results, rows[-1:])
                Console(width=260).print(table_of(rows))
            if not options.keep:
                shutil.rmtree(folder / job.setting, ignore_errors=True)
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
