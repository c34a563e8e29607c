"""Golden data of official implementations: where it is, which files are cases, and how results are compared."""

import functools
import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from liftstudio.core.weights import Weights


def golden_root(bundled: Path) -> Path:
    """Return the folder that LIFTSTUDIO_GOLDEN names, or that of the bundled cases, which may be an archive."""
    named = os.environ.get("LIFTSTUDIO_GOLDEN")
    if named:
        return Path(named)
    return unpacked(bundled) if bundled.is_file() else bundled


def unpacked(archive: Path) -> Path:
    """Return the bundled cases as a folder, which is removed when the process ends."""
    return Path(_unpacked(archive).name) / archive.parent.name


@functools.cache
def _unpacked(archive: Path) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory()
    with tarfile.open(archive) as file:
        file.extractall(Path(folder.name) / archive.parent.name, filter="data")
    return folder


def files_of(folders: Iterable[Path], *patterns: str) -> list[Path]:
    """Return the files of case folders whose names match a pattern."""
    return [path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern))]


def parameters(paths: Iterable[Path]) -> list[Any]:
    """Return test parameters, one per file."""
    return [pytest.param(path, id=f"{path.parent.name}/{path.stem}") for path in paths]


def close(found: Tensor, wanted: Tensor, tolerance: float, name: str = "") -> None:
    """Assert that no element differs by more than an absolute tolerance."""
    assert found.shape == wanted.shape, (name, found.shape, wanted.shape)
    assert torch.isfinite(found).all()
    difference = (found - wanted).abs().max().item()
    print(f"{name}: {difference:.1e}")  # noqa: T201  for pytest -rP
    assert difference <= tolerance, (name, difference)


class Listed(Weights):
    """A weight file of which only the list of keys is available."""

    def __init__(self, shapes: dict[str, list[int]], name: str = "listed.safetensors") -> None:
        self.path, self.metadata = Path(name), {}
        self.shapes = {key: tuple(shape) for key, shape in shapes.items()}
