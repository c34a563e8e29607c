"""What visitors send: checked, and kept under generated names in the folder `inputs` beside the run folders."""

import contextlib
import re
import shutil
import time
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.files import file_kind
from liftstudio.data.images import image_format, load_image, save_image
from liftstudio.views.posed_images import is_capture, read_capture

SCRATCH = "uploads"  # folder of gradio's files, as they were sent, beside the run folders
MAX_BYTES = 50 * 1024**2  # of one upload
MAX_UNPACKED_BYTES = 512 * 1024**2  # of all files in a zip
MAX_FILES = 2000  # in a zip
CAPTURE_SUFFIXES = frozenset(
    {".bin", ".glb", ".jpeg", ".jpg", ".json", ".npy", ".obj", ".ply", ".png", ".tif", ".tiff", ".txt", ".webp"}
)
PICTURES = {  # format by a file's content -> suffix under which it is kept
    "AVIF": ".avif", "BMP": ".bmp", "GIF": ".gif", "HEIF": ".heic", "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png",
    "TIFF": ".tiff", "WEBP": ".webp",
}  # fmt: skip
KEPT_S = 86400  # age up to which an upload is kept though nothing refers to it
_PART = re.compile(r"\w[\w .()+-]*")  # of a path in a zip


def keep_picture(path: Path, inputs: Path) -> Path:
    """Return a copy of an uploaded picture in `inputs`, under a generated name; its own name says nothing.

    Raises:
        InputError: too large a file, or no picture that `load_image` reads; names the file without its folder.
    """
    with _named(path):
        _check_size(path)
        kind = image_format(path)
        if kind not in PICTURES:
            raise InputError(f"{path}: a picture in the format {kind}; expected PNG, JPEG, WebP or TIFF")
        load_image(path)
    return Path(shutil.copyfile(path, _new(inputs, PICTURES[kind])))


def kept_picture(name: str, inputs: Path) -> Path | None:
    """Return the picture that `inputs` keeps under a name; None if there is none, or the name is not of our making."""
    path = inputs / name
    return path if re.fullmatch(r"[0-9a-f]{32}\.[a-z]{3,4}", name) and path.is_file() else None


def keep_pixels(rgb: Tensor, alpha: Tensor, inputs: Path) -> Path:
    """Return a new RGBA file in `inputs` with these pixels, [H, W, 3] and [H, W, 1] in [0, 1]."""
    path = _new(inputs, ".png")
    save_image(path, torch.cat([rgb, alpha], dim=-1))
    return path


def read_pixels(path: Path) -> Tensor:
    """Return an uploaded image that a browser drew, [H, W, 4] in [0, 1].

    Raises:
        InputError: no image that `load_image` reads.
    """
    try:
        _check_size(path)
        rgb, alpha = load_image(path)
    except InputError:
        raise InputError("what the brush sent is no image") from None
    return torch.cat([rgb, torch.ones_like(rgb[..., :1]) if alpha is None else alpha], dim=-1)


def keep_capture(path: Path, inputs: Path) -> Path:
    """Return a new folder in `inputs` with the posed photographs of an uploaded zip.

    Raises:
        InputError: no zip, one that unpacks to too much, a path in it that leads out of it, or no readable capture.
    """
    folder = _new(inputs, "")
    with _named(path):
        _check_size(path)
        try:
            _unpack(path, folder)
            capture = _capture_in(folder)
        except InputError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{path}: {str(error).replace(f'{folder}/', '')}") from None
    return capture


def delete_unused(inputs: Path, references: Iterable[Path]) -> int:
    """Delete the uploads that are older than a day and in no file of `references`; return how many.

    references: configs of runs and orders of the queue, which name what they use by its path in `inputs`.
    """
    old = [path for path in inputs.glob("*") if time.time() - path.stat().st_mtime > KEPT_S]
    texts = [path.read_text() for path in references] if old else []
    used = {name for text in texts for name in re.findall(rf"{inputs.name}/(\w+)", text)}
    unused = [path for path in old if path.stem not in used]
    for path in unused:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return len(unused)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let InputErrors inside the block name the uploaded file as its sender does, without the server's folder."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None


def _new(inputs: Path, suffix: str) -> Path:
    inputs.mkdir(parents=True, exist_ok=True)
    return inputs / f"{uuid.uuid4().hex}{suffix}"


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES // 1024**2} MB")


def _unpack(path: Path, folder: Path) -> None:
    """Write the files of a zip to a new folder; of each, the size is counted while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not _is_by_the_way(member.filename)]
            if len(members) > MAX_FILES:
                raise InputError(f"{len(members)} files; at most {MAX_FILES} are taken")
            left = MAX_UNPACKED_BYTES
            for member in members:
                target = folder / _checked(member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("xb") as copy:
                    while chunk := source.read(1024**2):
                        left -= len(chunk)
                        if left < 0:
                            raise InputError(f"unpacks to more than {MAX_UNPACKED_BYTES // 1024**2} MB")
                        copy.write(chunk)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, ValueError) as error:
        kind = file_kind(path)
        raise InputError(f"not a readable zip archive ({kind if kind and 'zip' not in kind else error})") from None


def _checked(name: str) -> PurePosixPath:
    """Return the path of a file in a zip, if it cannot lead out of it."""
    path = PurePosixPath(name)
    if not path.parts or not all(map(_PART.fullmatch, path.parts)):
        raise InputError(f"'{name[:80]}': a path with other characters than letters, digits, spaces and . _ + - ( )")
    return path


def _is_by_the_way(name: str) -> bool:
    """Return whether an archiver added a file of its own to a zip, or it is no part of a capture."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith("._") or path.suffix.lower() not in CAPTURE_SUFFIXES


def _capture_in(folder: Path) -> Path:
    """Return the folder of the capture, the unpacked one or the only one in it, whose files are all in there."""
    places = [folder, *(place for place in folder.glob("*") if place.is_dir())] if folder.is_dir() else []
    place = next(filter(is_capture, places), None)
    if place is None:
        raise InputError("no transforms.json and no COLMAP model in it")
    for index in (*place.glob("*.json"), *place.rglob("images.txt"), *place.rglob("images.bin")):
        _check_names(index)
    capture = read_capture(place)
    files = [capture.mesh, *(file for f in capture.frames for file in (f.image, f.mask, f.depth, f.normal))]
    for file in filter(None, files):
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"names a file that is not in the zip: {file.name}")
    return place


def _check_names(index: Path) -> None:
    """Refuse a list of files that names some outside its folder, before any of them is looked for."""
    content = index.read_bytes()
    if b"../" in content or (index.suffix == ".json" and re.search(rb'"\s*(/|~|asset:|\w:|\\)', content)):
        raise InputError(f"{index.name}: names a file that is not in the zip")
