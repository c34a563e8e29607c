"""The benchmarks of the pipeline and of the bundled prior, checked on known cases."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import trimesh
from helpers.tiny_prior import QUICK, TinyBall, ball, write_weights

from bench import image_to_mesh, runs, toys_prior
from bench.unseen import front_deg, prompted, turned
from liftstudio.cli import command_line
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import load_image
from liftstudio.data.mesh_io import read_mesh
from liftstudio.export.options import ExportConfig
from liftstudio.export.pipeline import export_mesh
from liftstudio.metrics.images import psnr
from liftstudio.ops.rasterization import rasterize
from liftstudio.priors.base import Prior
from liftstudio.run.evaluation import compare_exported
from liftstudio.run.truth import Truth
from liftstudio.synthetic import TexturedObject, make_object, render
from liftstudio.synthetic.truth import to_mesh
from liftstudio.training.data import view_object
from liftstudio.training.rigs import RigConfig, draw_rig

# Small and quick, but enough for a surface.


@pytest.fixture(autouse=True)
def folder(here: Path) -> Path:
    write_weights(here / "ball.safetensors")
    return here


def a_toy() -> tuple[int, TexturedObject]:
    index = random.randrange(50)
    print(f"toy {index}")  # noqa: T201  shown when a test fails
    return index, prompted("toy", index)


def overlap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return intersection over union [V] of masks [V, H, W, 1]."""
    both, either = ((a > 0.5) & (b > 0.5)).sum((1, 2, 3)), ((a > 0.5) | (b > 0.5)).sum((1, 2, 3))
    return both / either


def test_turned_objects_look_as_in_training() -> None:
    rig = draw_rig(RigConfig(), 4, 64, torch.Generator().manual_seed(random.randrange(2**31)))
    canonical = make_object("toy", random.randrange(2**32))
    sample = view_object(canonical, rig)
    seen = render(turned(canonical, rig.front_deg), rig.views)
    here = torch.cat([seen.rgb, seen.alpha], dim=-1)
    # Rounding moves an outline or the border of a stripe across a few samples.
    assert ((here - sample.images).abs() > 0.02).float().mean() < 2e-3


@pytest.mark.usefixtures("few_surface_samples")
def test_a_perfect_mesh_measures_as_perfect(folder: Path) -> None:
    _, toy = a_toy()
    image_to_mesh.save_unit_mesh(toy, folder / "truth.ply")
    extent = read_mesh(folder / "truth.ply").vertices.aminmax(dim=0)
    assert (extent.max - extent.min).max() <= 1 + 1e-5
    truth = Truth(None, read_mesh(folder / "truth.ply"), image_to_mesh.UNIT_FROM_WORLD)
    found = compare_exported(written(toy, folder / "same.ply"), truth)
    assert found["iou"] == 1.0
    assert found["chamfer"] < 1e-4  # rounding to float32 may move a point to another voxel
    other = written(turned(toy, 40.0), folder / "other.ply")
    assert compare_exported(other, truth)["iou"] < 0.95


def written(toy: TexturedObject, path: Path) -> Path:
    """Write the true surface as a run would export it."""
    mesh = to_mesh(toy)
    trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).export(path)
    return path


