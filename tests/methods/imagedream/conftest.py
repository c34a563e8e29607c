"""Miniatures of ImageDream and MVDream in their official layouts, opened once; tests leave them as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_imagedream import write_tiny_imagedream, write_tiny_text
from imagedream_inputs import open_imagedream

SEED = fresh_seed(__name__)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of ImageDream and MVDream under their official names, and a text encoder."""
    folder = tmp_path_factory.mktemp("imagedream")
    write_tiny_imagedream(folder / "tiny-ipmv.safetensors", seed=SEED)
    write_tiny_imagedream(folder / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(folder / "text", seed=SEED)
    return folder


@pytest.fixture(scope="session")
def pixel(folder: Path) -> Any:
    return open_imagedream(folder / "tiny-ipmv.safetensors", folder / "text")


@pytest.fixture(scope="session")
def local(folder: Path) -> Any:
    (folder / "tiny-ipmv-local.safetensors").write_bytes((folder / "tiny-ipmv.safetensors").read_bytes())
    return open_imagedream(folder / "tiny-ipmv-local.safetensors", folder / "text")


@pytest.fixture(scope="session")
def text_only(folder: Path) -> Any:
    return open_imagedream(folder / "tiny-4view.safetensors", folder / "text")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
