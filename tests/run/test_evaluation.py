import json
import shutil
from collections.abc import Set
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from helpers.paths import ROOT
from helpers.tiny_prior import TinyBall, write_weights
from PIL import Image
from torch import Tensor

from liftstudio.cli import command_line
from liftstudio.core.config import ComponentSpec, parse
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import load_image
from liftstudio.data.mesh import Mesh
from liftstudio.data.mesh_io import read_mesh
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.metrics.images import psnr
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image
from liftstudio.run import evaluation
from liftstudio.run.config import EvaluationConfig, TruthConfig
from liftstudio.run.run import noun_of
from liftstudio.run.truth import (
    compare_mesh,
    load_truth,
    moved_mesh,
    resized,
    source_rotation_deg,
    squared,
    truth_of_capture,
)
from liftstudio.systems.base import Surface, System
from liftstudio.views.posed_images import PosedImages

MARIO = ROOT / "assets/demo/mario"


def color_of(points: Tensor) -> Tensor:
    return (0.5 + 0.5 * points).clamp(0, 1)


class FinishedMesh(System):
    """A mesh coloured by position, with nothing to optimise; `brightness` changes its colours."""

    def __init__(self, mesh: Mesh, brightness: float = 1.0) -> None:
        self.mesh, self.brightness, self.stages = mesh, brightness, {}

    def enter(self, stage: str, state: dict | None = None) -> None: ...

    def step(self, step: int) -> dict[str, float]:
        return {"loss": 0.0}

    def state(self) -> dict:
        return {}

    def render(self, cameras: Cameras, passes: Set[str] = frozenset()) -> Render:
        clip = cameras.clip(self.mesh.vertices)
        face_index = rasterize(clip, self.mesh.faces, cameras.height, cameras.width)
        seen = fragments(clip, self.mesh.faces, face_index)
        attributes = torch.cat([self.mesh.vertices, self.mesh.vertex_normals()], dim=-1)
        points, normals = interpolate(attributes, self.mesh.faces, seen).split(3, dim=-1)
        colors = scatter_image(color_of(points) * self.brightness, seen)
        opacity = (face_index >= 0).float()[..., None]
        depth = ((points - cameras.centers[seen.pixel // (cameras.height * cameras.width)]) ** 2).sum(-1, keepdim=True)
        return Render(
            rgb=colors + (1 - opacity) * 0.3,
            foreground=colors,
            opacity=opacity,
            albedo=colors if "albedo" in passes else None,
            normal=scatter_image(torch.nn.functional.normalize(normals, dim=-1), seen) if "normal" in passes else None,
            depth=scatter_image(depth.sqrt(), seen) if "depth" in passes else None,
        )

    def surface(self) -> Surface:
        return Surface(self.mesh, color_of, lambda points, normals: color_of(points))


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    sphere = trimesh.creation.icosphere(3, radius=0.7)
    return Mesh(
        torch.from_numpy(sphere.vertices).float() * torch.tensor([1.0, 0.6, 0.8]), torch.from_numpy(sphere.faces)
    )


@pytest.fixture(scope="module")
def views(mesh: Mesh) -> ReferenceViews:
    """Nine images of the mesh itself, wider than high, two of them held out."""
    angle = torch.arange(9) * 40.0
    cameras = orbit_cameras(angle, 40 * torch.sin(angle), 3.0, 40.0, 48, 64)
    render = FinishedMesh(mesh).render(cameras)
    straight = render.foreground / render.opacity.clamp_min(1e-6)
    held_out = torch.arange(9) % 5 == 3
    names = tuple(f"images/{i}.png" for i in range(9))
    return ReferenceViews(straight, render.opacity, cameras, names, held_out)


CONFIG = EvaluationConfig(frames=8, size=33, stills=4, elevation_deg=10.0)


def test_everything_is_written(mesh: Mesh, views: ReferenceViews, tmp_path: Path) -> None:
    metrics = evaluation.evaluate(FinishedMesh(mesh), views, tmp_path, CONFIG)
    assert metrics["training"]["psnr"] == metrics["held_out"]["psnr"] == 100  # the same pictures
    assert metrics["training"]["ssim"] > 0.9999
    assert [row["name"] for row in metrics["views"]] == list(views.names)
    assert [row["held_out"] for row in metrics["views"]] == views.held_out.tolist()
    json.dumps(metrics, allow_nan=False)
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    passes = ("rgb", "albedo", "normal", "depth", "mask")
    stills = {f"stills/{a}_{p}.png" for a in ("000", "090", "180", "270") for p in passes}
    assert names == {"turntable.mp4", "contact_sheet.png", *stills}
    meta = next(imageio_ffmpeg.read_frames(str(tmp_path / "turntable.mp4")))
    assert meta["size"] == (34, 34) and meta["fps"] == CONFIG.fps
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "turntable.mp4"))[0] == 8


def test_stills_show_their_azimuth(mesh: Mesh, views: ReferenceViews, tmp_path: Path) -> None:
    orbit = evaluation.turntable_cameras(views, CONFIG)
    evaluation.save_stills(FinishedMesh(mesh), orbit, tmp_path, 4)
    for azimuth in (0, 90, 180, 270):
        fov = float(2 * torch.rad2deg(torch.atan(32 / views.cameras.fx[0])))  # the wider of the two
        cameras = orbit_cameras(torch.tensor([azimuth * 1.0]), torch.tensor([10.0]), 3.0, fov, 33, 33)
        render = FinishedMesh(mesh).render(cameras, evaluation.STILL_PASSES)
        pictures = {"rgb": render.over(1.0), "mask": render.opacity, "albedo": render.albedo + 1 - render.opacity}
        for name, wanted in pictures.items():
            shown = load_image(tmp_path / f"{azimuth:03d}_{name}.png")[0]
            assert (shown - wanted[0]).abs().mean() < 0.01  # 8 bits, and silhouette pixels of slightly other cameras
        corner = load_image(tmp_path / f"{azimuth:03d}_depth.png")[0][0, 0]
        assert bool((corner == 0).all())


def test_metrics_are_means_over_their_views(mesh: Mesh, views: ReferenceViews) -> None:
    renders = (views.over(1.0) + 0.1 * torch.rand(9, 1, 1, 1)).clamp(0, 1)
    metrics = evaluation.image_metrics(renders, views)
    each = psnr(renders, views.over(1.0))
    assert metrics["training"]["psnr"] == pytest.approx(float(each[~views.held_out].mean()), abs=1e-3)
    assert metrics["held_out"]["psnr"] == pytest.approx(float(each[views.held_out].mean()), abs=1e-3)
    training_only = evaluation.image_metrics(renders[~views.held_out], views.training())
    assert "held_out" not in training_only and training_only["training"] == metrics["training"]


def test_images_too_small_for_ssim_still_have_psnr(views: ReferenceViews) -> None:
    tiny = ReferenceViews(
        views.images[:, :5], views.masks[:, :5], views.cameras.resized(5, 64), views.names, views.held_out
    )
    metrics = evaluation.image_metrics(tiny.over(1.0) * 0.5, tiny)
    assert metrics["training"]["ssim"] is None and 0 < metrics["training"]["psnr"] < 100


def test_padding_is_no_part_of_metrics_and_contact_sheet(views: ReferenceViews) -> None:
    """Each photograph is compared at its own size, whatever is rendered in its padding."""
    windows = torch.tensor([[0, 0, 64, 48], [10, 0, 42, 48], [0, 9, 64, 14]])
    chosen = replace(views.select([0, 3, 5]), windows=windows)
    renders = (chosen.over(1.0) + 0.1).clamp(0, 1)
    rows = evaluation.image_metrics(renders, chosen)["views"]
    spoilt = torch.rand_like(renders).where(~chosen.seen(), renders)
    metrics = evaluation.image_metrics(spoilt, chosen)
    assert metrics["views"] == rows
    own = spoilt[1:2, :, 10:42], chosen.over(1.0)[1:2, :, 10:42]
    assert rows[1]["psnr"] == pytest.approx(float(psnr(*own)), abs=1e-3)
    assert rows[2]["ssim"] is None
    known = [row["ssim"] for row in rows if not row["held_out"] and row["ssim"] is not None]
    assert metrics["training"]["ssim"] == pytest.approx(sum(known) / len(known))
    sheet = evaluation.contact_sheet(spoilt, chosen, metrics)
    assert torch.equal(sheet, evaluation.contact_sheet(renders, chosen, metrics))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_contact_sheet_holds_reference_render_and_difference(mesh: Mesh, views: ReferenceViews, count: int) -> None:
    chosen = views.select(range(count))
    renders = FinishedMesh(mesh, brightness=0.5).render(chosen.cameras).over(1.0)
    sheet = evaluation.contact_sheet(renders, chosen, evaluation.image_metrics(renders, chosen))
    triple = torch.cat([chosen.over(1.0)[0], renders[0], (renders - chosen.over(1.0))[0].abs()], dim=1)
    top = sheet.shape[0] // -(-count // max(1, round((count / 4) ** 0.5))) - 48
    torch.testing.assert_close(sheet[top : top + 48, : 3 * 64], triple)
    assert sheet.shape[0] * sheet.shape[1] < count * 70 * 200 * 1.5  # no large empty parts


def test_a_run_without_views_has_its_turntable(mesh: Mesh, tmp_path: Path) -> None:
    assert evaluation.evaluate(FinishedMesh(mesh), None, tmp_path, CONFIG) == {}
    assert (tmp_path / "turntable.mp4").stat().st_size > 0


@pytest.mark.usefixtures("few_surface_samples", "few_visible_points")
def test_photographs_of_a_real_object(tmp_path: Path) -> None:
    """The true mesh has the true silhouette; only its colours are made up."""
    config = PosedImages.Config(path=str(MARIO), held_out=[3, 11], max_size=128)
    source = PosedImages(config, device=torch.device("cpu"))
    back, truth, loaded = source.data_from_world(), source.truth_mesh(), source.load()
    assert truth is not None
    mesh = moved_mesh(read_mesh(truth), torch.linalg.inv(back))
    silhouette = FinishedMesh(mesh).render(loaded.cameras).opacity
    assert (silhouette - loaded.masks).abs().mean() < 0.005  # one ray per pixel against the mean of four pixels
    metrics = evaluation.evaluate(FinishedMesh(mesh), loaded, tmp_path, CONFIG)
    assert metrics["training"]["psnr"] > 10 and len(metrics["views"]) == 16
    trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy()).export(tmp_path / "mesh.ply")
    true = truth_of_capture(read_mesh(truth, torch.float64), back)
    assert true.mesh is not None and torch.equal(true.mesh.vertices, read_mesh(truth).vertices)
    distances = evaluation.compare_exported(tmp_path / "mesh.ply", true)
    assert distances["chamfer"] is not None and distances["chamfer"] < 1e-4  # in the world of the truth
    assert distances["iou"] is not None and distances["iou"] > 0.99


