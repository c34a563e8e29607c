import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from captures import Shots, load
from scipy.spatial.transform import Rotation

from liftstudio.core.errors import InputError

MODEL_NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "OPENCV": 4, "OPENCV_FISHEYE": 5}

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
    lenses = [("SIMPLE_PINHOLE", values), ("SIMPLE_RADIAL", [*values, 0.0]), ("OPENCV", [40.0, *values, 0, 0, 0, 0])]
    write(tmp_path / "sparse", shots, (lenses * 2)[:5])
    cameras = load(tmp_path).cameras
    for name, wanted in (("fx", 40.0), ("fy", 40.0), ("cx", 16.0), ("cy", 12.0)):
        torch.testing.assert_close(getattr(cameras, name), torch.full((5,), wanted))


def test_masks_beside_the_images(write: Any, shots: Shots, tmp_path: Path) -> None:
    shots.save_images(tmp_path, "RGB")
    (tmp_path / "masks").mkdir()
    from PIL import Image

    for name, rgba in zip(shots.names(), shots.rgba, strict=True):
        Image.fromarray(rgba[..., 3]).save(tmp_path / "masks" / f"{Path(name).name}.png")  # COLMAP's way
    write(tmp_path / "sparse", shots, lenses_of(shots))
    shots.check(load(tmp_path))


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
        if file.name != "images.txt":  # its last line holds points, which are not read
            refused(whole, file.name)
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
