"""Reader of COLMAP models, text and binary: cameras and images only, no points."""

import logging
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.data.lookup import find_folder, find_picture, is_picture
from liftstudio.views.frames import Capture, Frame, check_intrinsics, check_pose, check_undistorted, find_mask

log = logging.getLogger("liftstudio")

T = TypeVar("T")

# Model id in binary files -> name, parameters in order.
MODELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fx", "fy", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    6: ("FULL_OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
}
PARAMETERS = dict(MODELS.values())
SUFFIXES = (".bin", ".txt")
MODEL_FOLDERS = ("", "sparse", "colmap/sparse")  # within a capture; in `sparse` models may have folders of their own
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Lens:
    """Intrinsics that images share: size in pixels, and the camera model's parameters by name."""

    width: int
    height: int
    parameters: dict[str, float]


@dataclass(frozen=True)
class Pose:
    """World-to-camera rotation (unit quaternion w, x, y, z) and translation of one image, in OpenCV axes."""

    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    lens: int
    name: str


def find_models(folder: Path) -> list[Path]:
    """Return the folders in a capture that have a model's `cameras` file (.bin or .txt).

    COLMAP's mapper leaves several models, `sparse/0`, `sparse/1`, ..., if it cannot connect all photographs.
    """
    for name in MODEL_FOLDERS:
        base = folder / name
        inner = sorted(base.iterdir()) if base.absolute().name == "sparse" and base.is_dir() else []
        models = [path for path in (*inner, base) if _suffix(path) is not None]
        if models:
            return models
    return []


def read_colmap(folder: Path) -> Capture:
    """Read a COLMAP model from `folder` or its `sparse`, with photographs in `images` and masks in `masks`.

    Of several models, the one with the most images is read. Frames are sorted by name. Poses are converted from OpenCV
    world-to-camera to OpenGL camera-to-world.

    Raises:
        InputError: missing, truncated or invalid files, a lens with distortion, a missing image or mask.
    """
    models = {model: _poses(model) for model in find_models(folder)}
    if not models:
        raise InputError(f"{folder}: no COLMAP model (cameras.bin or cameras.txt)")
    model = max(models, key=lambda path: len(models[path]))
    if not models[model]:
        raise InputError(f"{model}: the model has no images")
    images, lenses = _images_folder(folder), _lenses(model)
    poses = sorted(models[model], key=lambda pose: pose.name)
    capture = Capture([_frame(pose, lenses, images, model) for pose in poses])
    _report(model, capture, images, {path: len(others) for path, others in models.items() if path != model})
    return capture


def _report(model: Path, capture: Capture, images: Path, others: dict[Path, int]) -> None:
    """Log how many of the photographs the model has, and the other models; a warning if photographs are missing."""
    posed = {frame.image.resolve() for frame in capture.frames}
    photographs = posed | {path.resolve() for path in images.rglob("*") if is_picture(path)}
    rest = "".join(f"; {path} has {count}" for path, count in others.items())
    level = logging.INFO if len(posed) == len(photographs) else logging.WARNING
    log.log(level, "%s: %d of %d photographs have a pose%s", model, len(posed), len(photographs), rest)


def _images_folder(folder: Path) -> Path:
    for parent in (folder, *list(folder.resolve().parents)[:3]):  # `folder` may be that of the model itself
        images = find_folder(parent / "images")
        if images is not None:
            return images
    raise InputError(f"{folder / 'images'}: no such folder of images")


def _frame(pose: Pose, lenses: dict[int, Lens], images: Path, model: Path) -> Frame:
    where = f"{model}: {pose.name}"
    image, lens = find_picture(images / pose.name), lenses.get(pose.lens)
    if lens is None:
        raise InputError(f"{where}: its camera {pose.lens} is not in the model")
    if image is None:
        raise InputError(f"{where}: no such image: {images / pose.name}")
    values = dict(lens.parameters)
    fx, fy = (values.pop("f"),) * 2 if "f" in values else (values.pop("fx"), values.pop("fy"))
    cx, cy = values.pop("cx"), values.pop("cy")
    check_undistorted(values, where)
    mask = find_mask(images.parent / "masks", pose.name)
    frame = Frame(image, pose.name, _c2w(pose, where), fx, fy, cx, cy, lens.width, lens.height, mask=mask)
    return check_intrinsics(frame, where)


