"""Every geometry, renderer and guidance takes its first steps on CUDA as on the CPU, with the same random numbers."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.devices import DEVICE, SameDraws
from helpers.tiny_hifi123 import write_tiny_folder
from helpers.tiny_imagedream import write_tiny_imagedream, write_tiny_text
from helpers.tiny_project import write_capture
from helpers.tiny_scenes import orbit, sphere_views
from helpers.tiny_stages import GEOMETRIES, stage, write_ball
from helpers.tiny_sv3d import write_tiny_sv3d
from helpers.tiny_text2image import write_tiny_stable_diffusion
from helpers.tiny_zero123 import write_tiny_zero123
from lightning_fabric import Fabric

from liftstudio.cli.command_line import main
from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.export.options import ExportConfig
from liftstudio.export.pipeline import export_mesh
from liftstudio.systems.coarse_to_fine import CoarseToFine

CPU = torch.device("cpu")
STEPS = 2
# The first loss differs by rounding, and by the few pixels and samples that rounding decides. After a step of Adam,
# whose size does not depend on the gradient's, parameters with a gradient of nearly 0 may have gone the other way.
FIRST, LATER = 2e-3, 5e-2

GUIDANCE: dict[str, dict[str, Any]] = {
    "sv3d-masked-sds": {"type": "sv3d-masked-sds", "prior": {"type": "sv3d", "weights": "sv3d.safetensors"}},
    "imagedream-sds": {
        "type": "imagedream-sds",
        "prior": {"type": "imagedream", "weights": "ipmv.safetensors", "prompt": "a cat", "text_encoder": "text"},
    },
    "mvdream-sds": {
        "type": "mvdream-sds",
        "prior": {"type": "imagedream", "weights": "4view.safetensors", "prompt": "a cat", "text_encoder": "text"},
    },
    "zero123-sds": {"type": "zero123-sds", "prior": {"type": "zero123", "weights": "zero123"}},
    "text-to-image-sds": {
        "type": "text-to-image-sds",
        "prior": {"type": "stable-diffusion", "weights": "stable-diffusion", "prompt": "a cat"},
    },
    "depth-sds": {"type": "depth-sds", "prior": {"type": "sd2-depth", "weights": "sd2"}},
    "hifi123-rgsd": {
        "type": "hifi123-rgsd",
        "prior": {"type": "sd2-depth", "weights": "sd2"},
        "steps": 100, "levels": 4, "last_layers": 2, "timesteps": [0, 100], "guidance_scale": 2.0,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of all priors, in miniature."""
    folder = tmp_path_factory.mktemp("priors")
    write_tiny_sv3d(folder / "sv3d.safetensors")
    write_tiny_imagedream(folder / "ipmv.safetensors")
    write_tiny_imagedream(folder / "4view.safetensors", image=False)
    write_tiny_text(folder / "text")
    write_tiny_zero123(folder / "zero123")
    write_tiny_stable_diffusion(folder / "stable-diffusion")
    write_tiny_folder(folder / "sd2")
    return folder


def system_of(stages: dict[str, Any], views: ReferenceViews, device: torch.device) -> CoarseToFine:
    torch.manual_seed(0)
    data = {"light": {"type": "spherical-gaussians", "lobes": 4}, "stages": stages}
    fabric = Fabric(accelerator="cpu", devices=1)
    return CoarseToFine(parse(data, CoarseToFine.Config), views=views, device=device, seed=0, fabric=fabric)


def losses(options: dict[str, Any], views: ReferenceViews, device: torch.device) -> list[dict[str, float]]:
    """Return the losses of the first steps, with the random numbers of the CPU."""
    with SameDraws():
        system = system_of({"only": options}, views, device)
        system.enter("only")
        return [system.step(step) for step in range(STEPS)]


