"""The benchmark of one picture of a real object: cameras, baselines, rows that are found again, papers' tables."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from rich.console import Console
from test_bench_image_to_mesh import QUICK
from tiny_prior import TinyBall, ball, write_weights

from bench import baselines, captures, published, runs, single_image, single_image_tables, single_image_tasks
from bench.single_image_tasks import Setting, Task, reconstruct
from liftstudio import assets, cli, registry
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.errors import InputError
from liftstudio.evaluation import TruthConfig
from liftstudio.images import load_image, save_image
from liftstudio.logs import WorkProgress
from liftstudio.mesh import Mesh
from liftstudio.metrics import meshes
from liftstudio.metrics.novel_views import Judges, around, closeness, compare_views, novel_views, silhouette_iou
from liftstudio.metrics.truth import compare_mesh, load_truth, moved_mesh, turn_about_z
from liftstudio.ops.rasterization import rasterize

registry.load_extensions(assets.ROOT / "custom")

MARIO = assets.ROOT / "assets" / "demo" / "mario"
PRIOR = ("views.prior.type=tiny-ball", "views.prior.weights=ball.safetensors", "views.steps=3")
FOV_DEG = 2 * math.degrees(math.atan(128 / 280))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of two balls that are 1 wide, as the protocol has objects; and a prior that knows just them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(meshes, "SURFACE_SAMPLES", 5000)  # nearest points of balls in one another take long to find
    write_weights(tmp_path / "ball.safetensors", radius=0.9)
    write_capture(tmp_path / "objects" / "blue_ball1", mesh=True)
    write_capture(tmp_path / "objects" / "red_ball", mesh=True)


def write_capture(folder: Path, *, mesh: bool, changes: dict | None = None, size: int = 64) -> Path:
    """Six views of a ball of radius 0.5 from several heights, 60 degrees apart, and maybe its mesh."""
    (folder / "images").mkdir(parents=True)
    angles = 60.0 * torch.arange(6), torch.tensor([30.0, 0.0, 60.0, -20.0, 30.0, 0.0])
    cameras = orbit_cameras(*angles, 1.5, FOV_DEG, size, size)
    images, masks = ball(cameras, 0.5)
    frames = []
    for index, (image, mask, c2w) in enumerate(zip(images, masks, cameras.c2w, strict=True)):
        save_image(folder / "images" / f"{index:03d}.png", torch.cat([image, mask], dim=-1))
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": c2w.tolist()})
    lens = {"fl_x": size * 70 / 64, "fl_y": size * 70 / 64, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    data = {**lens, "frames": frames, **(changes or {})}
    if mesh:
        trimesh.creation.icosphere(3, 0.5).export(folder / "mesh.ply")
        data["mesh"] = "mesh.ply"
    (folder / "transforms.json").write_text(json.dumps(data))
    return folder


def measure(*words: str) -> list[dict]:
    """The rows of a call that succeeds."""
    assert single_image.main(["objects", "--results", "rows.jsonl", *words]) == cli.DONE
    return runs.read_rows(Path("rows.jsonl"))


def chosen(rows: list[dict], **wanted: object) -> dict:
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row


def test_views_of_a_prior_that_is_right_and_rows_that_are_found_again() -> None:
    rows = measure("--views-only", *PRIOR)
    assert {(row["object"], row["row"], row["pixels"]) for row in rows} == {
        (name, row, pixels)
        for name in ("blue_ball1", "red_ball")
        for row in ("one evaluation", "sampled")
        for pixels in (32, 64)
    }
    for row in rows:  # one ray a pixel of the prior's, against the mean of four pixels: outlines differ
        assert row["psnr"] > 20 and row["silhouette_iou"] > 0.95
        assert ("contextual_to_picture" in row) == (row["pixels"] == 64)
    asked = len(TinyBall.prompts)
    assert measure("--views-only", *PRIOR) == rows and len(TinyBall.prompts) == asked
    again = measure("--views-only", "--only", "red_ball", "--view", "001.png", *PRIOR)
    assert len(again) == len(rows) + 4 and again[-1]["view"] == "001.png"
    # From there the world is turned by 60 degrees: the outlines stay, the colours of a ball turn.
    assert again[-1]["silhouette_iou"] > 0.95 and again[-1]["psnr"] < rows[-1]["psnr"] - 3
    write_weights(Path("ball.safetensors"), radius=0.7)  # other weights in the same file
    smaller = measure("--views-only", "--only", "red_ball", *PRIOR)
    assert len(smaller) == len(again) + 4
    assert smaller[-1]["silhouette_iou"] < rows[-1]["silhouette_iou"] - 0.2


def test_an_interrupted_benchmark_goes_on() -> None:
    rows = measure("--views-only", *PRIOR)
    first = [row for row in rows if row["object"] == "blue_ball1"]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    asked = len(TinyBall.prompts)
    rows = measure("--views-only", *PRIOR)
    assert rows[:4] == first and len(rows) == 8
    assert len(TinyBall.prompts) == asked + 2  # for each way to ask it


def test_baselines(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--views-only", "--baselines", "repeated", "inflate", "mean", "--table", "syncdreamer", "--sheet", "s.png")
    rows = measure("--only", "blue_ball1", *words, *PRIOR)
    repeated, inflated, mean = (chosen(rows, kind=kind, pixels=64) for kind in ("repeated", "inflate", "mean"))
    assert repeated["silhouette_iou"] > 0.97 and repeated["psnr"] < 25 and "chamfer" not in repeated
    assert inflated["iou"] > 0.85 and inflated["chamfer"] < 0.02 and inflated["silhouette_iou"] > 0.9
    assert mean["iou"] > 0.95 and mean["chamfer"] < 0.01 and mean["psnr"] == 100  # both are the same ball
    assert mean["others"] == ["red_ball"]
    printed = capsys.readouterr().out
    assert "SyncDreamer (published)" in printed and "2312.15980" in printed and "mean object" in printed
    height, width, _ = load_image("s.png")[0].shape
    assert width == 8 * 128 and height > 6 * 128


def test_captures_without_a_mesh_have_no_shape() -> None:
    write_capture(Path("objects/green_ball"), mesh=False)
    rows = measure("--only", "green_ball", "--views-only", "--baselines", "inflate", "mean", *PRIOR)
    assert not any("chamfer" in row for row in rows)
    assert chosen(rows, kind="inflate", pixels=64)["psnr"] > 10
    # Its silhouettes make it a little larger than it is: the others' cameras are not its own.
    assert "psnr" not in chosen(rows, kind="mean")
    known = {"kind": "mesh", "method": "m", "pixels": 64, "psnr": 20.0}
    _, shapes = single_image_tables.tables(
        [{**known, "object": "a", "chamfer": 0.1}, {**known, "object": "b"}], by_box=True
    )
    assert {str(column.header): list(column.cells)[:2] for column in shapes.columns}["chamfer"] == ["0.1000", ""]


def test_an_inflated_disc_is_about_a_ball() -> None:
    camera = far_camera()
    mesh = baselines.inflate(ball(camera, 0.6)[1][0], camera)
    radius = mesh.vertices.norm(dim=1)
    assert radius.min() > 0.57 and radius.max() < 0.63
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


def far_camera() -> Cameras:
    """From so far away that a ball's outline is that of a disc; 2.1 wide at the origin."""
    return orbit_cameras(torch.zeros(1), torch.tensor([20.0]), 40.0, 3.0, 256, 256)


