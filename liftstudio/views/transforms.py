"""Reader of transforms.json: the variants of nerfstudio, instant-ngp and NeRF-synthetic (Blender)."""

import json
import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.data.images import image_size
from liftstudio.data.lookup import find_file, find_picture
from liftstudio.views.frames import ROTATION_TOLERANCE, Capture, Frame, check_intrinsics, check_pose, find_mask
from liftstudio.views.lenses import check_pinhole

log = logging.getLogger("liftstudio")

Record = dict[str, Any]
Doubts = Counter[str]  # warnings, and how many frames each is about

FOCAL_KEYS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov")
PIXEL_KEYS = ("fl_x", "fl_y", "cx", "cy")
DEPTH_KEYS = ("depth_file_path", "depth_path")
NORMAL_KEYS = ("normal_file_path", "normal_path")
ALTERNATIVES = (FOCAL_KEYS, DEPTH_KEYS, NORMAL_KEYS)  # the keys of a group say the same thing in different ways
SPLIT_KEYS = ("train_filenames", "test_filenames", "val_filenames")
FOCAL_TOLERANCE = 0.01  # relative, between a frame's focal length in pixels and in degrees or radians


def read_transforms(path: Path) -> Capture:
    """Read a capture from one JSON file.

    Intrinsics may be given at the top level, per frame, or both (the frame's take precedence; any focal length in a
    frame replaces all of the top level's): `fl_x`, `fl_y` in pixels, `camera_angle_x`, `camera_angle_y` in radians, or
    `x_fov`, `y_fov` in degrees, of which one axis is enough; `cx`, `cy`, `w`, `h` default to the image's centre and
    size. Poses have 3 or 4 rows; axes of another length than 1 are normalised, with a warning. Frames listed in
    `test_filenames` or `val_filenames` are held out; if there are `train_filenames`, frames in no list are left out.
    Masks: `mask_path` per frame, or a folder `masks` next to the JSON file. A value of null is as good as none.
    Pictures are found as by `find_picture`.

    Raises:
        InputError: a missing or invalid file, a missing key, a wrong type, an impossible pose or lens, a missing image,
            a list that names something else than a frame, images of several sizes that share a focal length and
            state no size.
    """
    data = _given(_read_json(path))
    items = data.get("frames")
    if not isinstance(items, list) or not items:
        raise InputError(f"{path}: frames: expected a list of at least one frame")
    shared = {key: value for key, value in data.items() if key != "frames"}
    doubts: Doubts = Counter()
    frames = []
    for index, item in enumerate(items):
        where = f"{path}: frames[{index}]"
        if not isinstance(item, dict):
            raise InputError(f"{where}: expected keys and values, got {item!r:.60}")
        frames.append(_frame(_merged(shared, item, doubts), path.parent, where, doubts))
    for doubt, count in doubts.items():
        log.warning("%s: %d of %d frames: %s", path, count, len(frames), doubt)
    kept = _split(frames, data, path)
    images = _images(kept)
    _check_sizes(shared, [pair for pair in zip(items, frames, strict=True) if pair[1].image.resolve() in images])
    return Capture(kept, _path(data, ("mesh",), path.parent, str(path)))


def read_splits(folder: Path) -> Capture:
    """Read a NeRF-synthetic capture: transforms_train.json; frames of transforms_test.json (else _val) are held out.

    A picture in both is held out; if all of transforms_train.json are, nothing is held out, with a warning.

    Raises:
        InputError: as `read_transforms`.
    """
    train = read_transforms(folder / "transforms_train.json")
    for split in ("test", "val"):
        path = folder / f"transforms_{split}.json"
        if path.is_file():
            held_out = [replace(frame, held_out=True) for frame in read_transforms(path).frames]
            images = _images(held_out)
            kept = [frame for frame in train.frames if frame.image.resolve() not in images]
            if kept:
                return Capture(kept + held_out, train.mesh)
            log.warning("%s: has all pictures of transforms_train.json; no view is held out", path)
    return train


def _given(record: Record) -> Record:
    """Return the keys whose value is not null."""
    return {key: value for key, value in record.items() if value is not None}


def _merged(shared: Record, own: Record, doubts: Doubts) -> Record:
    """Return a frame's keys, and those of the top level that the frame does not replace."""
    own = _given(own)
    replaced = {key for group in ALTERNATIVES if any(key in own for key in group) for key in group}
    kept = {key: value for key, value in shared.items() if key not in replaced}
    resized = any(key in own and key in shared and own[key] != shared[key] for key in ("w", "h"))
    inherited = [key for key in PIXEL_KEYS if key in kept and key not in own]
    if resized and inherited:
        doubts[f"w and h differ from the top level's, but {', '.join(inherited)} are only given there"] += 1
    return {**kept, **own}


def _split(frames: list[Frame], data: Record, path: Path) -> list[Frame]:
    """Return the frames that are in the file's lists, all if none is listed for training; test and val are held out."""
    images = _images(frames)
    train, test, val = (_listed(data, key, images, path) for key in SPLIT_KEYS)
    for key in data:
        if key.endswith("_filenames") and key not in SPLIT_KEYS:
            log.warning("%s: the unknown list %s is ignored; expected %s", path, key, ", ".join(SPLIT_KEYS))
    held_out = test | val
    kept = train | held_out if train else images
    if len(kept) < len(images):
        log.info("%s: %d frames in none of the lists are left out", path, len(images) - len(kept))
    chosen = [frame for frame in frames if frame.image.resolve() in kept]
    return [replace(frame, held_out=frame.image.resolve() in held_out) for frame in chosen]


