"""SV3D's own network, in miniature with random weights, through the whole command: from image to mesh."""

import csv
import math
from pathlib import Path

import pytest
import trimesh
from helpers.seeds import fresh_seed
from helpers.tiny_sv3d import write_tiny_sv3d

from liftstudio.cli import command_line
from liftstudio.cli.command_line import main
from liftstudio.core import assets

pytestmark = pytest.mark.usefixtures("small_covering_views", "coarse_fusion")

CONFIG = str(assets.packaged("configs") / "sv3d-masked-sds.yaml")
SEED = fresh_seed(__name__)
QUICK = (
    "device=cpu",
    "tag=tiny",
    "views.orbit.frames=5",
    "views.steps=2",
    "views.resolution=32",
    "system.stages.coarse.steps=6",
    "system.stages.coarse.geometry.blob_density=20",  # a shape after few steps
    "system.stages.coarse.geometry.grid.levels=6",
    "system.stages.coarse.guidance.views.views_per_step=1",
    "system.stages.coarse.renderer.grid_resolution=32",
    "system.stages.coarse.renderer.samples_across=48",
    "system.stages.fine.steps=4",
    "system.stages.fine.geometry.resolution=24",
    "system.stages.fine.guidance.unseen.start=2",
    "system.stages.fine.guidance.unseen.mask=none",
    "test.frames=1",
    "test.size=16",
    "test.stills=0",
    "log.tensorboard=false",
    "log.every=1",
    "export.texture_size=64",
    "export.target_faces=1000",
)
OF_VARIANT = {
    "p": (),
    "u": ("views.orbit.type=static", "system.stages.fine.guidance.unseen.amplitude_deg=0"),
}


@pytest.mark.parametrize("variant", ["p", "u"])
def test_from_a_picture_to_a_mesh(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    weights = write_tiny_sv3d(tmp_path / "tiny.safetensors", variant=variant, seed=SEED)
    options = (f"prior.weights={weights}", *QUICK, *OF_VARIANT[variant])
    assert main(["--config", CONFIG, "--train", *options]) == command_line.DONE, f"seed {SEED}"
    folder = tmp_path / "runs" / "sv3d-masked-sds" / "tiny"
    assert len(list((folder / "views").glob("0*.png"))) == 5
    rows = list(csv.DictReader((folder / "log.csv").open()))
    distilled = [float(row["unseen/sds"]) for row in rows if row["unseen/sds"]]
    assert len(distilled) == 2 and all(math.isfinite(value) and value > 0 for value in distilled)
    mesh = trimesh.load(folder / "export" / "mesh.glb", force="mesh")
    assert len(mesh.faces) > 10 and mesh.visual.material.baseColorTexture is not None
