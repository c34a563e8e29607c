"""Reader of transforms.json: the variants of nerfstudio, instant-ngp and NeRF-synthetic (Blender)."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.data.images import image_size
from liftstudio.views.frames import Capture, Frame, check_intrinsics, check_pose, check_undistorted, find_mask

Record = dict[str, Any]

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE")
DISTORTIONS = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
IMAGE_SUFFIXES = ("", ".png", ".jpg", ".jpeg")


def read_transforms(path: Path) -> Capture:
    """Read a capture from one JSON file.

    Intrinsics may be given at the top level, per frame, or both (the frame's take precedence): `fl_x` and `fl_y` in
    pixels, or `camera_angle_x` in radians; `cx`, `cy`, `w`, `h` default to the image's centre and size. Frames listed
    in `test_filenames` or `val_filenames` are held out. Masks: `mask_path` per frame, or a folder `masks` next to the
    JSON file.

    Raises:
        InputError: a missing or invalid file, a missing key, a wrong type, an impossible pose or lens, a missing image.
    """
    data = _read_json(path)
    items = data.get("frames")
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}: frames: expected a list of at least one frame")
    shared = {key: value for key, value in data.items() if key != "frames"}
    frames = []
    for index, item in enumerate(items):
        where = f"{path}: frames[{index}]"
        if not isinstance(item, dict):
            raise InputError(f"{where}: expected keys and values, got {item!r:.60}")
        frames.append(_frame({**shared, **item}, path.parent, where))
    return Capture(frames, _path(data, ("mesh",), path.parent, str(path)))


def read_splits(folder: Path) -> Capture:
    """Read a NeRF-synthetic capture: transforms_train.json; frames of transforms_test.json (else _val) are held out.

    Raises:
        InputError: as `read_transforms`.
    """
    train = read_transforms(folder / "transforms_train.json")
    for split in ("test", "val"):
        path = folder / f"transforms_{split}.json"
        if path.is_file():
            held_out = [Frame(**{**vars(frame), "held_out": True}) for frame in read_transforms(path).frames]
            return Capture(train.frames + held_out, train.mesh)
    return train


def _read_json(path: Path) -> Record:
    def refuse(constant: str) -> None:
        raise InputError(f"{path}: {constant} is not a valid JSON number")

    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        if kind := file_kind(path):
            raise InputError(f"{path}: expected JSON, found {kind}") from None
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({error})") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected keys and values at the top level")
    return data


def _frame(data: Record, folder: Path, where: str) -> Frame:
    name = _text(data, "file_path", where)
    where = f"{where} ({name})"
    image = _image_path(folder, name, where)
    _check_lens(data, where)
    width, height = _image_size(data, image, where)
    fx, fy = _focal_lengths(data, width, height, where)
    frame = Frame(
        image=image,
        name=name,
        c2w=_pose(data, where),
        fx=fx,
        fy=fy,
        cx=_number(data, "cx", where, width / 2),
        cy=_number(data, "cy", where, height / 2),
        width=width,
        height=height,
        held_out=any(name in _names(data, key, where) for key in ("test_filenames", "val_filenames")),
        mask=_path(data, ("mask_path",), folder, where) or find_mask(folder / "masks", image.name),
        depth=_path(data, ("depth_file_path", "depth_path"), folder, where),
        normal=_path(data, ("normal_file_path", "normal_path"), folder, where),
    )
    return check_intrinsics(frame, where)


def _image_path(folder: Path, name: str, where: str) -> Path:
    path = folder / name.replace("\\", "/")  # some captures were written on Windows
    for suffix in IMAGE_SUFFIXES:
        candidate = path.with_name(path.name + suffix) if path.name else path
        if candidate.is_file():
            return candidate
    raise InputError(f"{where}: no such image: {path}")


def _check_lens(data: Record, where: str) -> None:
    model = data.get("camera_model", "PINHOLE")
    if model not in PINHOLES:
        raise InputError(f"{where}: camera_model: expected a pinhole ({', '.join(PINHOLES)}), got {model!r}")
    if data.get("is_fisheye"):
        raise InputError(f"{where}: is_fisheye: only pinhole cameras are supported; undistort the images first")
    check_undistorted({key: _number(data, key, where, 0.0) for key in DISTORTIONS}, where)


def _image_size(data: Record, image: Path, where: str) -> tuple[int, int]:
    height, width = image_size(image)
    return round(_number(data, "w", where, width)), round(_number(data, "h", where, height))


def _focal_lengths(data: Record, width: int, height: int, where: str) -> tuple[float, float]:
    if "fl_x" in data:
        fx = _number(data, "fl_x", where)
        return fx, _number(data, "fl_y", where, fx)
    if "camera_angle_x" not in data:
        raise InputError(f"{where}: expected fl_x (pixels) or camera_angle_x (radians), found neither")
    fx = _focal_length(data, "camera_angle_x", width, where)
    return fx, _focal_length(data, "camera_angle_y", height, where) if "camera_angle_y" in data else fx


def _focal_length(data: Record, key: str, pixels: int, where: str) -> float:
    angle = _number(data, key, where)
    if not 0 < angle < math.pi:
        raise InputError(f"{where}: {key}: expected an angle between 0 and pi radians, got {angle:g}")
    return 0.5 * pixels / math.tan(angle / 2)


def _pose(data: Record, where: str) -> Tensor:
    rows = data.get("transform_matrix")
    where = f"{where}: transform_matrix"
    if not (isinstance(rows, list) and len(rows) == 4 and all(isinstance(r, list) and len(r) == 4 for r in rows)):
        raise InputError(f"{where}: expected 4 rows of 4 numbers")
    if not all(_is_number(value) for row in rows for value in row):
        raise InputError(f"{where}: expected 4 rows of 4 finite numbers")
    return check_pose(torch.tensor(rows, dtype=torch.float64), where)


def _is_number(value: object) -> bool:
    """Return whether a value is a finite JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _number(data: Record, key: str, where: str, default: float | None = None) -> float:
    value = data.get(key, default)
    if value is None:
        raise InputError(f"{where}: {key}: missing")
    if not _is_number(value):
        raise InputError(f"{where}: {key}: expected a finite number, got {value!r:.60}")
    return float(value)


def _text(data: Record, key: str, where: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}: {key}: " + ("missing" if value is None else f"expected text, got {value!r:.60}"))
    return value


def _path(data: Record, keys: tuple[str, ...], folder: Path, where: str) -> Path | None:
    """Return the file named by the first of `keys` that is present, or None."""
    for key in keys:
        if data.get(key) is not None:
            path = folder / _text(data, key, where).replace("\\", "/")
            if not path.is_file():
                raise InputError(f"{where}: {key}: no such file: {path}")
            return path
    return None


def _names(data: Record, key: str, where: str) -> list[str]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{where}: {key}: expected a list of image names, got {value!r:.60}")
    return value
