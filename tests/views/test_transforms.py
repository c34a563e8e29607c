import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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


def without_focal(data: dict[str, Any]) -> None:
    for frame in data["frames"]:
        for key in ("fl_x", "fl_y"):
            del frame[key]


WIDE, HIGH = 2 * math.atan(16 / 41.0), 2 * math.atan(12 / 41.0)  # angles of 41 pixels, for 32 x 24 pixels


@pytest.mark.parametrize(
    "keys",
    [
        {"fl_x": 41.0},
        {"fl_y": 41.0},
        {"camera_angle_x": WIDE},
        {"camera_angle_y": HIGH},
        {"x_fov": math.degrees(WIDE)},
        {"y_fov": math.degrees(HIGH)},
        {"fl_x": None, "camera_angle_x": WIDE},
        {"fl_x": 41.0, "camera_angle_y": HIGH},
    ],
)
def test_a_focal_length_in_a_frame_replaces_every_shared_one(
    keys: dict[str, Any], shots: Shots, tmp_path: Path, warnings: list[str]
) -> None:
    """Whatever the keys are: those of another camera at the top level must not win, nor fill in for an axis."""
    stale = {"fl_x": 99.0, "fl_y": 98.0, "camera_angle_x": 0.3, "camera_angle_y": 0.3, "x_fov": 20.0, "y_fov": 20.0}

    def change(data: dict[str, Any]) -> None:
        without_focal(data)
        data.update(stale)
        for frame in data["frames"]:
            frame.update(keys)

    cameras = load(shots.save(tmp_path, change)).cameras
    torch.testing.assert_close(cameras.fx, torch.full((5,), 41.0))
    torch.testing.assert_close(cameras.fy, torch.full((5,), 41.0))
    assert not warnings


@pytest.mark.parametrize(
    "keys", [{"fl_y": 41.0}, {"camera_angle_y": HIGH}, {"y_fov": math.degrees(HIGH)}, {"x_fov": math.degrees(WIDE)}]
)
def test_one_axis_gives_both_focal_lengths(keys: dict[str, Any], shots: Shots, tmp_path: Path) -> None:
    cameras = load(shots.save(tmp_path, lambda data: (without_focal(data), data.update(keys)))).cameras
    torch.testing.assert_close(cameras.fx, torch.full((5,), 41.0))
    torch.testing.assert_close(cameras.fy, torch.full((5,), 41.0))


