"""Atomic writing: a file is absent, old or complete, never half-written."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


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
