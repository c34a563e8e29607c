import logging
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from captures import Shots, load
from PIL import Image
from scipy.spatial.transform import Rotation

from liftstudio.core.errors import InputError
from liftstudio.views.posed_images import is_capture

MODEL_NUMBERS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
}

Lens = tuple[str, list[float]]


def lenses_of(shots: Shots) -> list[Lens]:
    c = shots.cameras
    return [("PINHOLE", [float(v[i]) for v in (c.fx, c.fy, c.cx, c.cy)]) for i in range(len(c))]


def poses_of(shots: Shots) -> list[tuple[list[float], list[float], str]]:
    """Return quaternion (w, x, y, z) and translation of world-to-camera in OpenCV axes, and the name."""
    poses = []
    for c2w, name in zip(shots.cameras.c2w.double(), shots.names(), strict=True):
        w2c = torch.linalg.inv(c2w @ torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64)))
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3].numpy()).as_quat()
        poses.append(([w, x, y, z], w2c[:3, 3].tolist(), Path(name).name))
    return poses[::-1]  # COLMAP keeps no order


def write_text(folder: Path, shots: Shots, lenses: list[Lens]) -> None:
    folder.mkdir(parents=True)
    size = f"{shots.cameras.width} {shots.cameras.height}"
    cameras = [f"{i + 1} {model} {size} {' '.join(map(str, v))}\n" for i, (model, v) in enumerate(lenses)]
    (folder / "cameras.txt").write_text("# Camera list\n" + "".join(cameras))
    count = len(shots.cameras)
    images = [
        f"{i + 7} {' '.join(map(str, [*q, *t]))} {count - i} {name}\n{'1.0 2.0 -1 3 4 5' if i % 2 else ''}\n"
        for i, (q, t, name) in enumerate(poses_of(shots))
    ]
    (folder / "images.txt").write_text("# Image list\n# two lines each\n" + "".join(images))


def write_binary(folder: Path, shots: Shots, lenses: list[Lens]) -> None:
    folder.mkdir(parents=True)
    data = struct.pack("<Q", len(lenses))
    for i, (model, values) in enumerate(lenses):
        head = (i + 1, MODEL_NUMBERS[model], shots.cameras.width, shots.cameras.height)
        data += struct.pack("<iiQQ", *head) + struct.pack(f"<{len(values)}d", *values)
    (folder / "cameras.bin").write_bytes(data)
    data, count = struct.pack("<Q", len(shots.cameras)), len(shots.cameras)
    for i, (q, t, name) in enumerate(poses_of(shots)):
        data += struct.pack("<I7dI", i + 7, *q, *t, count - i) + name.encode() + b"\0"
        data += struct.pack("<Q", i) + struct.pack("<ddq", 1.0, 2.0, -1) * i
    (folder / "images.bin").write_bytes(data)