@pytest.mark.parametrize(
    "options",
    [{"fps": 0}, {"fps": 241}, {"lpips_network": "resnet"}],
)
def test_faulty_options(options: dict) -> None:
    with pytest.raises(InputError, match=f"test.{next(iter(options))}"):
        parse(options, EvaluationConfig, "test")


def test_missing_lpips_weights_are_reported_before_the_work(tmp_path: Path) -> None:
    evaluation.check_test(EvaluationConfig())
    with pytest.raises(InputError, match="LPIPS"):
        evaluation.check_test(EvaluationConfig(lpips_weights=str(tmp_path / "none")))


def test_lpips_is_measured_with_weights(views: ReferenceViews, tmp_path: Path) -> None:
    from liftstudio.metrics.lpips import Lpips

    torch.save(Lpips("alexnet").state_dict(), tmp_path / "random.pth")
    config = EvaluationConfig(lpips_weights=str(tmp_path))
    evaluation.check_test(config)
    metrics = evaluation.image_metrics(views.over(1.0), views, evaluation._lpips(config))
    assert metrics["training"]["lpips"] == 0
    assert np.isfinite(evaluation.image_metrics(views.over(0.0), views, evaluation._lpips(config))["held_out"]["lpips"])


def test_renders_are_compared_with_true_views() -> None:
    """The true mesh in the world of a run from one of the images has the true silhouettes."""
    truth = load_truth(TruthConfig(views=str(MARIO), view="005.png"), azimuth_deg=20.0)
    assert truth.views is not None and truth.mesh is not None and truth.views.input_view == 5
    mesh = moved_mesh(truth.mesh, torch.linalg.inv(truth.unit_from_world))
    row = evaluation.compare_renders(FinishedMesh(mesh), truth.views, CONFIG, "mario", torch.device("cpu"))
    assert row["silhouette_iou"] > 0.99 and 10 < row["psnr"] < 100  # its colours are made up
    assert "patches" in row["contextual_by"] and "lpips" not in row
    json.dumps(row, allow_nan=False)