def test_focal_lengths_that_contradict_each_other_are_named(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    def stale(data: dict[str, Any]) -> None:
        for frame in data["frames"]:
            frame["camera_angle_x"] = 0.3

    shots.check(load(shots.save(tmp_path, stale)))
    assert len(warnings) == 1 and "5 of 5 frames: camera_angle_x contradicts fl_x" in warnings[0]


def test_a_principal_point_of_another_size_is_named(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    def enlarge(data: dict[str, Any]) -> None:
        data.update(cx=16.0, cy=12.0)
        frame = data["frames"][1]
        del frame["cx"]
        frame.update(w=64, h=48)

    load(shots.save(tmp_path, enlarge))
    assert len(warnings) == 1 and "1 of 5 frames: w and h differ" in warnings[0] and " cx are" in warnings[0]


def test_maps_of_a_frame_replace_the_shared_ones(shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    for name, level in (("near", 10), ("far", 200)):
        Image.fromarray(np.full((24, 32), level, np.uint8)).save(tmp_path / f"{name}.png")

    def point(data: dict[str, Any]) -> None:
        data["depth_file_path"] = "far.png"
        data["frames"][1]["depth_path"] = "near.png"

    depths = load(shots.save(tmp_path, point)).depths
    assert depths is not None and depths[1].max() < depths[0].min()


def test_null_is_as_good_as_missing(shots: Shots, tmp_path: Path) -> None:
    def unknown(data: dict[str, Any]) -> None:
        keys = (
            "k1",
            "camera_model",
            "w",
            "h",
            "train_filenames",
            "test_filenames",
            "mask_path",
            "mesh",
            "camera_angle_x",
        )
        data.update(dict.fromkeys(keys))
        for frame in data["frames"]:
            frame.update(dict.fromkeys(("k1", "p2", "mask_path", "depth_path", "distortion_params", "camera_angle_x")))
        data["mask_path"] = None

    shots.check(load(shots.save(tmp_path, unknown)))
    centred = load(shots.save(tmp_path, lambda data: data["frames"][0].update(cx=None, cy=None))).cameras
    assert (centred.cx[0], centred.cy[0]) == (16, 12)


def test_poses_of_three_rows(shots: Shots, tmp_path: Path) -> None:
    def shorten(data: dict[str, Any]) -> None:
        for frame in data["frames"][:4]:
            frame["transform_matrix"].pop()

    shots.check(load(shots.save(tmp_path, shorten)))


@pytest.mark.parametrize("factor", [0.25, 1.0008, 3.0])
def test_scaled_axes_are_normalised(factor: float, shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    def scale(data: dict[str, Any]) -> None:
        for frame in data["frames"][1:]:
            frame["transform_matrix"] = [
                [*(factor * value for value in row[:3]), row[3]] for row in frame["transform_matrix"][:3]
            ]

    shots.check(load(shots.save(tmp_path, scale)))
    assert len(warnings) == 1 and "4 of 5 frames" in warnings[0] and "normalised" in warnings[0]


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


@pytest.mark.parametrize(
    "name", ["./images/003.png", "images//003.png", "images\\003.png", "images/../images/003.png", "images/003", "{}"]
)
def test_names_of_splits_are_paths(name: str, shots: Shots, tmp_path: Path) -> None:
    name = name.format(tmp_path / "images" / "003.png")
    views = load(shots.save(tmp_path, lambda data: data.update(test_filenames=[name])))
    assert views.held_out.tolist() == [False, False, False, True, False]


def test_frames_outside_the_train_list_are_left_out(shots: Shots, tmp_path: Path) -> None:
    names = shots.names()
    views = load(shots.save(tmp_path, lambda data: data.update(train_filenames=names[1:3])))
    assert views.names == tuple(names[1:3]) and not views.held_out.any()
    lists = {"train_filenames": [f"./{name}" for name in names[1:4]], "test_filenames": names[3:4], "val_filenames": []}
    views = load(shots.save(tmp_path, lambda data: data.update(lists)))
    assert views.names == tuple(names[1:4]) and views.held_out.tolist() == [False, False, True]
    assert len(load(shots.save(tmp_path, lambda data: data.update(train_filenames=[])))) == 5


def test_an_unknown_list_is_named(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    load(shots.save(tmp_path, lambda data: data.update(eval_filenames=shots.names()[:1])))
    assert len(warnings) == 1 and "eval_filenames" in warnings[0]


def test_pictures_of_both_splits_are_held_out(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    shots.save_images(tmp_path)
    data = shots.transforms()
    for split, frames in (("train", data["frames"]), ("test", data["frames"][3:])):
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({**data, "frames": frames}))
    views = load(tmp_path)
    assert views.names == tuple(shots.names()) and views.held_out.tolist() == [False, False, False, True, True]
    assert not warnings
    (tmp_path / "transforms_test.json").write_text(json.dumps(data))
    assert load(tmp_path).held_out.tolist() == [False] * 5
    assert "no view is held out" in warnings[0]


HARMLESS = {
    "distortion_params": [0.0, 0, 0, 0, 0, 0],
    "distortion": {"k1": 0.0, "model": "radtan"},
    "is_fisheye": False,
    "ftheta_p1": 0.0,
    "k7": 1e-6,
    "k2": "0.00",
    "kc": [0.0, 0],
    "K": [[40.0, 0, 16], [0, 40.0, 12], [0, 0, 1]],
    "dist": 2.0,
    "lens": "50 mm",
    "distortion_model": "none",
    "undistorted": True,
    "camera_model": "pinhole",
    "theta": 30.0,
    "distorted_image_path": "raw/000.png",
    "sharpness": 812.0,
    "projection_matrix": [[1.0, 2.0], [3.0, 4.0]],
    "aabb_scale": 16,
}


def test_keys_of_lenses_without_distortion(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    shots.check(load(shots.save(tmp_path, lambda data: data.update(HARMLESS))))
    assert not warnings


@pytest.mark.parametrize("key", ["lens_blob", "rolling_shutter", "shift_x"])
def test_unknown_keys_that_look_like_a_lens_are_named(
    key: str, shots: Shots, tmp_path: Path, warnings: list[str]
) -> None:
    shots.check(load(shots.save(tmp_path, lambda data: data.update({key: [0.0, 0.3, 0.2]}))))
    assert len(warnings) == 1 and f"unknown key {key} " in warnings[0]


def test_images_that_are_said_to_be_distorted_are_warned_of(shots: Shots, tmp_path: Path, warnings: list[str]) -> None:
    shots.check(load(shots.save(tmp_path, lambda data: data.update(is_undistorted=False))))
    assert len(warnings) == 1 and "is_undistorted" in warnings[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("distortion_params", [0.2, 0.05, 0, 0, 0, 0]),
        ("distortion_params", ["0.2"]),
        ("ftheta_p1", 5e-5),
        ("k9", 0.02),
        ("k1", "0.02"),
        ("s1", 0.01),
        ("sx1", -0.01),
        ("p_1", 0.01),
        ("tau_x", 0.1),
        ("distortion", {"radial": [0.0, 0.1]}),
        ("dist_coeffs", [[0, 0, 0.1]]),
        ("dist", [0.1, 0, 0, 0]),
        ("kc", [0.1, 0, 0, 0]),
        ("D", [0.1, 0, 0, 0]),
        ("k", [0.1]),
        ("kappa_1", 0.1),
        ("distCoeffs", [0.1]),
        ("lens_params", [0.1]),
        ("camera", {"name": "left", "k1": 0.1}),
        ("lens", {"distortion": [0.1]}),
        ("fisheye", True),
        ("latlong", True),
        ("equirectangular", True),
        ("orthographic", True),
        ("lens_type", "FISHEYE"),
        ("camera_type", "equirectangular"),
        ("distortion_model", "kannala_brandt_fisheye"),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_lenses_under_any_name_are_refused(key: str, value: Any, shared: bool, shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, lambda data: (data if shared else data["frames"][3]).update({key: value}))
    with pytest.raises(InputError, match=rf"frames\[{0 if shared else 3}\].*lens distortion \({key}.*undistort"):
        load(tmp_path)


def test_intrinsics_follow_the_size_of_the_images(shots: Shots, tmp_path: Path) -> None:
    """Cameras of the full-size photographs with reduced images."""

    def enlarge(data: dict[str, Any]) -> None:
        data["w"], data["h"] = 64, 48
        for frame in data["frames"]:
            frame.update({key: 2 * frame[key] for key in ("fl_x", "fl_y", "cx", "cy")})

    shots.check(load(shots.save(tmp_path, enlarge)))


def test_a_shared_focal_length_needs_one_size(shots: Shots, tmp_path: Path) -> None:
    """In pictures of two sizes it is unknown which one it belongs to, unless the sizes are stated."""
    (own,) = shots.transforms()["frames"][1:2]

    def share(data: dict[str, Any]) -> None:
        data["fl_x"] = 40.0
        del data["w"], data["h"]
        for frame in data["frames"]:
            for key in ("fl_x", "fl_y", "cx", "cy"):
                del frame[key]

    shots.save(tmp_path, share)
    assert load(tmp_path).windows is None
    Image.fromarray(shots.rgba[1, :-2]).save(tmp_path / own["file_path"])
    with pytest.raises(InputError, match=r"001\.png: 32x22 pixels, but .*000\.png has 32x24; state `w` and `h`"):
        load(tmp_path)
    data = json.loads((tmp_path / "transforms.json").read_text())
    for size in ({"w": 32, "h": 22}, {"fl_x": 40.0}):
        changed = [frame | size if index == 1 else frame for index, frame in enumerate(data["frames"])]
        (tmp_path / "transforms.json").write_text(json.dumps({**data, "frames": changed}))
        torch.testing.assert_close(load(tmp_path).cameras.cy, torch.full((5,), 12.0))


def test_paths_may_lead_upwards_and_use_backslashes(shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    data = shots.transforms()
    for frame in data["frames"]:
        frame["file_path"] = "..\\" + frame["file_path"].replace("/", "\\")
    (tmp_path / "poses").mkdir()
    (tmp_path / "poses" / "transforms.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())
    shots.check(load(tmp_path / "poses"))


@pytest.mark.parametrize(
    ("said", "on_disk"),
    [
        ("images/{}", "images/{}.PNG"),
        ("images/{}", "images/{}.webp"),
        ("images/{}.jpg", "images/{}.png"),
        ("images/{}.jpg", "images/{}.jpg.png"),
        ("images/{}.png", "images/{}.PNG"),
        ("images/{}.PNG", "images/{}.png"),
        ("images\\{}.JPG", "images/{}.webp"),
        ("Images/{}.png", "images/{}.png"),
        ("./images/A{}.png", "images/a{}.png"),
        ("images/frame.{}", "images/frame.{}.tif"),
        ("images/\u00e4{}.png", "images/a\u0308{}.png"),  # as macOS writes it
    ],
)
def test_pictures_are_found_by_their_stem(said: str, on_disk: str, shots: Shots, tmp_path: Path) -> None:
    """The same holds for masks and maps."""
    data = shots.transforms()
    for i, (frame, rgba) in enumerate(zip(data["frames"], shots.rgba, strict=True)):
        name = f"{i:03d}"
        frame["file_path"] = said.format(name)
        frame["mask_path"] = said.format(name).replace("images", "silhouettes").replace("Images", "Silhouettes")
        frame["depth_path"] = said.format(name).replace("images", "depths").replace("Images", "Depths")
        for folder, pixels in (("images", rgba), ("silhouettes", rgba[..., 3]), ("depths", rgba[..., 0])):
            path = tmp_path / on_disk.format(name).replace("images", folder)
            path.parent.mkdir(exist_ok=True)
            options = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
            Image.fromarray(pixels.copy()).save(path, **options)
    (tmp_path / "transforms.json").write_text(json.dumps(data))
    views = load(tmp_path)
    shots.check(views)
    assert views.depths is not None
    torch.testing.assert_close(views.depths[..., 0], torch.from_numpy(shots.rgba[..., 0]).float())


def test_masks_of_other_suffixes(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path)
    (tmp_path / "Masks").mkdir()
    names = ["000.PNG", "001.tif", "002.png.PNG", "003.png", "004.bmp"]
    for name, rgba in zip(names, shots.rgba, strict=True):
        Image.fromarray(rgba[..., 3]).save(tmp_path / "Masks" / name)
        Image.fromarray(rgba[..., :3].copy()).save(tmp_path / "images" / f"{name[:3]}.png")
    shots.check(load(tmp_path))


def test_several_pictures_of_one_stem(shots: Shots, tmp_path: Path) -> None:
    shots.save(tmp_path, frame_change(1, file_path="images/001.jpg"))
    for neighbour in ("001.txt", "001_depth.png", ".001.webp"):
        (tmp_path / "images" / neighbour).write_bytes(b"")
    shots.check(load(tmp_path))
    Image.fromarray(shots.rgba[1]).save(tmp_path / "images" / "001.webp")
    with pytest.raises(InputError, match=r"001\.jpg.*001\.png, 001\.webp"):
        load(tmp_path)
    Image.fromarray(shots.rgba[1]).save(tmp_path / "images" / "001.jpg", "png")
    shots.check(load(tmp_path))


def test_a_number_is_no_suffix(shots: Shots, tmp_path: Path) -> None:
    """`shot.1` does not mean `shot.png`."""
    shots.save(tmp_path, frame_change(1, file_path="images/shot.1"))
    Image.fromarray(shots.rgba[1]).save(tmp_path / "images" / "shot.png")
    with pytest.raises(InputError, match=r"no such image.*shot\.1"):
        load(tmp_path)


def test_truth_mesh(shots: Shots, tmp_path: Path) -> None:
    (tmp_path / "truth.obj").write_text("v 0 0 0")
    assert source(shots.save(tmp_path)).truth_mesh() is None
    for name in ("truth.obj", "Truth.OBJ"):
        shots.save(tmp_path, lambda data, name=name: data.update(mesh=name))  # type: ignore[misc]
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
    "pose of 2 rows": (lambda d: d["frames"][2].update(transform_matrix=[[1, 0, 0, 0]] * 2), "3 or 4 rows"),
    "pose with text": (matrix_change(0, 0, "x"), "finite numbers"),
    "pose with null": (matrix_change(0, 0, None), "finite numbers"),
    "infinite pose": (matrix_change(0, 0, 10**400), "finite numbers"),
    "sheared pose": (matrix_change(0, 0, 0.9), r"frames\[2\].*not orthonormal"),
    "unevenly scaled pose": (
        lambda d: d["frames"][2].update(transform_matrix=torch.diag(torch.tensor([2.0, 2, 3, 1])).tolist()),
        "orthonormal",
    ),
    "pose of zeros": (lambda d: d["frames"][2].update(transform_matrix=[[0, 0, 0, 1]] * 3), "orthonormal"),
    "mirrored pose": (mirror, r"frames\[1\].*mirrors"),
    "last row": (matrix_change(3, 0, 1.0), "last row"),
    "no intrinsics": (without_focal, "fl_x"),
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
    "angle of 4": (lambda d: (without_focal(d), d.update(camera_angle_x=4.0)), "camera_angle_x"),
    "angle of 200 degrees": (frame_change(0, y_fov=200.0), "y_fov"),
    "missing mask": (frame_change(1, mask_path="masks/1.png"), "mask_path"),
    "missing depth": (frame_change(1, depth_file_path="depth/1.png"), "depth_file_path"),
    "missing mesh": (lambda d: d.update(mesh="mesh.obj"), "mesh"),
    "names of splits": (lambda d: d.update(test_filenames=3), "test_filenames"),
    "numbers as names of splits": (lambda d: d.update(val_filenames=[3]), "val_filenames"),
    "a test image that does not exist": (lambda d: d.update(test_filenames=["images/9.png"]), r"test_.*images/9\.png"),
    "a train image that is no frame": (
        lambda d: (d["frames"].pop(), d.update(train_filenames=["images/004.png"])),
        r"train_filenames: images/004\.png is none of the frames",
    ),
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
