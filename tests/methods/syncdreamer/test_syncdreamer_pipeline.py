"""SyncDreamer's own network, in miniature with random weights, through the whole command: image to mesh."""

from pathlib import Path
from typing import Any

import pytest
import torch
import trimesh
from helpers.seeds import fresh_seed
from helpers.tiny_syncdreamer import FOV_DEG, official_cameras, write_bright_weights

from liftstudio.cli import command_line
from liftstudio.cli.command_line import main
from liftstudio.core import assets
from liftstudio.core.config import parse
from liftstudio.core.registry import find
from liftstudio.data.cameras import concatenate, orbit_cameras
from liftstudio.data.images import load_image
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.methods.syncdreamer import ranking
from liftstudio.run.inputs import Inputs

pytestmark = pytest.mark.usefixtures("small_covering_views", "coarse_fusion")

SEED = fresh_seed(__name__)
SIZE, DISTANCE = 32, 2.7  # pixels across the views; of the cameras
QUICK = (
    "device=cpu",
    "tag=tiny",
    "image=asset://demo/toys/robot.png",
    "views.instances=2",
    "views.steps=2",
    f"views.resolution={SIZE}",
    "system.stages.coarse.steps=6",
    "system.stages.coarse.geometry.grid.levels=6",
    "system.stages.coarse.renderer.grid_resolution=32",
    "system.stages.coarse.renderer.samples_across=48",
    "system.stages.coarse.guidance.views.views_per_step=1",
    "system.stages.fine.steps=2",
    "system.stages.fine.geometry.resolution=24",
    "system.stages.fine.guidance.views.resolution=[32]",
    "system.stages.fine.guidance.views.resolution_milestones=[]",
    "test.frames=1",
    "test.size=16",
    "test.stills=0",
    "log.images_every=0",
    "log.tensorboard=false",
    "export.texture_size=64",
    "export.target_faces=1000",
)

INSTANT_NGP = (  # as in the method's README
    "system.stages.coarse.geometry={type: instant-ngp, grid: {finest_resolution: 256}}",
    "system.stages.coarse.renderer={type: volume, samples_across: 96}",
    "system.stages.coarse.regularizers={lambda_distortion: 0.01}",
    "system.stages.coarse.optimizer={lr: 0.01}",
    "system.stages.coarse.geometry.blob_density=20",  # a shape after few steps
)


def saved_views(folder: Path) -> ReferenceViews:
    """Return the views that another run would read from the folder."""
    source = find("posed-images", "views")
    data: dict[str, Any] = {"path": str(folder), "normalize": "as-given"}
    return source(parse(data, source.Config), device=torch.device("cpu")).load()


def check_saved_views(folder: Path, elevation_deg: float) -> None:
    """Check that all training views are saved, with SyncDreamer's cameras."""
    views = saved_views(folder / "views")
    used = Inputs.restore(folder / "checkpoints" / "inputs.ckpt").views
    cameras = official_cameras(16, SIZE, DISTANCE)
    if elevation_deg != 30:  # plus the input image
        angles = torch.zeros(1), torch.tensor([elevation_deg])
        cameras = concatenate([cameras, orbit_cameras(*angles, DISTANCE, FOV_DEG, SIZE, SIZE)])
    assert used is not None and len(views) == len(used) == len(cameras), f"seed {SEED}"
    for name in ("c2w", "fx", "fy", "cx", "cy"):  # float32 written as text: nothing is lost
        assert torch.equal(getattr(views.cameras, name), getattr(used.cameras, name)), name
        torch.testing.assert_close(getattr(views.cameras, name), getattr(cameras, name), rtol=1e-6, atol=1e-6)
    assert (views.masks - used.masks).abs().max() < 1 / 255  # 8 bits
    assert (views.over(1.0) - used.over(1.0)).abs().max() < 2 / 255
    assert views.masks.flatten(1).mean(1).min() > 0.1, f"seed {SEED}"


@pytest.mark.parametrize(
    ("config", "elevation_deg", "coarse"), [("harmonyview", 30, INSTANT_NGP), ("syncdreamer-neus", 10, ())]
)
def test_from_a_picture_to_a_mesh(
    config: str, elevation_deg: float, coarse: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With HarmonyView's guidance and Instant-NGP, and with classifier-free guidance and NeuS; then with DMTet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ranking, "SAMPLES", 8)
    weights = write_bright_weights(tmp_path / "tiny.safetensors", SEED)
    options = (f"prior.weights={weights}", f"views.elevation_deg={elevation_deg}", *coarse, *QUICK)
    path = assets.packaged("configs") / f"{config}.yaml"
    assert main(["--config", str(path), "--train", *options]) == command_line.DONE, f"seed {SEED}"
    folder = tmp_path / "runs" / config / "tiny"
    check_saved_views(folder, elevation_deg)
    sheet, _ = load_image(folder / "views" / "instances.png")
    assert sheet.shape[0] > 2 * 96, "a row for each instance"
    mesh = trimesh.load(folder / "export" / "mesh.glb", force="mesh")
    assert len(mesh.faces) > 10 and mesh.visual.material.baseColorTexture is not None