def test_the_middle_of_the_frame_is_the_origin() -> None:
    for center in ((0.5, 0.5), (0.42, 0.55)):
        views = load_truth(TruthConfig(views=str(MARIO)), center=center).views
        assert views is not None
        pixels, depth = views.cameras[:1].project(torch.zeros(1, 3))
        assert pixels[0, 0].tolist() == pytest.approx([256 * value for value in center], abs=0.05) and depth > 0


def test_padding_does_not_widen_the_turntable(views: ReferenceViews) -> None:
    windows = torch.tensor([[16, 0, 48, 48]]).repeat(9, 1)
    narrow = replace(views, windows=windows)
    plain = replace(views, images=views.images[:, :, 16:48], cameras=replace(views.cameras, width=32))
    assert torch.equal(evaluation.turntable_cameras(narrow, CONFIG).fx, evaluation.turntable_cameras(plain, CONFIG).fx)


def test_the_middle_of_the_frame_of_a_picture_smaller_than_the_others(tmp_path: Path) -> None:
    """The frame's centre is a share of the picture's own size."""
    shutil.copytree(MARIO, tmp_path / "mario")
    data = json.loads((tmp_path / "mario/transforms.json").read_text())
    frame = data["frames"][0]
    picture = Image.open(tmp_path / "mario" / frame["file_path"]).crop((16, 20, 240, 240))
    picture.save(tmp_path / "mario" / frame["file_path"])
    frame.update(w=224, h=220, cx=data["cx"] - 16, cy=data["cy"] - 20)
    (tmp_path / "mario/transforms.json").write_text(json.dumps(data))
    whole, cropped = (
        load_truth(TruthConfig(views=str(path)), center=center).views
        for path, center in (
            (MARIO, (0.5 + 10 / 256, 0.5 - 18 / 256)),
            (tmp_path / "mario", (0.5 + 10 / 224, 0.5 - 20 / 224)),  # its middle is 2 pixels lower
        )
    )
    assert whole is not None and cropped is not None and cropped.windows is not None
    assert cropped.windows[0].tolist() == [16, 18, 240, 238] and cropped.windows[1].tolist() == [0, 0, 256, 256]
    torch.testing.assert_close(cropped.cameras.centers, whole.cameras.centers, atol=1e-5, rtol=0)


