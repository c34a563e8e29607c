"""Captures as single-image objects, their ground truth, and baselines."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from ball_captures import MARIO, PRIOR, chosen, setting_of, write_capture
from helpers.tiny_prior import ball

from bench import baselines, captures, single_image_tables
from bench.single_image_tasks import Task
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.images import load_image, save_image
from liftstudio.data.mesh import Mesh
from liftstudio.metrics.novel_views import Judges, around, closeness, compare_views, novel_views, silhouette_iou
from liftstudio.ops.rasterization import rasterize
from liftstudio.run.config import TruthConfig
from liftstudio.run.truth import compare_mesh, load_truth, moved_mesh, turn_about_z


def test_an_inflated_disc_is_nearly_a_ball() -> None:
    camera = far_camera()
    mesh = baselines.inflate(ball(camera, 0.6)[1][0], camera)
    radius = mesh.vertices.norm(dim=1)
    assert radius.min() > 0.57 and radius.max() < 0.63
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.05)


def far_camera() -> Cameras:
    """Return a camera so far away that a ball's outline is a disc; 2.1 wide at the origin."""
    return orbit_cameras(torch.zeros(1), torch.tensor([20.0]), 40.0, 3.0, 256, 256)


@pytest.mark.parametrize("sides", [(slice(100, 256), slice(100, 200)), (slice(0, 256), slice(0, 256))])
def test_a_cropped_silhouette_is_inflated_to_a_closed_body(sides: tuple[slice, slice]) -> None:
    mask = torch.zeros(256, 256, 1)
    mask[sides] = 1
    mesh = baselines.inflate(mask, far_camera())
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight and solid.volume > 0.5


def test_an_inflated_body_projects_onto_its_silhouette() -> None:
    subject = captures.read_subject(MARIO)
    _, (images, masks) = baselines.inflated(subject)
    prompt = [subject.views.input_view]
    assert silhouette_iou(masks[prompt], subject.views.masks[prompt]) > 0.92
    picture = subject.views.over(1.0)[prompt]
    assert (images[prompt] - picture).abs().mean() < 0.03


def test_a_silhouette_too_thin_to_inflate_has_a_row() -> None:
    """One of 256 pixels across: nothing is left at the resolution of inflation."""
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


def test_the_protocols_world_is_kept_to_the_bit() -> None:
    """Google Scanned Objects as in SyncDreamer: cameras 1.5 from an object 1 long, here 1.8."""
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
    assert scaled["chamfer"] == pytest.approx(0.1 * 0.5 / 0.9, abs=0.02)  # about its centre: the offset remains


@pytest.mark.parametrize(("view", "azimuth_deg"), [("", 0.0), ("000.png", 35.0), ("images/003.png", 0.0)])
def test_cameras_mesh_and_pictures_agree(view: str, azimuth_deg: float) -> None:
    subject = captures.read_subject(MARIO, view, azimuth_deg)
    truth, views = subject.truth, subject.views
    assert truth.mesh is not None and views.input_view == (3 if "003" in view else 0)
    turn = float(views.cameras.azimuth_deg[views.input_view]) - azimuth_deg
    assert abs((turn + 180) % 360 - 180) < 1e-3
    mesh = moved_mesh(truth.mesh, torch.linalg.inv(truth.unit_from_world))
    clip = views.cameras.clip(mesh.vertices)
    seen = (rasterize(clip, mesh.faces, 256, 256) >= 0).float()[..., None]
    assert silhouette_iou(seen, views.masks).min() > 0.99
    order = around(views).tolist()
    assert order[0] == views.input_view and sorted(order) == list(range(16))
    assert order[1] == (views.input_view + 1) % 16 and len(novel_views(views)) == 15


def test_scale_and_middle_of_any_world() -> None:
    """A ball three times as large, elsewhere, without its mesh: placed by its silhouettes."""
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
    )  # the hull of six views is larger than the ball
    torch.testing.assert_close(moved.views.cameras.centers[0, 2:], torch.tensor([moved.camera.distance / 2]))


def test_a_rotated_object_is_measured_along_its_own_axes() -> None:
    """The longest side of a rotated box is measured along its own axes."""
    box = trimesh.creation.box((1.0, 0.4, 0.4))
    box.apply_transform(turn_about_z(-45.0).numpy())
    box.export("box.ply")
    capture = write_capture(Path("box"), mesh=False, changes={"source_rotation_deg": 45.0})
    found = load_truth(TruthConfig(views=str(capture), mesh="box.ply"))
    assert found.views is not None and float(found.views.cameras.distance[0]) == pytest.approx(2.7, abs=1e-3)
    (capture / "transforms.json").write_text(
        (capture / "transforms.json").read_text().replace('"source_rotation_deg": 45.0', '"source_rotation_deg": "far"')
    )
    with pytest.raises(InputError, match="source_rotation_deg: expected a finite number"):
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


def test_metrics_of_the_truth_are_perfect() -> None:
    views = captures.read_subject(Path("objects/red_ball")).views
    row = compare_views(views.over(1.0), views.masks, views, Judges())
    assert row["psnr"] == 100 and row["ssim"] == pytest.approx(1) and row["silhouette_iou"] == 1
    assert row["contextual_to_view"] < 1e-6 < row["contextual_to_picture"]
    assert "lpips" not in row and "clip_to_view" not in row and "e_flow" not in row
    worse = views.over(1.0).clone()
    worse[0] = 0  # the input view, which is excluded
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


def test_a_camera_that_lies_on_its_side_is_refused() -> None:
    data = json.loads(Path("objects/red_ball/transforms.json").read_text())
    roll = np.array([[0.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    data["frames"][0]["transform_matrix"] = (np.array(data["frames"][0]["transform_matrix"]) @ roll).tolist()
    Path("objects/red_ball/transforms.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="expected an upright camera"):
        captures.read_subject(Path("objects/red_ball"))
    assert captures.read_subject(Path("objects/red_ball"), "001.png").views.input_view == 1


def test_captures_are_named_by_the_given_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links to folders of the same name are different captures."""
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