def compare(options: dict[str, Any], views: ReferenceViews, device: torch.device) -> None:
    pairs = zip(losses(options, views, device), losses(options, views, CPU), strict=True)
    for step, (found, wanted) in enumerate(pairs):
        assert found.keys() == wanted.keys() and wanted["loss"] > 0
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=LATER if step else FIRST, abs=1e-6), (step, name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_geometries(geometry: str, here: Path, device: torch.device) -> None:
    write_ball(here)
    compare(stage(geometry, STEPS), sphere_views(4, 16), device)


@pytest.mark.cuda
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_stage_resumes(geometry: str, here: Path, cuda: torch.device) -> None:
    """On CUDA sums depend on the order of threads, so a resumed stage goes on nearly as the first did."""
    write_ball(here)
    straight, resumed = (system_of({"only": stage(geometry, 4)}, sphere_views(4, 16), cuda) for _ in range(2))
    straight.enter("only")
    first = [straight.step(step) for step in range(2)]
    resumed.enter("only", copy.deepcopy(straight.state()))
    rest = [[system.step(step)["loss"] for step in range(2, 4)] for system in (straight, resumed)]
    assert first[0].keys() and rest[0] == pytest.approx(rest[1], rel=LATER)


@pytest.mark.usefixtures("small_covering_views", "coarse_fusion")
def test_stages_follow_each_other_and_are_exported(here: Path, device: torch.device) -> None:
    coarse, fine = stage("instant-ngp", 2), stage("dmtet", 2)
    fine["geometry"] = {**fine["geometry"], "from": "coarse"}
    system = system_of({"coarse": coarse, "fine": fine}, sphere_views(4, 16), device)
    for name in ("coarse", "fine"):
        system.enter(name)
        assert all(system.step(step)["loss"] > 0 for step in range(2))
    render = system.render(orbit(1, 16), frozenset({"normal", "depth", "albedo"}))
    assert render.rgb.device == CPU and bool(render.rgb.isfinite().all())
    surface = system.surface()
    assert surface.mesh.vertices.device.type == device.type
    config = ExportConfig(formats=["glb"], texture_size=32, target_faces=200, shaded=True)
    export_mesh(surface.mesh, surface.albedo, here / "export", config, shaded=surface.shaded)
    assert {"mesh.glb", "mesh_shaded.glb"} <= {path.name for path in (here / "export").iterdir()}


def test_all_guidance_is_here() -> None:
    known = {name for name in registry.names("guidance") if not name.startswith("test-")}  # other tests register theirs
    assert {*GUIDANCE, "reconstruction"} == known


@pytest.mark.cuda
@pytest.mark.parametrize("kind", GUIDANCE)
def test_guidance(kind: str, files: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    views = replace(sphere_views(5, 32), input_views=(4,))
    compare({**stage("dmtet", STEPS), "guidance": {"prior": GUIDANCE[kind]}}, views, cuda)


RUN = [
    "data.path=capture",
    "views.held_out=[]",
    "tag=a",
    "checkpoint.every=2",
    "system.stages.coarse.steps=4",
    "system.stages.coarse.guidance.views.views_per_step=1",
    "system.stages.coarse.renderer.grid_resolution=16",
    "system.stages.coarse.renderer.samples_across=32",
    "system.stages.fine.steps=4",
    "system.stages.fine.geometry.resolution=16",
    "test.frames=1",
    "test.size=16",
    "test.stills=1",
    "log.tensorboard=false",
    "export.texture_size=64",
]


@pytest.mark.cuda
@pytest.mark.usefixtures("small_covering_views", "coarse_fusion", "cuda")
def test_a_whole_run_from_the_command_line(here: Path) -> None:
    """Trained, resumed from its last checkpoint on the same device, tested and exported."""
    write_capture(here / "capture", views=4, size=32)
    assert main(["--config", "reconstruct-views", "--train", *RUN, f"device={DEVICE.type}"]) == 0
    folder = here / "runs" / "reconstruct-views" / "a"
    run = json.loads((folder / "metrics.json").read_text())["run"]
    assert run["device"].startswith(DEVICE.type)
    sorted((folder / "checkpoints").glob("*.ckpt"))[-1].unlink()
    for mode in ("--resume", "--test", "--export"):
        assert main(["--config", str(folder), mode]) == 0
    assert (folder / "export" / "mesh.glb").stat().st_size > 1000