def test_a_wide_photograph_ends_where_it_did_before_it_became_square(views: ReferenceViews) -> None:
    """Its silhouettes at the border still count as cut off."""
    square = squared(views)
    assert square.images.shape == (9, 64, 64, 3) and square.windows is not None
    assert square.windows.tolist() == [[0, 8, 64, 56]] * 9
    padded = squared(replace(views, windows=torch.tensor([[3, 0, 40, 47]]).repeat(9, 1)))
    assert padded.windows is not None and padded.windows.tolist() == [[3, 8, 40, 55]] * 9
    assert torch.equal(squared(square).windows, square.windows) and resized(square, 32).windows is None


FAR = [451230.25, 5411873.5, 120.0]  # of a map's zone, in metres


def carried(scale: float, shift: list[float]) -> Tensor:
    """Return the similarity x' = scale * x + shift."""
    similarity = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
    similarity[:3, 3] = torch.tensor(shift)
    return similarity


def carry_mesh(path: Path, similarity: Tensor) -> None:
    """Write the mesh of MARIO, moved."""
    mesh = moved_mesh(read_mesh(MARIO / "mesh.obj", torch.float64), similarity)
    vertices = [f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in mesh.vertices.tolist()]
    faces = [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
    path.write_text("\n".join([*vertices, *faces]))


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.usefixtures("few_surface_samples", "few_visible_points")
def test_a_true_mesh_in_a_far_world_is_compared_without_loss(tmp_path: Path, scale: float) -> None:
    """By its distances: they are in units of its longest side, whatever the capture's world is."""
    away, back = carried(scale, FAR), carried(0.62, [0.1, -0.2, 0.05])  # of a run's world, to that of MARIO
    carry_mesh(tmp_path / "mesh.obj", away)
    truth = truth_of_capture(read_mesh(tmp_path / "mesh.obj", torch.float64), away @ back)
    near = moved_mesh(read_mesh(MARIO / "mesh.obj", torch.float64), torch.linalg.inv(back)).float()
    exported = Mesh(near.vertices + torch.tensor([0.1 / 0.62, 0, 0]), near.faces)
    found = compare_mesh(exported, truth)
    wanted = compare_mesh(exported, truth_of_capture(read_mesh(MARIO / "mesh.obj", torch.float64), back))
    assert found["chamfer"] == pytest.approx(wanted["chamfer"], abs=1e-4)
    assert found["iou"] == pytest.approx(wanted["iou"], abs=0.01)


def write_mario(folder: Path, shift: list[float], mesh: bool) -> TruthConfig:
    """Write the capture MARIO, moved by `shift`, with or without its mesh."""
    data = json.loads((MARIO / "transforms.json").read_text())
    for frame in data["frames"]:
        frame["file_path"] = str(MARIO / frame["file_path"])
        for row, offset in zip(frame["transform_matrix"], shift, strict=False):
            row[3] += offset
    folder.mkdir()
    carry_mesh(folder / "mesh.obj", carried(1.0, shift))
    (folder / "transforms.json").write_text(json.dumps({**data, "mesh": "mesh.obj" if mesh else None}))
    return TruthConfig(views=str(folder))


@pytest.mark.parametrize("mesh", [True, False])
def test_the_truth_of_a_far_capture_is_that_of_a_near_one(tmp_path: Path, mesh: bool) -> None:
    """Its box is that of the mesh or, without one, of the silhouettes."""
    near = load_truth(write_mario(tmp_path / "near", [0.0, 0.0, 0.0], mesh), azimuth_deg=20.0)
    far = load_truth(write_mario(tmp_path / "far", FAR, mesh), azimuth_deg=20.0)
    assert far.views is not None and near.views is not None
    torch.testing.assert_close(far.views.cameras.c2w, near.views.cameras.c2w, atol=1e-5, rtol=0)
    if mesh:
        assert far.mesh is not None and near.mesh is not None
        torch.testing.assert_close(far.mesh.vertices, near.mesh.vertices, atol=1e-5, rtol=0)


def test_a_rotation_of_null_is_none(tmp_path: Path) -> None:
    data = json.loads((MARIO / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps({**data, "source_rotation_deg": None}))
    assert source_rotation_deg(tmp_path) == 0


@pytest.mark.parametrize("shift", [[3.0, 3.0, 3.0], FAR])
@pytest.mark.usefixtures("few_surface_samples", "few_visible_points")
def test_a_true_mesh_alone_faces_the_input_camera(tmp_path: Path, shift: list[float]) -> None:
    """At any size and place: its box is centred, its longest side scaled to 1, +x turned to the input camera."""
    truth = read_mesh(MARIO / "mesh.obj")
    low, high = truth.vertices.aminmax(dim=0)
    carry_mesh(tmp_path / "far.obj", carried(7.0, shift))
    found = load_truth(TruthConfig(mesh=str(tmp_path / "far.obj")), azimuth_deg=90.0)
    assert found.views is None and found.mesh is not None
    side = 1.8 / float((high - low).max())
    x, y, z = (side * (truth.vertices - (low + high) / 2)).unbind(-1)
    in_the_run = Mesh(torch.stack([-y, x, z], dim=-1), truth.faces)  # the input image is at azimuth 90
    measured = compare_mesh(in_the_run, found)
    assert measured["chamfer"] is not None and measured["chamfer"] < 1e-3
    assert measured["iou"] is not None and measured["iou"] > 0.97


def test_an_empty_mesh_has_an_iou_of_0() -> None:
    truth = load_truth(TruthConfig(mesh=str(MARIO / "mesh.obj")))
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    for scale_by_box in (False, True):
        assert compare_mesh(empty, truth, scale_by_box=scale_by_box)["iou"] == 0


@pytest.mark.parametrize(
    "prompt, image, views, noun",
    [
        ("a teapot", "000.png", "data/mario", "a teapot"),
        ("", "photos/shoe_2.png", "data/mario", "shoe_2"),
        ("", "data/mario/images/000.png", "data/mario", "mario"),
        ("", "000.png", "data/17", None),
    ],
)
def test_an_object_is_called_by_its_prompt_or_its_files(prompt: str, image: str, views: str, noun: str | None) -> None:
    config = SimpleNamespace(prompt=prompt, text="", picture=image, truth=SimpleNamespace(views=views))
    assert noun_of(config) == noun  # type: ignore[arg-type]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["truth.views=nowhere"], "error: truth.views: nowhere: no such file or folder"),
        ([f"truth.views={MARIO}", "truth.view=99.png"], "view: no view 99.png; there are 000.png"),
        (["truth.mesh=none.obj"], "none.obj: no such file"),
        ([f"truth.views={MARIO}", "truth.mesh=points.ply"], "points.ply: no triangles"),
        ([f"truth.views={MARIO}", "test.clip_weights=nowhere"], "nowhere: no such folder; CLIP"),
        (["truth.view=000.png"], "truth.view: needs truth.views"),
    ],
)
def test_bad_truth_is_said_before_the_views_are_made(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_weights(Path("ball.safetensors"))
    trimesh.PointCloud(np.eye(3)).export("points.ply")
    prior = ["prior.type=tiny-ball", "prior.weights=ball.safetensors", "views.cache=false"]
    asked = len(TinyBall.prompts)
    assert (
        command_line.main(["--config", str(ROOT / "configs" / "sv3d-masked-sds.yaml"), "--train", *prior, *options])
        == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error and len(TinyBall.prompts) == asked


def test_truth_is_for_runs_from_a_picture() -> None:
    posed = ComponentSpec("views", "posed-images", PosedImages.Config(path=str(MARIO)))
    truth = TruthConfig(views=str(MARIO))
    assert evaluation.load_truth_of(TruthConfig(), posed) is None
    for views in (posed, None):
        with pytest.raises(InputError, match="truth: applies to runs from one picture only"):
            evaluation.load_truth_of(truth, views)
