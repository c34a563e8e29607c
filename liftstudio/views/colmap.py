"""Reader of COLMAP models, text and binary: cameras and images only; points are not needed."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.views.frames import Capture, Frame, check_intrinsics, check_pose, check_undistorted, find_mask

T = TypeVar("T")

# number in binary files -> name, its parameters in order
MODELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fx", "fy", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
}
PARAMETERS = dict(MODELS.values())
MODEL_FOLDERS = ("", "sparse/0", "sparse", "colmap/sparse/0")  # within a capture
OPENCV_FROM_OPENGL = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


@dataclass(frozen=True)
class Lens:
    """Intrinsics shared by images: size in pixels, and the model's parameters by name."""

    width: int
    height: int
    parameters: dict[str, float]


@dataclass(frozen=True)
class Pose:
    """World-to-camera rotation (unit quaternion w, x, y, z) and translation of one image, OpenCV axes."""

    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    lens: int
    name: str


def find_model(folder: Path) -> Path | None:
    """The folder with a model's `cameras` and `images` files (.bin or .txt) in a capture, or None."""
    for name in MODEL_FOLDERS:
        if any((folder / name / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder / name
    return None


def read_colmap(folder: Path) -> Capture:
    """A capture from a COLMAP model in `folder` or its `sparse/0`, with photographs in `images` and masks in `masks`.

    Frames are sorted by name. Poses are converted from OpenCV world-to-camera to OpenGL camera-to-world.

    Raises:
        InputError: missing, cut or faulty files, a lens with distortion, a missing image or mask.
    """
    model = find_model(folder)
    if model is None:
        raise InputError(f"{folder}: no COLMAP model (cameras.bin or cameras.txt)")
    if (model / "cameras.bin").is_file():
        lenses, poses = _read(model / "cameras.bin", _binary_lenses), _read(model / "images.bin", _binary_poses)
    else:
        lenses, poses = _read(model / "cameras.txt", _text_lenses), _read(model / "images.txt", _text_poses)
    if not poses:
        raise InputError(f"{model}: the model has no images")
    images = _images_folder(folder)
    return Capture([_frame(pose, dict(lenses), images, model) for pose in sorted(poses, key=lambda pose: pose.name)])


def _images_folder(folder: Path) -> Path:
    for parent in (folder, *list(folder.resolve().parents)[:3]):  # `folder` may be the model's own
        if (parent / "images").is_dir():
            return parent / "images"
    raise InputError(f"{folder / 'images'}: no such folder of images")


def _frame(pose: Pose, lenses: dict[int, Lens], images: Path, model: Path) -> Frame:
    where = f"{model}: {pose.name}"
    image, lens = images / pose.name, lenses.get(pose.lens)
    if lens is None:
        raise InputError(f"{where}: its camera {pose.lens} is not in the model")
    if not image.is_file():
        raise InputError(f"{where}: no such image: {image}")
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


def _read(path: Path, parse: Callable[[Path], Iterator[T]]) -> list[T]:
    """A list of what `parse` finds in the file, with every fault as an InputError that names it."""
    try:
        return list(parse(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, struct.error, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a readable COLMAP file ({error})") from None


def _lens(model: str, width: int, height: int, values: list[float]) -> Lens:
    if model not in PARAMETERS:
        raise ValueError(f"camera model {model}, expected one of {', '.join(PARAMETERS)}; undistort the images first")
    return Lens(width, height, dict(zip(PARAMETERS[model], values, strict=True)))


def _text_lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


def _text_lenses(path: Path) -> Iterator[tuple[int, Lens]]:
    for line in _text_lines(path):
        if line.strip():
            number, model, width, height, *values = line.split()
            yield int(number), _lens(model, int(width), int(height), [float(value) for value in values])


def _text_poses(path: Path) -> Iterator[Pose]:
    lines = _text_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    for line in lines[::2]:  # every second line lists an image's points, and may be empty
        fields = line.split(maxsplit=9)
        numbers = tuple(float(value) for value in fields[1:8])
        yield Pose(numbers[:4], numbers[4:], int(fields[8]), fields[9].strip())


class _Bytes:
    """A little-endian binary file, read from the front."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise ValueError("the file is cut off")

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
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
        file.skip(points * 24)  # x, y and the number of each observed point
        yield Pose(tuple(numbers[:4]), tuple(numbers[4:]), lens, name)