@pytest.mark.parametrize("sides", [(slice(100, 256), slice(100, 200)), (slice(0, 256), slice(0, 256))])
def test_a_silhouette_that_the_border_cuts_is_a_closed_body(sides: tuple[slice, slice]) -> None:
    mask = torch.zeros(256, 256, 1)
    mask[sides] = 1
    mesh = baselines.inflate(mask, far_camera())
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight and solid.volume > 0.5


def test_a_silhouette_too_thin_to_inflate_is_a_row() -> None:
    """One pixel of 256 across: nothing is left at the resolution at which silhouettes are inflated."""
    capture = write_capture(Path("thin/needle"), mesh=True, size=256)
    picture, alpha = load_image(capture / "images" / "000.png")
    assert alpha is not None
    alpha[:, :101] = alpha[:, 102:] = 0
    save_image(capture / "images" / "000.png", torch.cat([picture, alpha], dim=-1))
    rows = Task("inflate", setting_of(PRIOR), capture).measure(Judges(), Path("work"), Path("strips"))
    row = chosen(rows, pixels=256)
    assert row["iou"] == row["f_score_0.02"] == row["silhouette_iou"] == row["by_box"]["iou"] == 0
    known = {"object": "needle", "kind": "inflate", "method": "m"}
    _, shapes = single_image_tables.tables([{**known, **row} for row in rows], by_box=True)
    cells = {str(column.header): list(column.cells)[-1] for column in shapes.columns}
    assert row["chamfer"] is None and "chamfer" not in cells and cells["iou"] == "0.000"


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"fl_x": 70.3, "cx": 32.3}, True),
        ({"fl_x": 72.0}, False),
        ({"fl_y": 68.0}, False),
        ({"cx": 33.0}, False),
        ({"cy": 31.0}, False),
    ],
)
def test_a_mean_picture_is_of_the_same_cameras(changes: dict, is_same: bool) -> None:
    here = captures.read_subject(Path("objects/red_ball"))
    there = captures.read_subject(write_capture(Path("other"), mesh=True))
    lens = {"fl_x": "fx", "fl_y": "fy"}
    cameras = replace(
        there.views.cameras, **{lens.get(name, name): torch.full((6,), value) for name, value in changes.items()}
    )
    assert there.truth.views is not None
    there = replace(there, truth=replace(there.truth, views=replace(there.truth.views, cameras=cameras)))
    assert (baselines.mean_pictures(here, [there]) is not None) == is_same