def _listed(data: Record, key: str, images: set[Path], path: Path) -> set[Path]:
    """Return the images that a list names, in whatever writing."""
    names = data.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: {key}: expected a list of image names, got {names!r:.60}")
    listed = {name: _image_path(path.parent, name, f"{path}: {key}").resolve() for name in names}
    for name, image in listed.items():
        if image not in images:
            raise InputError(f"{path}: {key}: {name} is none of the frames")
    return set(listed.values())


def _images(frames: list[Frame]) -> set[Path]:
    return {frame.image.resolve() for frame in frames}


def _check_sizes(shared: Record, kept: list[tuple[Record, Frame]]) -> None:
    """Check that pictures have one size where only that tells what the shared focal length belongs to."""
    unknown = [
        frame
        for item, frame in kept
        if all(item.get(key) is None for key in FOCAL_KEYS)
        and any({**shared, **item}.get(key) is None for key in ("w", "h"))
    ]
    for frame in unknown:
        if (frame.width, frame.height) != (unknown[0].width, unknown[0].height):
            sizes = f"{frame.width}x{frame.height} pixels, but {unknown[0].image} has"
            way = "state `w` and `h`, and for pictures of other cameras a focal length of their own"
            raise InputError(f"{frame.image}: {sizes} {unknown[0].width}x{unknown[0].height}; {way}")


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


def _frame(data: Record, folder: Path, where: str, doubts: Doubts) -> Frame:
    name = _text(data, "file_path", where)
    where = f"{where} ({name})"
    image = _image_path(folder, name, where)
    doubts.update(check_pinhole(data, where))
    width, height = _image_size(data, image, where)
    fx, fy = _focal_lengths(data, width, height, where, doubts)
    frame = Frame(
        image=image,
        name=name,
        c2w=_pose(data, where, doubts),
        fx=fx,
        fy=fy,
        cx=_number(data, "cx", where, width / 2),
        cy=_number(data, "cy", where, height / 2),
        width=width,
        height=height,
        mask=_path(data, ("mask_path",), folder, where) or find_mask(folder / "masks", image.name),
        depth=_path(data, DEPTH_KEYS, folder, where),
        normal=_path(data, NORMAL_KEYS, folder, where),
    )
    return check_intrinsics(frame, where)


def _image_path(folder: Path, name: str, where: str) -> Path:
    path = folder / name.replace("\\", "/")  # some captures were written on Windows
    image = find_picture(path)
    if image is None:
        raise InputError(f"{where}: no such image: {path}")
    return image


def _image_size(data: Record, image: Path, where: str) -> tuple[int, int]:
    height, width = image_size(image, upright=False)
    return round(_number(data, "w", where, width)), round(_number(data, "h", where, height))


def _focal_lengths(data: Record, width: int, height: int, where: str, doubts: Doubts) -> tuple[float, float]:
    """Return fx and fy in pixels; pixels are square if only one is given."""
    both = (_focal_length(data, axis, size, where, doubts) for axis, size in (("x", width), ("y", height)))
    given = [focal for focal in both if focal is not None]
    if not given:
        raise InputError(f"{where}: expected fl_x (pixels) or camera_angle_x (radians), found neither")
    return given[0], given[-1]


def _focal_length(data: Record, axis: str, size: int, where: str, doubts: Doubts) -> float | None:
    """Return the focal length along an axis in pixels, from the first of its keys; None if there is none."""
    found: dict[str, float] = {}
    if f"fl_{axis}" in data:
        found[f"fl_{axis}"] = _number(data, f"fl_{axis}", where)
    for key, half_turn in ((f"camera_angle_{axis}", math.pi), (f"{axis}_fov", 180.0)):
        if key in data:
            angle = _number(data, key, where)
            if not 0 < angle < half_turn:
                unit = "pi radians" if half_turn == math.pi else "180 degrees"
                raise InputError(f"{where}: {key}: expected an angle between 0 and {unit}, got {angle:g}")
            found[key] = 0.5 * size / math.tan(0.5 * math.pi * angle / half_turn)
    if not found:
        return None
    used = next(iter(found))
    for key, value in found.items():
        if abs(value - found[used]) > FOCAL_TOLERANCE * abs(found[used]):
            doubts[f"{key} contradicts {used} for an image of this size; {used} is used"] += 1
    return found[used]


def _pose(data: Record, where: str, doubts: Doubts) -> Tensor:
    rows = data.get("transform_matrix")
    where = f"{where}: transform_matrix"
    if not (isinstance(rows, list) and len(rows) in (3, 4) and all(isinstance(r, list) and len(r) == 4 for r in rows)):
        raise InputError(f"{where}: expected 3 or 4 rows of 4 numbers")
    if not all(_is_number(value) for row in rows for value in row):
        raise InputError(f"{where}: expected 3 or 4 rows of 4 finite numbers")
    c2w = torch.tensor([*rows, [0.0, 0.0, 0.0, 1.0]][:4], dtype=torch.float64)
    scale = float(torch.linalg.det(c2w[:3, :3]).abs()) ** (1 / 3)
    if scale > 0 and abs(scale**2 - 1) > ROTATION_TOLERANCE:
        c2w[:3, :3] /= scale
        doubts["the axes of transform_matrix are not of length 1; they are normalised"] += 1
    return check_pose(c2w, where)


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
            file = find_file(path) if key == "mesh" else find_picture(path)
            if file is None:
                raise InputError(f"{where}: {key}: no such file: {path}")
            return file
    return None
