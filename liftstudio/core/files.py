"""Files: atomic writing (a file is absent, old or complete, never half-written), and what a file is by its content."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from liftstudio.core.errors import InputError

GIF = "a GIF image"
HEIC = "a HEIC image"
JPEG = "a JPEG image"
NUMPY = "a NumPy array"
PICKLE = "a pickle"
PNG = "a PNG image"
SAFETENSORS = "a safetensors file"
ZIP = "a zip archive"
READABLE = (PNG, JPEG, GIF)  # images that are only refused if they are damaged
_NOT_ITSELF = ", not the file itself; "
_HEAD = 512  # bytes that tell what a file is
_POINTER = b"version https://git-lfs.github.com/spec/"
_REFUSALS = (
    b'{"error"',
    b"entry not found",
    b"repository not found",
    b"access to ",
    b"invalid username",
    b"unauthorized",
)
_STARTS = (  # of files that take the place of others
    (b"\x89PNG\r\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF8", GIF),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image"),
    (b"v/1\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance HDR image"),
    (b"<svg", "an SVG drawing"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", ZIP),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", NUMPY),
    (b"\x80\x02", PICKLE),
)
_BRANDS = (  # of ISO media files, after their first box's size and "ftyp"
    (b"avif", "an AVIF image"),
    (b"avis", "an AVIF image"),
    (b"hei", HEIC),
    (b"hev", HEIC),
    (b"mif1", HEIC),
    (b"msf1", HEIC),
    (b"crx", "a Canon raw image"),
    (b"", "a video"),
)


def file_kind(path: Path) -> str:
    """Return what a file is by its first bytes, to explain why it cannot be read as something else; "" if unknown.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_POINTER):
        size = path.stat().st_size
        return f"a Git LFS pointer of {size} bytes{_NOT_ITSELF}run git lfs pull, or download the file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<?xml") and b"<html" in text):
        return f"an HTML page{_NOT_ITSELF}download the file again, logged in where that is required"
    if text.startswith(_REFUSALS):
        return f"a server's error message{_NOT_ITSELF}download the file again, logged in where that is required"
    if head[4:8] == b"ftyp":
        return next(kind for brand, kind in _BRANDS if head[8:].startswith(brand))
    if text.startswith(b"<?xml"):
        return "an SVG drawing" if b"<svg" in text else "an XML text, such as a server's error message"
    if len(head) > 8 and head[8:9] == b"{" and not any(head[5:8]):
        return SAFETENSORS
    return next((kind for start, kind in _STARTS if head.startswith(start)), "" if head else "an empty file")


def stand_in(folder: Path) -> str:
    """Return name and kind of the first file in a folder that is only a pointer or a page; "" if there is none."""
    kinds = ((path, file_kind(path)) for path in sorted(folder.glob("*")) if path.is_file())
    return next((f"{path.name}: {kind}" for path, kind in kinds if _NOT_ITSELF in kind), "")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` if the block succeeds and is deleted if it fails.

    The temporary name keeps the suffix of `path`, since many writers choose their format by it. The bytes are synced to
    disk before the rename, so a crash or `kill -9` at any moment leaves either the old file or the new one. The folder
    is created if it is missing.

    Raises:
        OSError: read-only folder, full disk, ...
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        with blaming(path):
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_folder(option: str, folder: Path) -> None:
    """Check that folders can be made in the one that an option names; nothing is written.

    Raises:
        InputError: they cannot; names the folder or file that is in the way.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        reason = "no permission to write in" if existing.is_dir() else "is no folder:"
        raise InputError(f"{option}={folder}: {reason} {existing}; give another place for {option}")


def clear_temporaries(folder: Path) -> None:
    """Delete temporary files that killed processes left below `folder`; no process may be writing there."""
    for path in folder.rglob(".*.tmp*"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Make an OSError raised inside the block name `path`; failed writes (full disk, ...) name no file themselves."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def atomic_write(path: Path | str, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` atomically; see `atomic_path`.

    Raises:
        OSError: read-only folder, full disk, ...
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def _sync(path: Path) -> None:
    # Windows flushes only files opened for writing; POSIX opens folders only for reading.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
