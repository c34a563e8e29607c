"""Where golden data of official implementations is found."""

import functools
import os
import tarfile
import tempfile
from pathlib import Path


def golden_root(archive: Path) -> Path:
    """The folder that LIFTSTUDIO_GOLDEN names, or the bundled cases of an archive."""
    named = os.environ.get("LIFTSTUDIO_GOLDEN")
    return Path(named) if named else unpacked(archive)


def unpacked(archive: Path) -> Path:
    """The bundled cases as a folder, until the process ends."""
    return Path(_unpacked(archive).name) / archive.parent.name


@functools.cache
def _unpacked(archive: Path) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    with tarfile.open(archive) as file:
        file.extractall(Path(folder.name) / archive.parent.name, filter="data")
    return folder