def test_a_mean_picture_is_of_one_size() -> None:
    here = captures.read_subject(Path("objects/red_ball"))
    there = captures.read_subject(write_capture(Path("larger"), mesh=True, size=128))
    assert baselines.mean_pictures(here, [there]) is None


def test_an_inflated_body_is_where_the_picture_shows_it() -> None:
    subject = captures.read_subject(MARIO)
    _, (images, masks) = baselines.inflated(subject)
    prompt = [subject.views.prompt]
    assert silhouette_iou(masks[prompt], subject.views.masks[prompt]) > 0.92
    picture = subject.views.over(1.0)[prompt]
    assert (images[prompt] - picture).abs().mean() < 0.03


def test_the_protocols_world_is_kept_to_the_bit() -> None:
    """Google Scanned Objects as SyncDreamer has them: 1.5 away from an object that is 1 long, here 1.8."""
    subject = captures.read_subject(MARIO)
    assert subject.camera.distance == pytest.approx(2.7, abs=1e-4)
    assert subject.camera.fov_deg == pytest.approx(49.134, abs=1e-3)
    assert subject.camera.elevation_deg == pytest.approx(30, abs=1e-3)
    loaded = trimesh.load(MARIO / "mesh.obj", process=False, maintain_order=True)
    assert subject.truth.mesh is not None
    assert np.array_equal(subject.truth.mesh.vertices.numpy(), np.asarray(loaded.vertices, np.float32))
    perfect = moved_mesh(subject.truth.mesh, torch.linalg.inv(subject.truth.unit_from_world))
    found = compare_mesh(perfect, subject.truth)
    assert found["iou"] > 0.995 and found["chamfer"] < 1e-4  # rounding to float32 moves points on faces
    half = Mesh(0.5 * perfect.vertices + 0.1, perfect.faces)
    assert compare_mesh(half, subject.truth)["iou"] < 0.4
    scaled = compare_mesh(half, subject.truth, scale_by_box=True)
    assert scaled["chamfer"] == pytest.approx(0.1 * 0.5 / 0.9, abs=0.02)  # about its middle: it stays off by the shift


