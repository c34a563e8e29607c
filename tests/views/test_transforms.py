import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captures import Shots, load, shoot, source
from PIL import Image

from liftstudio.core.errors import InputError

Change = Callable[[dict[str, Any]], Any]


def test_nerfstudio_with_intrinsics_per_frame(shots: Shots, tmp_path: Path) -> None:
    views = load(shots.save(tmp_path))
    shots.check(views)
    assert views.names == tuple(shots.names()) and not views.held_out.any()
    shots.check(load(tmp_path / "transforms.json"))


def test_shared_intrinsics_yield_to_those_of_a_frame(shots: Shots, tmp_path: Path) -> None:
    def share(data: dict[str, Any]) -> None:
        for key in ("fl_x", "fl_y", "cx", "cy"):
            data[key] = data["frames"][0][key]
            for frame in data["frames"][:3]:
                del frame[key]

    cameras = load(shots.save(tmp_path, share)).cameras
    torch.testing.assert_close(cameras.fx[:3], shots.cameras.fx[:1].expand(3))
    torch.testing.assert_close(cameras.fx[3:], shots.cameras.fx[3:])


def test_nerf_synthetic_splits(tmp_path: Path) -> None:
    """File names without suffix, one angle for the intrinsics, held-out test frames."""
    shots = shoot(6, 20, 20)
    angle = 2 * math.atan(10 / 41.0)
    for split, chosen in (("train", range(3)), ("val", range(3, 4)), ("test", range(4, 6))):
        frames = []
        for i in chosen:
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(shots.rgba[i]).save(tmp_path / split / f"r_{i}.png")
            matrix = shots.cameras.c2w[i].tolist()
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.1, "transform_matrix": matrix})
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    views = load(tmp_path)
    assert views.names == tuple(
        f"./{s}/r_{i}" for s, i in (("train", 0), ("train", 1), ("train", 2), ("test", 4), ("test", 5))
    )
    assert views.held_out.tolist() == [False, False, False, True, True]
    torch.testing.assert_close(views.cameras.c2w, shots.cameras.c2w[[0, 1, 2, 4, 5]])
    torch.testing.assert_close(views.cameras.fx, torch.full((5,), 41.0))
    torch.testing.assert_close(views.cameras.fy, torch.full((5,), 41.0))
    torch.testing.assert_close(views.cameras.cx, torch.full((5,), 10.0))
    (tmp_path / "transforms_test.json").unlink()
    assert load(tmp_path).held_out.tolist() == [False, False, False, True]
    assert len(load(tmp_path / "transforms_val.json")) == 1
    (tmp_path / "transforms_val.json").unlink()
    assert len(load(tmp_path)) == 3


def test_named_splits_of_nerfstudio(shots: Shots, tmp_path: Path) -> None:
    def split(data: dict[str, Any]) -> None:
        data["train_filenames"], data["test_filenames"] = shots.names()[1:], shots.names()[:1]

    assert load(shots.save(tmp_path, split), held_out=[2]).held_out.tolist() == [True, False, True, False, False]


def test_intrinsics_follow_the_size_of_the_images(shots: Shots, tmp_path: Path) -> None:
    """Cameras of the full-size photographs with reduced images."""

    def enlarge(data: dict[str, Any]) -> None:
        data["w"], data["h"] = 64, 48
        for frame in data["frames"]:
            frame.update({key: 2 * frame[key] for key in ("fl_x", "fl_y", "cx", "cy")})

    shots.check(load(shots.save(tmp_path, enlarge)))


