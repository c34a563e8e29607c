"""The benchmark of one picture of a real object: cameras, baselines, rows that are found again, papers' tables."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
import yaml
from rich.console import Console
from test_bench_image_to_mesh import QUICK
from tiny_prior import TinyBall, ball, write_weights

from bench import baselines, captures, published, runs, single_image, single_image_tables
from bench.single_image_tasks import Setting, Task, reconstruct
from liftstudio import assets, cli, registry
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.errors import InputError
from liftstudio.evaluation import TruthConfig
from liftstudio.images import load_image, save_image
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


def write_capture(folder: Path, *, mesh: bool, changes: dict | None = None) -> Path:
    """Six views of a ball of radius 0.5 from several heights, 60 degrees apart, and maybe its mesh."""
    (folder / "images").mkdir(parents=True)
    angles = 60.0 * torch.arange(6), torch.tensor([30.0, 0.0, 60.0, -20.0, 30.0, 0.0])
    cameras = orbit_cameras(*angles, 1.5, FOV_DEG, 64, 64)
    images, masks = ball(cameras, 0.5)
    frames = []
    for index, (image, mask, c2w) in enumerate(zip(images, masks, cameras.c2w, strict=True)):
        save_image(folder / "images" / f"{index:03d}.png", torch.cat([image, mask], dim=-1))
        frames.append({"file_path": f"images/{index:03d}.png", "transform_matrix": c2w.tolist()})
    data = {"fl_x": 70.0, "fl_y": 70.0, "cx": 32.0, "cy": 32.0, "w": 64, "h": 64, "frames": frames, **(changes or {})}
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


def test_an_inflated_disc_is_about_a_ball() -> None:
    lens = captures.Lens(20.0, 40.0, 3.0)  # from far away, so that a ball's outline is that of a disc
    mask = ball(lens.camera(256), 0.6)[1][0]
    mesh = baselines.inflate(mask, lens.camera(256))
    radius = mesh.vertices.norm(dim=1)
    assert radius.min() > 0.57 and radius.max() < 0.63
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


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
    assert subject.lens.distance == pytest.approx(2.7, abs=1e-4)
    assert subject.lens.fov_deg == pytest.approx(49.134, abs=1e-3)
    assert subject.lens.elevation_deg == pytest.approx(30, abs=1e-3)
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
    assert moved.lens.distance == pytest.approx(plain.lens.distance, rel=0.06)  # six hulls of a ball are wider than it
    torch.testing.assert_close(moved.views.cameras.centers[0, 2:], torch.tensor([moved.lens.distance / 2]))


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
    assert wide.lens == plain.lens


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
    assert bundled.weights() != setting.weights() and bundled.load("image=none").seed == 3
    words = ["objects", "--only", "red_ball", "--baselines", "toys"]
    tasks = single_image.plan(single_image._parse([*words, *PRIOR]))
    assert [(task.kind, task.setting) for task in tasks] == [
        (kind, each) for each in (setting_of(PRIOR), setting_of(PRIOR).bundled()) for kind in ("views", "mesh")
    ]
    alone = single_image.plan(single_image._parse([*words, "--views-only"]))
    assert [task.setting for task in alone] == [setting_of(())]  # it is the config's own


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
            assert table.source and (table.rows or "not at hand" in table.source)
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
        (["nowhere"], "error: nowhere: no captures"),
        (["objects", "--only", "cube"], "error: --only cube: no such capture in objects"),
        (["objects", "--config", "none"], "none.yaml"),
        (["objects", "--config", "reconstruct-views"], "image=none' has no effect"),
        (["objects", "--config", "mvdream"], "mvdream"),
        (["objects", "--estimate-elevation"], "--estimate-elevation: sv3d-masked-sds estimates no elevation"),
        (["objects", "--view", "9.png", "--views-only"], "no view 9.png; there are 000.png"),
        (["objects", "views.prior.weights=none.safetensors"], "none.safetensors"),
        (
            ["objects/red_ball", "--baselines", "mean", "--views-only"],
            "has no other capture",
        ),
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


def test_a_lens_is_the_camera_it_came_from() -> None:
    lens = captures.Lens(12.0, 3.0, 40.0)
    camera: Cameras = lens.camera(64)
    assert float(camera.elevation_deg) == pytest.approx(12, abs=1e-3) and float(camera.distance) == pytest.approx(3)