@pytest.fixture(params=[write_text, write_binary])
def write(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "", "colmap/sparse/0"])
def test_models(write: Any, place: str, shots: Shots, tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    shots.save_images(folder)
    write(folder / place / "model", shots, lenses_of(shots))
    for file in (folder / place / "model").iterdir():
        file.rename(folder / place / file.name)
    views = load(folder)
    shots.check(views)
    assert views.names == tuple(Path(name).name for name in shots.names())  # sorted again
    if place != "colmap/sparse/0":
        shots.check(load(folder / place))  # the model's own folder


def test_lenses_without_distortion(write: Any, shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    values = [40.0, 16.0, 12.0]
    lenses = [
        ("SIMPLE_PINHOLE", values),
        ("SIMPLE_RADIAL", [*values, 0.0]),
        ("OPENCV", [40.0, *values, 0, 0, 0, 0]),
        ("FULL_OPENCV", [40.0, *values, *[0] * 8]),
    ]
    write(tmp_path / "sparse", shots, (lenses * 2)[:5])
    cameras = load(tmp_path).cameras
    for name, wanted in (("fx", 40.0), ("fy", 40.0), ("cx", 16.0), ("cy", 12.0)):
        torch.testing.assert_close(getattr(cameras, name), torch.full((5,), wanted))


def test_masks_beside_the_images(write: Any, shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path, "RGB")
    (tmp_path / "masks").mkdir()
    for name, rgba in zip(shots.names(), shots.rgba, strict=True):
        Image.fromarray(rgba[..., 3]).save(tmp_path / "masks" / f"{Path(name).name}.png")  # COLMAP's way
    write(tmp_path / "sparse", shots, lenses_of(shots))
    shots.check(load(tmp_path))


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def no_points(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("#") or line.endswith(".png")]


CHANGES: dict[str, Callable[[list[str]], list[str]]] = {
    "no lines of points": no_points,
    "a blank line after the header": lambda lines: [*lines[:2], "", *lines[2:]],
    "no header": lambda lines: lines[2:],
    "blank lines everywhere": lambda lines: [text for line in lines for text in (line, "", "  ")],
    "no blank lines": lambda lines: [line for line in lines if line],
    "comments between": lambda lines: [text for line in lines for text in (line, "  # text 1 2")],
    "indented": lambda lines: [f"  {line}\t" for line in lines],
    "last point cut": lambda lines: [*lines, "1.0 2.0 -1"],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_are_told_by_their_content(
    change: str, encoding: str, newline: str, shots: Shots, tmp_path: Path
) -> None:
    shots.save_images(tmp_path)
    write_text(tmp_path / "sparse", shots, lenses_of(shots))
    for name, edit in (("cameras", lambda lines: ["", *lines, ""]), ("images", CHANGES[change])):
        path = tmp_path / "sparse" / f"{name}.txt"
        path.write_text("\n".join(edit(lines_of(path))) + "\n", encoding=encoding, newline=newline)
    shots.check(load(tmp_path))


@pytest.mark.parametrize(("old", "new"), [("000.png", "000 1.png"), ("000.png", "my photo 000.png"), ("000.png", "7")])
def test_names_with_blanks_and_digits(old: str, new: str, shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    write_text(tmp_path / "sparse", shots, lenses_of(shots))
    path = tmp_path / "sparse" / "images.txt"
    path.write_text(path.read_text().replace(old, new))
    (tmp_path / "images" / old).rename(tmp_path / "images" / new)
    assert new in load(tmp_path).names and len(load(tmp_path)) == 5


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("images.txt", "7 0.8 0.6 0 0 1 2 3 5", r"images\.txt.*line 4: expected IMAGE_ID.*NAME"),
        ("images.txt", "7 1 0 0 0 1 2 3", r"images\.txt.*line 4: expected IMAGE_ID"),
        ("images.txt", "7 1 0 0 x 1 2 3 5 004.png", r"images\.txt.*line 4: .*'x'"),
        ("images.txt", "1.0 2.0 x", r"images\.txt.*line 4: expected IMAGE_ID"),
        ("cameras.txt", "1 PINHOLE 32", r"cameras\.txt.*line 4: expected CAMERA_ID"),
        ("cameras.txt", "1 PINHOLE 32 24 40 40 16", r"cameras\.txt.*line 4: PINHOLE: .*fx fy cx cy.*3 numbers"),
        ("cameras.txt", "1 PINHOLE 32 24 40 40 16 x", r"cameras\.txt.*line 4: .*'x'"),
        ("cameras.txt", "1 FOV 32 24 40 40 16 12 0", r"cameras\.txt.*line 4: camera model FOV"),
    ],
)
def test_faulty_lines_are_named(file: str, line: str, message: str, shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    write_text(tmp_path / "sparse", shots, lenses_of(shots))
    path = tmp_path / "sparse" / file
    lines = lines_of(path)
    path.write_text("\n".join([*lines[:3], line, *lines[4:]]))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    caplog.set_level(logging.INFO, "liftstudio")
    return caplog


def part(shots: Shots, chosen: list[int]) -> Shots:
    """Return some of the shots; their names are those of the first."""
    return Shots(shots.rgba[chosen], shots.cameras[chosen])


@pytest.mark.parametrize("base", ["sparse", "colmap/sparse"])
def test_the_largest_of_several_models(
    base: str, write: Any, shots: Shots, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    shots.save_images(tmp_path)
    for name, count in (("0", 2), ("1", 4), ("10", 3)):
        write(tmp_path / base / name, part(shots, list(range(count))), lenses_of(shots))
    part(shots, list(range(4))).check(load(tmp_path))
    warnings = [record.getMessage() for record in logged.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "sparse/1: 4 of 5 photographs have a pose" in warnings[0]
    assert "sparse/0 has 2" in warnings[0] and "sparse/10 has 3" in warnings[0]
    assert is_capture(tmp_path)
    if base == "sparse":
        assert len(load(tmp_path / "sparse")) == 4
        assert len(load(tmp_path / "sparse" / "0")) == 2


@pytest.mark.parametrize("place", ["sparse/1", "sparse/model", "colmap/sparse/3", "colmap/sparse"])
def test_a_model_in_another_folder(
    place: str, write: Any, shots: Shots, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    shots.save_images(tmp_path)
    write(tmp_path / place, shots, lenses_of(shots))
    (tmp_path / "sparse" / "notes").mkdir(parents=True, exist_ok=True)
    shots.check(load(tmp_path))
    assert "5 of 5 photographs have a pose" in logged.text and "WARNING" not in logged.text


def test_text_and_binary_files_are_not_mixed(shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    write_text(tmp_path / "sparse", shots, lenses_of(shots))
    write_binary(tmp_path / "binary", shots, lenses_of(shots))
    (tmp_path / "binary" / "cameras.bin").rename(tmp_path / "sparse" / "cameras.bin")
    shots.check(load(tmp_path))


def test_names_of_windows_and_other_suffixes(write: Any, shots: Shots, tmp_path: Path) -> None:
    """Backslashes, folders within `images`, and photographs that were cut out after the calibration."""
    (tmp_path / "images" / "left").mkdir(parents=True)
    (tmp_path / "masks" / "left").mkdir(parents=True)

    class Named(Shots):
        def names(self) -> list[str]:
            return [f"left\\{i:03d}.JPG" for i in range(len(self.rgba))]

    for i, rgba in enumerate(shots.rgba):
        Image.fromarray(rgba).save(tmp_path / "images" / "left" / f"{i:03d}.png")
        Image.fromarray(rgba[..., 3]).save(tmp_path / "masks" / "left" / f"{i:03d}.jpg.png")
    write(tmp_path / "sparse", Named(shots.rgba, shots.cameras), lenses_of(shots))
    views = load(tmp_path)
    shots.check(views)
    assert views.names == tuple(f"left/{i:03d}.JPG" for i in range(5))


def test_faults(write: Any, shots: Shots, tmp_path: Path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)

    good = lenses_of(shots)
    distorted = ("SIMPLE_RADIAL", [40.0, 16.0, 12.0, 0.1])
    fisheye = ("OPENCV_FISHEYE", [40.0, 40.0, 16.0, 12.0, 0, 0, 0, 0])
    for case, lenses, message in [
        ("distorted", [*good[:4], distorted], "k = 0.1"),
        ("fisheye", [*good[:4], fisheye], "camera model"),
        ("missing lens", good[:4], "camera 5 is not in the model"),
        ("negative", [*good[:4], ("PINHOLE", [-40.0, 40.0, 16.0, 12.0])], "focal"),
    ]:
        shots.save_images(tmp_path / case)
        write(tmp_path / case / "sparse", shots, lenses)
        refused(tmp_path / case, message)
    whole = tmp_path / "whole"
    shots.save_images(whole)
    write(whole / "sparse", shots, good)
    (whole / "images" / "002.png").rename(whole / "images" / "2.png")
    refused(whole, r"no such image.*002\.png")
    (whole / "images" / "2.png").rename(whole / "images" / "002.png")
    for file in sorted((whole / "sparse").iterdir()):
        data = file.read_bytes()
        # Cut inside the last record's numbers: the text reader cannot see a number that lost digits.
        file.write_bytes(data[: len(data) - 100] if file.suffix == ".bin" else data[: data.rindex(b" ")] + b" x")
        refused(
            whole,
            {"images.txt": "no such image: .*x", "cameras.txt": r"cameras\.txt"}.get(
                file.name, f"{file.name}: not a readable COLMAP file .the file is truncated"
            ),
        )
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        refused(whole, f"{file.name}: .* Git LFS pointer")
        file.write_bytes(b"")
        refused(whole, file.name if file.suffix == ".bin" else "camera|no images")
        file.write_bytes(data)
    (whole / "sparse" / ("images.txt" if (whole / "sparse" / "images.txt").exists() else "images.bin")).unlink()
    refused(whole, "no such file")


def test_a_quaternion_of_zeros(shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path)
    write_text(tmp_path / "sparse", shots, lenses_of(shots))
    path = tmp_path / "sparse" / "images.txt"
    lines = path.read_text().splitlines()
    lines[2] = "7 0 0 0 0 1 2 3 5 004.png"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"004\.png.*not finite"):
        load(tmp_path)


def test_a_model_far_from_its_origin(write: Any, shots: Shots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Georegistered, in metres of a map: normalised like the same model near its origin."""
    poses = poses_of(shots)
    for folder, shift in (("near", [0.0, 0.0, 0.0]), ("far", [451230.25, 5411873.5, 120.0])):
        moved = []
        for (w, x, y, z), translation, name in poses:
            turned = Rotation.from_quat([x, y, z, w]).apply(shift)
            moved.append(([w, x, y, z], [t - s for t, s in zip(translation, turned.tolist(), strict=True)], name))
        monkeypatch.setattr(sys.modules[__name__], "poses_of", lambda _, moved=moved: moved)
        shots.save_images(tmp_path / folder)
        write(tmp_path / folder / "sparse" / "0", shots, lenses_of(shots))
    near, far = (load(tmp_path / folder, normalize="auto").cameras for folder in ("near", "far"))
    torch.testing.assert_close(far.c2w, near.c2w, atol=1e-6, rtol=0)