@pytest.mark.parametrize(("view", "azimuth_deg"), [("", 0.0), ("000.png", 35.0), ("images/003.png", 0.0)])
def test_cameras_mesh_and_pictures_agree(view: str, azimuth_deg: float) -> None:
    subject = captures.read_subject(MARIO, view, azimuth_deg)
    truth, views = subject.truth, subject.views
    assert truth.mesh is not None and views.prompt == (3 if "003" in view else 0)
    turn = float(views.cameras.azimuth_deg[views.prompt]) - azimuth_deg
    assert abs((turn + 180) % 360 - 180) < 1e-3
    mesh = moved_mesh(truth.mesh, torch.linalg.inv(truth.unit_from_world))
    clip = views.cameras.clip(mesh.vertices)
    seen = (rasterize(clip, mesh.faces, 256, 256) >= 0).float()[..., None]
    assert silhouette_iou(seen, views.masks).min() > 0.99
    order = around(views).tolist()
    assert order[0] == views.prompt and sorted(order) == list(range(16))
    assert order[1] == (views.prompt + 1) % 16 and len(novel_views(views)) == 15


def test_scale_and_middle_of_any_world() -> None:
    """The same ball three times as large, elsewhere, without its mesh: its silhouettes say where it is."""
    plain = captures.read_subject(Path("objects/blue_ball1"))
    data = json.loads(Path("objects/blue_ball1/transforms.json").read_text())
    del data["mesh"]
    shift = np.array([5.0, -2.0, 1.0])
    for frame in data["frames"]:
        pose = np.array(frame["transform_matrix"])
        pose[:3, 3] = 3 * pose[:3, 3] + shift
        frame["transform_matrix"] = pose.tolist()
    Path("objects/blue_ball1/transforms.json").write_text(json.dumps(data))
    moved = captures.read_subject(Path("objects/blue_ball1"))
    assert moved.truth.mesh is None
    assert moved.camera.distance == pytest.approx(
        plain.camera.distance, rel=0.06
    )  # six hulls of a ball are wider than it
    torch.testing.assert_close(moved.views.cameras.centers[0, 2:], torch.tensor([moved.camera.distance / 2]))


def test_a_turned_object_is_measured_turned_back() -> None:
    """A box of longest side 1 whose corners were turned away: its own axes say how long it is."""
    box = trimesh.creation.box((1.0, 0.4, 0.4))
    box.apply_transform(turn_about_z(-45.0).numpy())
    box.export("box.ply")
    capture = write_capture(Path("box"), mesh=False, changes={"source_rotation_deg": 45.0})
    found = load_truth(TruthConfig(views=str(capture), mesh="box.ply"))
    assert found.views is not None and float(found.views.cameras.distance[0]) == pytest.approx(2.7, abs=1e-3)
    (capture / "transforms.json").write_text(
        (capture / "transforms.json").read_text().replace('"source_rotation_deg": 45.0', '"source_rotation_deg": "far"')
    )
    with pytest.raises(InputError, match="source_rotation_deg: wanted a finite number"):
        load_truth(TruthConfig(views=str(capture), mesh="box.ply"))


def test_views_of_any_shape_become_square() -> None:
    capture = write_capture(Path("wide"), mesh=True)
    data = json.loads((capture / "transforms.json").read_text())
    for index in range(6):
        path = capture / "images" / f"{index:03d}.png"
        rgb, alpha = load_image(path)
        assert alpha is not None
        save_image(path, torch.cat([rgb, alpha], dim=-1)[4:-4])
    (capture / "transforms.json").write_text(json.dumps({**data, "h": 56, "cy": 28.0}))
    wide, plain = captures.read_subject(capture), captures.read_subject(Path("objects/blue_ball1"))
    assert wide.views.images.shape == plain.views.images.shape
    torch.testing.assert_close(wide.views.over(1.0), plain.views.over(1.0))
    assert wide.camera == plain.camera


def test_measures_know_the_truth() -> None:
    views = captures.read_subject(Path("objects/red_ball")).views
    row = compare_views(views.over(1.0), views.masks, views, Judges())
    assert row["psnr"] == 100 and row["ssim"] == pytest.approx(1) and row["silhouette_iou"] == 1
    assert row["contextual_to_view"] < 1e-6 < row["contextual_to_picture"]
    assert "lpips" not in row and "clip_to_view" not in row and "e_flow" not in row
    worse = views.over(1.0).clone()
    worse[0] = 0  # the input view, which is left out
    assert closeness(worse, views.masks, views)["psnr"] == 100
    empty = compare_views(torch.ones_like(worse), torch.zeros_like(views.masks), views, Judges())
    assert empty["silhouette_iou"] == 0 and empty["contextual_to_view"] > row["contextual_to_view"] + 1


