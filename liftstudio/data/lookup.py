"""Finding files whose names in captures and meshes differ from those on disk."""

import unicodedata
from pathlib import Path

from PIL import Image

from liftstudio.core.errors import InputError

# .npy: depth maps. The others are formats that Pillow reads with plug-ins; a reader says so if they are missing.
PICTURE_SUFFIXES = frozenset(Image.registered_extensions()) | {".npy", ".heic", ".heif", ".avif"}


def find_folder(path: Path) -> Path | None:
    """Return the folder at `path`, else the one of the same name in another case; None if there is none."""
    if path.is_dir():
        return path
    found = [entry for entry in _beside(path) if entry.is_dir() and _same_name(entry, path)]
    return found[0] if len(found) == 1 else None


def find_file(path: Path) -> Path | None:
    """Return the file at `path`, else the one of the same path in another case; None if there is none."""
    if path.is_file():
        return path
    found = [entry for entry in _beside(path) if entry.is_file() and _same_name(entry, path)]
    return found[0] if len(found) == 1 else None


def find_picture(path: Path) -> Path | None:
    """Return the picture that a capture calls `path`; None if there is none.

    It is the file itself, else the one picture of that name in another case, without a suffix in the capture, or with
    the suffix of another format: captures name photographs that were converted or cut out since.

    Raises:
        InputError: several pictures may be meant.
    """
    for suffix in ("", ".png", ".jpg", ".jpeg"):  # NeRF-synthetic captures name no suffix
        candidate = path.parent / (path.name + suffix)
        if candidate.is_file():
            return candidate
    file = find_file(path)
    if file is not None:
        return file
    pictures = [entry for entry in _beside(path) if is_picture(entry) and entry.is_file()]
    stems = [path.name, path.stem] if is_picture(path) else [path.name]
    for stem in stems:
        found = [entry for entry in pictures if _plain(entry.stem) == _plain(stem)]
        found = [entry for entry in found if entry.stem == stem] or found
        if len(found) > 1:
            names = ", ".join(sorted(entry.name for entry in found))
            raise InputError(f"{path}: no such file, and several may be meant: {names}; keep one or correct the name")
        if found:
            return found[0]
    return None


def is_picture(path: Path) -> bool:
    """Return whether a file's suffix is that of an image format, in any case; hidden files are no pictures."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".")


def _beside(path: Path) -> list[Path]:
    """Return what is in the folder of `path`; nothing if it does not exist or cannot be listed."""
    folder = None if path.parent == path else find_folder(path.parent)
    try:
        return [] if folder is None else list(folder.iterdir())
    except OSError:
        return []


def _same_name(one: Path, other: Path) -> bool:
    return _plain(one.name) == _plain(other.name)


def _plain(name: str) -> str:
    """Return a name in lower case, its accented letters composed; macOS writes them decomposed."""
    return unicodedata.normalize("NFC", name).casefold()
