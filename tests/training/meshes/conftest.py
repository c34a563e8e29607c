"""Meshes of the bundled test packs; caches stay in each test's own folder."""

from pathlib import Path

import pytest
import torch
from packed_meshes import FOLDER, SEED

from liftstudio.synthetic.draws import Draws
from liftstudio.training.meshes.packs import StoredMesh, read_pack


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def meshes() -> list[StoredMesh]:
    packed = read_pack(FOLDER / "samples.npz")
    return [packed.mesh(index) for index in range(len(packed))]


@pytest.fixture
def draws() -> Draws:
    return Draws(torch.Generator().manual_seed(SEED))