def test_flow_and_lpips_where_they_are_given() -> None:
    views = captures.read_subject(Path("objects/red_ball")).views

    def flow(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (targets - images).mean(-1, keepdim=True).expand(-1, -1, -1, 2)

    darker = 0.5 * views.over(1.0)
    row, same = (compare_views(images, views.masks, views, Judges(flow=flow)) for images in (darker, views.over(1.0)))
    assert same["e_flow"] == 0 < row["e_flow"]


def test_a_run_from_capture_to_row() -> None:
    """One run, measured by the benchmark and, as it names its truth, by itself."""
    options = [*QUICK, "views.prior.weights=ball.safetensors", "truth.views=objects/blue_ball1"]
    task = Task("mesh", Setting("sv3d-masked-sds", tuple(options)), Path("objects/blue_ball1"))
    (row,) = reconstruct(task, Path("work"), Path("strips"))
    columns = single_image_tables.SHAPE | {"psnr": 2, "ssim": 3, "silhouette_iou": 3, "contextual_to_view": 3}
    assert all(math.isfinite(row[name]) for name in runs.with_cost(columns, [row]))
    # Thirty steps on nine small views: a small lump where the ball is.
    assert row["iou"] > 0.1 and row["silhouette_iou"] > 0.3 and row["by_box"]["iou"] > row["iou"]
    assert row["coarse_s"] > 0 and row["memory_gb"] > 0
    (metrics,) = Path("work/runs").rglob("metrics.json")
    known = json.loads(metrics.read_text())
    assert known["mesh"]["chamfer"] == pytest.approx(row["chamfer"]) and known["mesh"]["iou"] == row["iou"]
    seen = known["novel_views"]
    assert seen["psnr"] == pytest.approx(row["psnr"], abs=1.5)  # by the system, and by what it exports
    assert seen["silhouette_iou"] == pytest.approx(row["silhouette_iou"], abs=0.05)
    assert "patches" in seen["contextual_by"] and seen["contextual_to_picture"] > 0
    saved = yaml.safe_load(metrics.with_name("config.yaml").read_text())
    assert saved["views"]["distance"] == pytest.approx(2.7, abs=1e-4) and saved["views"]["recenter"] is False
    assert load_image(row["strip"])[0].shape[1] == 8 * 128
    tables = single_image_tables.tables([{**row, "object": "a", "kind": "mesh", "method": "m"}], by_box=True)
    assert "bounding box" in str(tables[1].title)
    cells = {str(column.header): list(column.cells) for column in tables[1].columns}
    assert cells["iou"][0] == f"{row['by_box']['iou']:.3f}" and cells["object"] == ["a", "mean", "min", "max"]


def test_the_bundled_prior_is_a_baseline() -> None:
    setting = Setting("sv3d-masked-sds", (*PRIOR, "seed=3"))
    bundled = setting.bundled()
    assert setting.name == "sv3d-masked-sds, ball.safetensors" and bundled.name == "sv3d-masked-sds, priors/toys"
    assert bundled.weights != setting.weights and bundled.load("image=none").seed == 3
    words = ["objects", "--only", "red_ball", "--baselines", "toys"]
    tasks = single_image.plan(single_image._parse([*words, *PRIOR]))
    assert [(task.kind, task.setting) for task in tasks] == [
        (kind, each) for each in (setting_of(PRIOR), setting_of(PRIOR).bundled()) for kind in ("views", "mesh")
    ]
    alone = single_image.plan(single_image._parse([*words, "--views-only"]))
    assert [task.setting for task in alone] == [setting_of(())]  # it is the config's own
    others = ("views.prior.precision=float32", "system.stages.fine.guidance.unseen.prior.weights=x.safetensors")
    kept = setting_of((*PRIOR, *others)).bundled().overrides
    assert kept == ("views.steps=3", *others, "views.prior.type=auto", "views.prior.weights=asset://priors/toys")


def setting_of(overrides: tuple[str, ...]) -> Setting:
    return Setting("sv3d-masked-sds", overrides)


def test_an_object_that_fails_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """This prior wants the picture's view last, and SyncDreamer's views begin with it; the baselines need no prior."""
    words = ["objects", "--only", "red_ball", "--views-only", "--baselines", "repeated", "--results", "rows.jsonl"]
    code = single_image.main([*words, "--config", "syncdreamer-neus", *PRIOR])
    said = capsys.readouterr()
    assert code == cli.BAD_INPUT and "not measured: red_ball, views: " in said.err and "input repeated" in said.out
    assert [row["kind"] for row in runs.read_rows(Path("rows.jsonl"))] == ["repeated"]


def test_published_tables_are_whole() -> None:
    measures = set(single_image_tables.VIEWS | single_image_tables.SHAPE)
    for tables in published.TABLES.values():
        for table in tables:
            assert table.source and (table.rows or "not included" in table.source)
            assert all(len(figures) == len(table.columns) for figures in table.rows.values())
            assert {ours for ours, _ in table.columns.values()} <= measures
    harmony = published.TABLES["harmonyview"][1].rows
    assert harmony["SyncDreamer"] == (0.0261, 0.5421) and harmony["HarmonyView"] == (0.0187, 0.6401)


def test_cd_scores_are_ratios_of_means_over_objects() -> None:
    rows = [
        {
            "object": name,
            "method": "m",
            "kind": "views",
            "pixels": 256,
            "psnr": psnr,
            "cd_distance": d,
            "cd_variance": v,
        }
        for name, psnr, d, v in (("a", 20.0, 1.0, 1.0), ("b", 22.0, 2.0, 4.0))
    ]
    (table,) = single_image_tables.tables(rows, by_box=False)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["cd_score"] == ["1.000", "0.500", "0.600", "0.500", "1.000"]
    assert cells["psnr"] == ["20.00", "22.00", "21.00 ± 1.00", "20.00", "22.00"]
    console = Console(width=200, file=io.StringIO())
    for shown in single_image_tables.published_tables(rows, published.TABLES["harmonyview"], by_box=False):
        console.print(shown)
    lines = [[cell.strip() for cell in line.split("|")] for line in console.file.getvalue().splitlines()]
    assert ["", "HarmonyView (published)", "", "20.69", "0.825", "0.133", "1.945", "0.792", ""] in lines
    assert ["", "**m**", "2", "21.00 ± 1.00", "", "", "", "0.600", ""] in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: nowhere: no such folder"),
        ([str(assets.ROOT / "configs")], "neither it nor a sub-folder has a transforms.json"),
        (["objects", "--only", "cube"], "error: --only cube: no such capture in objects"),
        (["objects", "--config", "none"], "none.yaml"),
        (["objects", "--config", "reconstruct-views"], "image=none' has no effect"),
        (["objects", "--config", "mvdream"], "mvdream"),
        (["objects", "--estimate-elevation"], "--estimate-elevation: sv3d-masked-sds estimates no elevation"),
        (["objects", "--view", "9.png", "--views-only"], "no view 9.png; there are 000.png"),
        (["objects", "views.prior.weights=none.safetensors"], "none.safetensors"),
        (
            ["objects/red_ball", "--baselines", "mean", "--views-only"],
            "has no other capture with a mesh",
        ),
        (["objects", "--views-only", "test.clip_weights=none"], "error: none: no such folder"),
        (["objects", "test.raft_weights=none"], "error: RAFT: wanted images whose sides are multiples of 8, at least"),
        (["objects", "views.distance=3"], "'views.distance=3': the benchmark sets this option itself; leave it out"),
        (["objects", "export.formats=[obj]"], "'export.formats=[obj]': the benchmark sets this option itself"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert single_image.main(words) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not Path("runs").exists()


def test_a_camera_that_lies_on_its_side_is_refused() -> None:
    data = json.loads(Path("objects/red_ball/transforms.json").read_text())
    roll = np.array([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    data["frames"][0]["transform_matrix"] = (np.array(data["frames"][0]["transform_matrix"]) @ roll).tolist()
    Path("objects/red_ball/transforms.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="wanted an upright camera"):
        captures.read_subject(Path("objects/red_ball"))
    assert captures.read_subject(Path("objects/red_ball"), "001.png").views.prompt == 1


def key_of(capture: str, *overrides: str, config: str = "sv3d-masked-sds", kind: str = "views") -> dict:
    """What the rows of a task are found by, after a round trip through their file."""
    return json.loads(json.dumps(Task(kind, Setting(config, overrides), Path(capture)).key(captures.digest_of)))


@pytest.mark.parametrize("kind", ["views", "inflate"])
def test_another_capture_of_the_same_name_has_other_rows(kind: str) -> None:
    """Another folder with a `red_ball`; the same elsewhere is the same; other pictures, another pose, another mesh."""
    plain = key_of("objects/red_ball", kind=kind)
    capture = write_capture(Path("others/red_ball"), mesh=True)
    assert key_of("others/red_ball", kind=kind) == plain and plain["object"] == "red_ball"
    picture = capture / "images" / "003.png"
    as_it_was = picture.read_bytes()
    picture.write_bytes((capture / "images" / "002.png").read_bytes())
    assert key_of("others/red_ball", kind=kind) != plain
    picture.write_bytes(as_it_was)
    trimesh.creation.icosphere(3, 0.4).export(capture / "mesh.ply")
    assert key_of("others/red_ball", kind=kind) != plain
    (capture / "mesh.ply").write_bytes(Path("objects/red_ball/mesh.ply").read_bytes())
    assert key_of("others/red_ball", kind=kind) == plain
    table = capture / "transforms.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), "source_rotation_deg": 90.0}))
    assert key_of("others/red_ball", kind=kind) != plain
    mean = Task("mean", Setting(), Path("objects/red_ball"), (Path("objects/blue_ball1"),))
    other_mean = Task("mean", Setting(), Path("objects/red_ball"), (capture,))
    assert mean.key(captures.digest_of)["digest"] != other_mean.key(captures.digest_of)["digest"]


def test_an_edited_config_has_other_rows() -> None:
    """Baselines know nothing of a config but what they are measured by."""
    text = (assets.ROOT / "configs" / "sv3d-masked-sds.yaml").read_text()
    kinds = ("views", "mesh", "inflate")

    def keys(*overrides: str) -> list[dict]:
        return [key_of("objects/red_ball", *overrides, config="own.yaml", kind=kind) for kind in kinds]

    Path("own.yaml").write_text(text)
    plain = keys()
    Path("own.yaml").write_text(text + "# a remark\n")
    assert keys() == plain
    assert [key == old for key, old in zip(keys("test.lpips_network=vgg16"), plain, strict=True)] == [False] * 3
    assert "frames: 21" in text
    Path("own.yaml").write_text(text.replace("frames: 21", "frames: 15"))
    assert [key == old for key, old in zip(keys(), plain, strict=True)] == [False, False, True]


def test_what_the_benchmark_sets_stays_whatever_is_given_around_it() -> None:
    subject = captures.read_subject(Path("objects/red_ball"))
    config = Setting(overrides=("export={formats: [obj], shaded: false, texture_size: 128}",)).of(
        subject, Path("picture.png"), "export.formats=[glb]", "export.shaded=true"
    )
    assert config.export.formats == ["glb"] and config.export.shaded and config.export.texture_size == 128


def test_a_mean_of_captures_without_a_mesh_is_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(Path("bare/one"), mesh=True)
    write_capture(Path("bare/two"), mesh=False)
    assert single_image.main(["bare", "--only", "one", "--views-only", "--baselines", "mean"]) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert said.err == "error: --baselines mean: bare has no other capture with a mesh\n" and said.out == ""
    assert not Path("runs").exists()


def test_captures_are_called_as_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to folders of one name are two captures."""
    for name in ("a", "b"):
        write_capture(Path("stored") / name / "data", mesh=False)
        Path("linked").mkdir(exist_ok=True)
        Path("linked", name).symlink_to(Path("stored", name, "data").resolve())
    found = captures.find_captures(Path("linked"), None)
    assert [captures.name_of(capture) for capture in found] == ["a", "b"]
    assert captures.read_subject(found[1]).name == "b"
    monkeypatch.chdir("objects/red_ball/images")
    (only,) = captures.find_captures(Path(".."), ["red_ball"])
    assert captures.name_of(only) == "red_ball"


def test_a_kill_between_two_tasks_leaves_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("kept/rows.jsonl")
    runs.append_rows(path, [{"object": "a"}])

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        runs.append_rows(path, [{"object": "b", "pixels": 64}, {"object": "b", "pixels": 256}])
    assert runs.read_rows(path) == [{"object": "a"}]
    path.write_text('{"object": "a"}')  # as editors leave a last line
    runs.append_rows(path, [{"object": "b"}])
    assert runs.read_rows(path) == [{"object": "a"}, {"object": "b"}]
    path.write_text('{"object": "a"}\n{"obj')
    with pytest.raises(InputError, match=r"rows.jsonl: the file is not in JSON Lines format"):
        runs.read_rows(path)


def test_configs_and_weights_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each setting, not of each task; and of each task the config for its picture."""
    calls: dict[str, list] = {"weights_key": [], "load_run_config": [], "load_judges": []}
    for name, made in calls.items():
        plain = getattr(single_image_tasks, name)

        def counted(*arguments: Any, plain: Callable[..., Any] = plain, made: list = made) -> Any:
            made.append(arguments)
            return plain(*arguments)

        monkeypatch.setattr(single_image_tasks, name, counted)
    measure("--views-only", "--baselines", "repeated", *PRIOR)
    assert {name: len(made) for name, made in calls.items()} == {
        "weights_key": 1,
        "load_run_config": 3,  # without a picture, and with each of the two
        "load_judges": 1,
    }


def test_a_run_gets_a_setting_that_can_go_to_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a config may be of modules that a new process has not loaded yet."""
    task = Task("mesh", setting_of(PRIOR), Path("objects/red_ball"))
    task.key(captures.digest_of)
    given: list[tuple] = []
    monkeypatch.setattr(single_image_tasks, "in_own_process", lambda *arguments: given.append(arguments))
    task.measure(Judges(), Path("work"), Path("strips"))
    ((_, sent, *_),) = given
    assert sent == task and set(vars(sent.setting)) == {field.name for field in fields(Setting)}


def test_sampling_shows_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, float]] = []
    monkeypatch.setattr(WorkProgress, "__call__", lambda self, step, fraction: shown.append((step, fraction)))
    measure("--only", "red_ball", "--views-only", *PRIOR)
    assert [text for text, _ in shown] == ["6 by tiny ball, 3 steps"] * 4
    assert [share for _, share in shown] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_views_that_do_not_vary_have_no_cd_score() -> None:
    plain = {"method": "m", "kind": "views", "pixels": 256, "psnr": 20.0}
    terms = [(1.0, 1e-12), (2.0, 4.0)]
    rows = [{**plain, "object": f"{d}", "cd_distance": d, "cd_variance": v} for d, v in terms]
    (table,) = single_image_tables.tables(rows, by_box=False)
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert cells["cd_score"] == ["", "0.500", "0.750", "0.500", "0.500"]  # a ratio of means over all of them
    (table,) = single_image_tables.tables(rows[:1], by_box=False)
    assert "cd_score" not in [column.header for column in table.columns]
    assert table.title == "Novel views"  # no row has contextual distances


def test_a_paper_without_figures_shows_ours() -> None:
    row = {"object": "a", "method": "m", "kind": "mesh", "pixels": 256, "psnr": 20.0, "clip_to_picture": 0.8}
    for rows, line in (([row], ["**m**", "1", "0.800", "", "20.00", ""]), ([], ["nothing measured", *[""] * 5])):
        (table,) = single_image_tables.published_tables(rows, published.TABLES["hifi123"], by_box=False)
        assert [next(iter(column.cells)) for column in table.columns] == line
        assert "own figures are not included" in str(table.title)