def test_exported_files_are_rendered_as_the_object_looks(folder: Path) -> None:
    obj = solid()

    def albedo(points: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(obj.albedo(points.numpy(), np.zeros(len(points), np.int64)))

    options = ExportConfig(texture_size=512, shaded=True)
    export_mesh(to_mesh(obj), albedo, folder, options, shaded=lambda points, normals: 0.5 * albedo(points))
    found = image_to_mesh.appearance(folder, replace(obj, light=replace(obj.light, ambient=0.5, diffuse=0.0)))
    assert found["silhouette_iou"] > 0.995  # the same samples, but for rounding
    assert found["psnr"] > 30 and found["ssim"] > 0.97  # a texel is about a pixel: the pattern's borders are blurred
    assert found["albedo_rmse"] < 0.08 < found["shaded_rmse"]
    assert found["shaded_rmse_free"] < 0.002  # half the albedo everywhere is the albedo up to a factor


def solid() -> TexturedObject:
    """Return a composite of one part, so that its colour is known at every surface point."""
    while True:
        seed = random.randrange(2**32)
        obj = make_object("composite", seed)
        if len(obj.patterns) == 1:
            print(f"composite {seed}")  # noqa: T201  shown when a test fails
            return obj


@pytest.mark.parametrize(
    ("config", "count", "pixels"),
    [("sv3d-masked-sds", 21, 64), ("sv3d-masked-sds", 21, 256), ("syncdreamer-neus", 17, 64)],
)
def test_true_views_show_the_true_mesh(folder: Path, config: str, count: int, pixels: int) -> None:
    """Input image, views, cameras and mesh agree on azimuth 0 and the sense of rotation."""
    _, toy = a_toy()
    image_to_mesh.save_unit_mesh(toy, folder / "truth.ply")
    job = image_to_mesh.Job(0, "default", "true", config=config)
    options = f"image={folder / 'toy.png'}", "views.elevation_deg=10", "views.recenter=false"
    source = job.load(*options).views
    assert source is not None
    image_to_mesh.save_picture(toy, folder / "toy.png", source.options)
    views = image_to_mesh.true_views(toy, source, pixels)
    assert len(views) == count and views.input_view == count - 1
    mesh = read_mesh(folder / "truth.ply")
    vertices = mesh.vertices / image_to_mesh.UNIT_FROM_WORLD[0, 0]
    seen = rasterize(views.cameras.clip(vertices), mesh.faces, views.cameras.height, views.cameras.width)
    found = overlap(views.masks, (seen >= 0).float()[..., None])
    assert views.images.shape[1] == 256
    assert found.min() > (0.97 if pixels == 256 else 0.9)  # 64 pixels enlarged lose the tips of thin parts
    assert found[views.input_view] > 0.97
    assert views.cameras.azimuth_deg[views.input_view] % 360 < 1e-3


def test_an_image_with_the_front_at_azimuth_0(folder: Path) -> None:
    """It equals the image from azimuth 0 of the rotated object, and the options have its camera."""
    index, _ = a_toy()
    pictures, angles = [], []
    for config in ("sv3d-masked-sds", "imagedream-toys"):
        job = image_to_mesh.Job(index, "default", config=config)
        toy, where = image_to_mesh.pose(job)
        views = job.load("image=none", *(f"views.{name}={value}" for name, value in where.items())).views
        assert views is not None
        image_to_mesh.save_picture(toy, folder / "toy.png", views.options)
        rgb, alpha = load_image(folder / "toy.png")
        assert alpha is not None
        pictures.append(rgb * alpha + 1 - alpha)
        angles.append(where)
    assert angles[1] == {**angles[0], "azimuth_deg": pytest.approx(-front_deg(index))}
    # Rounding moves an outline or the border of a stripe across a few samples.
    assert ((pictures[0] - pictures[1]).abs() > 0.02).float().mean() < 2e-3


@pytest.mark.parametrize(("whose", "variant"), [("prior", "uniform-light"), ("true", "default")])
@pytest.mark.usefixtures("few_surface_samples", "few_visible_points")
def test_a_run_from_image_to_row(folder: Path, whose: Literal["prior", "true"], variant: str) -> None:
    index, _ = a_toy()
    few = ("system.stages.coarse.steps=10", "system.stages.coarse.geometry.blob_density=20")  # a shape after few steps
    less = ("views.resolution=32", *(() if whose == "true" else few))
    job = image_to_mesh.Job(index, variant, whose, 64, (*QUICK, *less, f"prior.weights={folder / 'ball.safetensors'}"))
    row = image_to_mesh.reconstruct(job, folder / "runs")
    columns = image_to_mesh.GEOMETRY | image_to_mesh.APPEARANCE | runs.COST
    assert all(math.isfinite(row[name]) for name in [*columns, "coarse_s", "fine_s"])
    # Thirty steps on nine small views: a rough toy, where its own views are given. The prior knows only a ball.
    assert row["iou"] > 0.3 if whose == "true" else row["iou"] > 0
    assert (Path(row["folder"]) / "test" / "contact_sheet.png").is_file()
    one_stage = {name: value for name, value in row.items() if name != "fine_s"}
    table = image_to_mesh.table_of([{**row, "setting": "a", "toy": 0}, {**one_stage, "setting": "b", "toy": 0}])
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["coarse_s"] == [f"{row['coarse_s']:.0f}"] * 4
    assert cells["fine_s"] == [f"{row['fine_s']:.0f}"] * 2 + [""] * 2


@pytest.mark.parametrize("variant", [name for name in image_to_mesh.VARIANTS if name != "default"])
def test_variants_change_the_config(variant: str) -> None:
    plain, changed = (image_to_mesh.Job(0, name).load("image=none", "tag=same") for name in ("default", variant))
    assert changed != plain


def test_all_jobs_are_checked_before_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    variant = image_to_mesh.Job(0, "static", config="harmonyview")
    with pytest.raises(InputError, match="orbit"):
        image_to_mesh.key_of(variant)
    for config in ("syncdreamer-neus", "harmonyview"):
        key = image_to_mesh.key_of(image_to_mesh.Job(3, "default", "true", config=config))
        assert key["toy"] == 3 and key["config"] == config and len(key["weights"]) == 64
    for words, message in (
        (["--config", "imagedream-toys", "--views", "true"], "--views true: imagedream-toys does not learn from views"),
        (["--config", "harmonyview", "--variants", "default", "static"], "orbit"),
        (["--config", "none"], "none.yaml"),
    ):
        assert image_to_mesh.main(words) == command_line.BAD_INPUT
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not Path("rows.jsonl").exists()


def a_ball_scene() -> tuple[Prior, toys_prior.Scene]:
    """Return a scene that the tiny ball's prior is right about: a ball."""
    config = TinyBall.Config("ball.safetensors")
    prior = TinyBall(config, device=torch.device("cpu"))
    scene = toys_prior.make_scene("toy", random.randrange(50), prior, torch.device("cpu"))
    return prior, replace(scene, truth=ball(scene.cameras))


def test_rows_of_an_exact_prior() -> None:
    prior, scene = a_ball_scene()
    samplers = [toys_prior.Sampler(6, 80.0, 0.002, 1.0), toys_prior.Sampler(6, 80.0, 0.002, 2.5)]
    baselines = toys_prior.make_baselines("toy", 0, scene, mean_of=2)
    rows = toys_prior.measure_object(prior, scene, samplers, baselines).rows
    repeated = float(psnr(scene.truth[0][-1:].expand(20, -1, -1, -1), scene.truth[0][:-1]).mean())
    assert rows["input repeated"]["psnr"] == pytest.approx(repeated, abs=1e-3)
    assert rows["input repeated"]["iou"] > 0.97  # a ball's outline is the same from everywhere, up to perspective
    assert rows["one evaluation, sigma 80"]["psnr"] > 50  # the mean image of the ball, which is the truth
    for sampler in samplers:
        row = rows[sampler.name]
        assert row["psnr"] > 38  # the prior's samples deviate by 0.02 in latents, 0.01 in pixels: 40 dB
        assert min(row["psnr near"], row["psnr back"]) <= row["psnr"] <= max(row["psnr near"], row["psnr back"])
        assert row["iou"] > 0.99 and row["seconds"] > 0
    table, data = toys_prior.table_of([rows, rows]), toys_prior.summary([rows, rows])
    assert table.row_count == len(rows) == len(data)
    assert json.loads(json.dumps(data))["input repeated"]["psnr"] == [pytest.approx(repeated, abs=1e-3), 0.0]


def test_scenes_are_the_same_every_time_and_end_at_the_prompt() -> None:
    prior, _ = a_ball_scene()
    index = random.randrange(50)
    first, again, other = (
        toys_prior.make_scene("toy", i, prior, torch.device("cpu")) for i in (index, index, index + 1)
    )
    assert torch.equal(first.truth[0], again.truth[0]) and torch.equal(first.noise, again.noise)
    assert not torch.equal(first.noise, other.noise)
    assert torch.equal(first.posed.image, first.truth[0][-1])
    torch.testing.assert_close(first.posed.camera.c2w, first.cameras.c2w[-1:])


def test_the_mean_orbit_is_the_mean() -> None:
    cameras = orbit_cameras(torch.tensor([30.0, 200.0]), torch.tensor([5.0, -10.0]), 3.6, 33.8, 32, 32)
    images, masks = toys_prior.mean_orbit("toy", cameras, 7, 2)
    seen = [render(prompted("toy", index, "train"), cameras) for index in (7, 8)]
    torch.testing.assert_close(images, (seen[0].rgb + seen[1].rgb) / 2)
    torch.testing.assert_close(masks, (seen[0].alpha + seen[1].alpha) / 2)