def test_paths_may_lead_upwards_and_use_backslashes(shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    data = shots.transforms()
    for frame in data["frames"]:
        frame["file_path"] = "..\\" + frame["file_path"].replace("/", "\\")
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "transforms.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())
    shots.check(load(tmp_path / "poses"))


def test_truth_mesh(shots: Shots, tmp_path: Path) -> None:
    (tmp_path / "truth.obj").write_text("v 0 0 0")
    assert source(shots.save(tmp_path)).truth_mesh() is None
    shots.save(tmp_path, lambda data: data.update(mesh="truth.obj"))
    assert source(tmp_path).truth_mesh() == tmp_path / "truth.obj"
    (tmp_path / "other.obj").write_text("v 0 0 0")
    assert source(tmp_path, mesh=str(tmp_path / "other.obj")).truth_mesh() == tmp_path / "other.obj"
    with pytest.raises(InputError, match=r"views\.mesh.*nothing\.obj"):
        load(tmp_path, mesh="nothing.obj")


def frame_change(index: int, **values: Any) -> Change:
    return lambda data: data["frames"][index].update(values)


def drop(index: int, key: str) -> Change:
    return lambda data: data["frames"][index].pop(key)


def matrix_change(row: int, column: int, value: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        data["frames"][2]["transform_matrix"][row][column] = value

    return change


def mirror(data: dict[str, Any]) -> None:
    for row in data["frames"][1]["transform_matrix"]:
        row[0] = -row[0]


FAULTS: dict[str, tuple[Change, str]] = {
    "no frames": (lambda d: d.pop("frames"), "frames"),
    "empty frames": (lambda d: d.update(frames=[]), "frames"),
    "frames of text": (lambda d: d.update(frames="a"), "frames"),
    "a frame of text": (lambda d: d["frames"].append("a"), r"frames\[5\]"),
    "no file_path": (drop(1, "file_path"), r"frames\[1\].*file_path.*missing"),
    "file_path of a number": (frame_change(1, file_path=3), "file_path"),
    "empty file_path": (frame_change(1, file_path=""), "file_path"),
    "missing image": (frame_change(1, file_path="images/other.png"), "other.png"),
    "a folder as image": (frame_change(1, file_path="images"), "images"),
    "a dot as image": (frame_change(1, file_path="."), "no such image"),
    "no pose": (drop(2, "transform_matrix"), r"frames\[2\].*transform_matrix"),
    "pose of 3 rows": (lambda d: d["frames"][2]["transform_matrix"].pop(), "4 rows"),
    "pose with text": (matrix_change(0, 0, "x"), "finite numbers"),
    "pose with null": (matrix_change(0, 0, None), "finite numbers"),
    "infinite pose": (matrix_change(0, 0, 10**400), "finite numbers"),
    "sheared pose": (matrix_change(0, 0, 0.9), r"frames\[2\].*not orthonormal"),
    "scaled pose": (
        lambda d: d["frames"][2].update(transform_matrix=torch.diag(torch.tensor([2.0, 2, 2, 1])).tolist()),
        "orthonormal",
    ),
    "mirrored pose": (mirror, r"frames\[1\].*mirrors"),
    "last row": (matrix_change(3, 0, 1.0), "last row"),
    "no intrinsics": (drop(0, "fl_x"), "fl_x"),
    "negative focal length": (frame_change(0, fl_x=-40.0), "focal"),
    "zero focal length": (frame_change(0, fl_y=0), "focal"),
    "focal length of text": (frame_change(0, fl_y="long"), "fl_y"),
    "true as focal length": (frame_change(0, fl_y=True), "fl_y"),
    "principal point outside": (frame_change(0, cx=99.0), "principal point"),
    "width 0": (lambda d: d.update(w=0), "size"),
    "another aspect": (lambda d: d.update(w=24, h=24), "32x24.*24x24"),
    "distortion": (frame_change(3, k1=0.02), r"frames\[3\].*k1 = 0.02"),
    "tangential distortion": (lambda d: d.update(p2=-0.01), "p2"),
    "fisheye": (lambda d: d.update(camera_model="OPENCV_FISHEYE"), "camera_model"),
    "fisheye of instant-ngp": (lambda d: d.update(is_fisheye=True), "is_fisheye"),
    "angle of 4": (lambda d: (drop(0, "fl_x")(d), d.update(camera_angle_x=4.0)), "camera_angle_x"),
    "missing mask": (frame_change(1, mask_path="masks/1.png"), "mask_path"),
    "missing depth": (frame_change(1, depth_file_path="depth/1.png"), "depth_file_path"),
    "missing mesh": (lambda d: d.update(mesh="mesh.obj"), "mesh"),
    "names of splits": (lambda d: d.update(test_filenames=3), "test_filenames"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str, shots: Shots, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(InputError, match=message) as caught:
        load(shots.save(tmp_path, change))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{\n "frames": [,]\n}', "line 2, column"),
        (b"", "found an empty file"),
        (b"[1, 2]", "keys and values"),
        (b'{"fl_x": NaN, "frames": []}', "NaN"),
        (b'{"fl_x": -Infinity, "frames": []}', "-Infinity"),
        (b"\xff\xfe\x00", "not a readable JSON"),
        (b"[" * 100_000, "transforms.json"),
    ],
)
def test_faulty_json(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no transforms\.json"):
        load(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(InputError, match="expected a folder"):
        load(tmp_path / "photo.png")