def _c2w(pose: Pose, where: str) -> Tensor:
    quaternion = torch.tensor(pose.quaternion, dtype=torch.float64)
    w, x, y, z = (quaternion / quaternion.norm()).tolist()
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    c2w = torch.eye(4, dtype=torch.float64)
    c2w[:3, :3] = torch.tensor(rotation, dtype=torch.float64).T
    c2w[:3, 3] = -c2w[:3, :3] @ torch.tensor(pose.translation, dtype=torch.float64)
    return check_pose(c2w @ OPENCV_FROM_OPENGL, where)


def _suffix(model: Path) -> str | None:
    """Return the suffix of a model's files, .bin or .txt, or None if there is no model in the folder."""
    found = [suffix for suffix in SUFFIXES if (model / f"cameras{suffix}").is_file()]
    whole = [suffix for suffix in found if (model / f"images{suffix}").is_file()]
    return next(iter(whole + found), None)


def _lenses(model: Path) -> dict[int, Lens]:
    suffix = _suffix(model)
    return dict(_read(model / f"cameras{suffix}", _binary_lenses if suffix == ".bin" else _text_lenses))


def _poses(model: Path) -> list[Pose]:
    suffix = _suffix(model)
    return _read(model / f"images{suffix}", _binary_poses if suffix == ".bin" else _text_poses)


def _read(path: Path, parse: Callable[[Path], Iterator[T]]) -> list[T]:
    """Return the list of what `parse` yields; every failure becomes an InputError that names the file."""
    try:
        return list(parse(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, struct.error, ValueError, IndexError) as error:
        reason = file_kind(path) if path.is_file() else ""
        raise InputError(f"{path}: not a readable COLMAP file ({reason or error})") from None


def _lens(model: str, width: int, height: int, values: list[float]) -> Lens:
    if model not in PARAMETERS:
        raise ValueError(f"camera model {model}, expected one of {', '.join(PARAMETERS)}; undistort the images first")
    if len(values) != len(PARAMETERS[model]):
        raise ValueError(f"{model}: expected the parameters {' '.join(PARAMETERS[model])}, got {len(values)} numbers")
    return Lens(width, height, dict(zip(PARAMETERS[model], values, strict=True)))


def _text_lenses(path: Path) -> Iterator[tuple[int, Lens]]:
    return _parsed(path, _text_lens)


def _text_poses(path: Path) -> Iterator[Pose]:
    return (pose for pose in _parsed(path, _text_pose) if pose is not None)


def _parsed(path: Path, parse: Callable[[str], T]) -> Iterator[T]:
    """Yield what `parse` returns for each line that is neither blank nor a comment; errors name the line."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            value = parse(text)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        yield value


def _text_lens(line: str) -> tuple[int, Lens]:
    fields = line.split()
    if len(fields) < 5:
        raise ValueError("expected CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS")
    number, model, width, height, *values = fields
    return int(number), _lens(model, int(width), int(height), [float(value) for value in values])


def _text_pose(line: str) -> Pose | None:
    """Return the pose in a line of images.txt, or None if the line lists the points of an image.

    The kind of a line is told by its content: some tools write no lines of points, or drop the empty ones.
    """
    fields = line.split()
    if len(fields) % 3 == 0 and all(text.lstrip("-").isdigit() for text in fields[2::3]):  # x, y and id of each point
        return None
    if len(fields) < 10:
        raise ValueError("expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, or points of an image")
    numbers = tuple(float(value) for value in fields[1:8])
    return Pose(numbers[:4], numbers[4:], int(fields[8]), _name(line.split(maxsplit=9)[9]))


def _name(text: str) -> str:
    return text.replace("\\", "/")  # models made on Windows have backslashes


class _Bytes:
    """A little-endian binary file, read sequentially."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        start = self.at
        self.skip(struct.calcsize("<" + layout))
        return struct.unpack_from("<" + layout, self.data, start)

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("the file is truncated")

    def text(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError("the file is truncated")
        start, self.at = self.at, end + 1
        return self.data[start:end].decode()


def _binary_lenses(path: Path) -> Iterator[tuple[int, Lens]]:
    file = _Bytes(path)
    for _ in range(*file.take("Q")):
        number, model, width, height = file.take("iiQQ")
        name, parameters = MODELS.get(model, (f"number {model}", ()))
        yield number, _lens(name, width, height, list(file.take(f"{len(parameters)}d")))


def _binary_poses(path: Path) -> Iterator[Pose]:
    file = _Bytes(path)
    for _ in range(*file.take("Q")):
        _, *numbers, lens = file.take("I7dI")
        name = file.text()
        (points,) = file.take("Q")
        file.skip(points * 24)  # x, y and the id of each observed point
        yield Pose(tuple(numbers[:4]), tuple(numbers[4:]), lens, _name(name))
