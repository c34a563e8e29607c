"""HiFi-123's config from image to mesh file, with tiny networks, and its refinement after another method."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.seeds import fresh_seed
from helpers.tiny_hifi123 import write_estimator, write_normals, write_tiny_folder
from helpers.tiny_imagedream import QUICK
from helpers.tiny_prior import write_ball
from helpers.tiny_sv3d import write_tiny_sv3d
from helpers.tiny_text2image import write_tiny_if
from helpers.tiny_zero123 import SIZE, write_tiny_zero123

from liftstudio.cli.command_line import BAD_INPUT, main
from liftstudio.core import assets
from liftstudio.data.images import load_image
from liftstudio.data.mesh_io import read_mesh
from liftstudio.run.config import load_run_config

pytestmark = pytest.mark.usefixtures("small_covering_views", "coarse_fusion")

CONFIGS = assets.packaged("configs")
SEED = fresh_seed(__name__)
COARSE, FINE = (f"system.stages.{stage}" for stage in ("coarse", "fine"))
TINY_REFINEMENT = [  # options of state distillation with a tiny model
    f"{FINE}.steps=2",
    f"{FINE}.geometry.resolution=12",
    f"{FINE}.guidance.texture.prior.weights=depth",
    f"{FINE}.guidance.texture.resolution=48",
    f"{FINE}.guidance.texture.steps=10",
    f"{FINE}.guidance.texture.levels=4",
    f"{FINE}.guidance.texture.timesteps=[100,500]",
    f"{FINE}.guidance.texture.last_layers=2",
    "prompt=owl",
    f"{FINE}.guidance.picture.resolution=[32]",
    "export.min_component_area=0",
]

SV3D = [  # options of views and fields with a tiny network
    "image=ball.png",
    "prior.weights=tiny.safetensors",
    "views.orbit.frames=5",
    "views.steps=2",
    "views.resolution=48",
    f"{COARSE}.geometry.blob_density=20",  # a shape after few steps
    f"{COARSE}.geometry.grid.levels=6",
    f"{COARSE}.guidance.views.views_per_step=1",
    "log.every=1",
]


@pytest.fixture
def here(here: Path) -> Path:
    write_ball(here / "ball.png")
    write_tiny_folder(here / "depth", SEED)
    return here


def losses(run: Path, name: str) -> list[float]:
    rows = list(csv.DictReader((run / "log.csv").open()))
    return [float(row[name]) for row in rows if row.get(name)]


def check_run(run: Path, refinement: int) -> None:
    """Check for a textured mesh, and finite losses of both kinds of cameras."""
    for name in ("texture/rgsd", "picture/rgb"):
        values = losses(run, name)
        assert len(values) >= refinement and all(math.isfinite(value) for value in values), f"seed {SEED}"
    mesh = read_mesh(run / "export" / "mesh.glb")
    assert len(mesh.faces) > 10


def test_hybrid_from_start_to_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zero-1-to-3 and a text-to-image model with estimated depth and normals, as the config's notes have it, then state
    distillation that leaves the shape alone.
    """
    write_tiny_zero123(here / "zero123", SEED)
    write_tiny_if(here / "if", SEED)
    write_estimator(here / "dpt", SEED)
    write_normals(here / "marigold", SEED)
    text = f"{COARSE}.guidance.text"
    options = [
        "image=ball.png",
        "prior.type=zero123",
        "prior.weights=zero123",
        f"prior.resolution={SIZE}",
        "views.steps=2",
        "views.resolution=32",
        f"{COARSE}.steps=4",
        f"{COARSE}.guidance.novel.resolution=[8,16]",
        f"{COARSE}.guidance.novel.resolution_milestones=[2]",
        f"{COARSE}.guidance.picture.resolution=[16,32]",
        f"{COARSE}.guidance.picture.resolution_milestones=[2]",
        f"{COARSE}.geometry.grid.finest_resolution=64",
        f"{text}.type=text-to-image-sds",
        f"{text}.prior.type=deepfloyd-if",
        f"{text}.prior.weights=if",
        f"{text}.prior.prompt=owl",
        f"{text}.resolution=[8]",
        f"{text}.guidance_scale=20",
        f"{text}.lambda_sds=0.075",
        "networks.depth=dpt",
        "networks.normals=marigold",
        "log.every=1",
        *TINY_REFINEMENT,
    ]
    assert main(["--config", str(CONFIGS / "hifi123.yaml"), "--train", *QUICK, *options]) == 0, f"seed {SEED}"
    run = here / "runs" / "hifi123" / "a"
    check_run(run, 2)
    for name in ("novel/sds", "text/sds"):
        values = losses(run, name)
        assert len(values) == 4 and all(math.isfinite(value) and value > 0 for value in values), f"seed {SEED}"
    for name in ("picture/mono_depth", "picture/mono_normal"):
        values = losses(run, name)
        assert len(values) == 4 and all(0 <= value <= 2 for value in values), f"seed {SEED}"
    said = capsys.readouterr().out
    for name in ("Zero-1-to-3 (zero123)", "DeepFloyd IF (if)"):
        assert f"guidance: prior {name}" in said
    assert "RGSD: depth prior depth" in said
    assert (run / "views" / "contact_sheet.png").is_file()


def mixed() -> dict[str, Any]:
    """Return a config of SV3D's views and masked score distillation, then HiFi-123's refinement."""
    first, second = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("sv3d-masked-sds", "hifi123"))
    stages = first["system"]["stages"]
    stages["coarse"]["guidance"]["unseen"] = stages["fine"]["guidance"]["unseen"]
    stages["fine"] = second["system"]["stages"]["fine"]
    return first


def test_refinement_after_another_method(here: Path) -> None:
    """A config with blocks of two others suffices."""
    (here / "mixed.yaml").write_text(yaml.safe_dump(mixed(), sort_keys=False))
    write_tiny_sv3d(here / "tiny.safetensors", seed=SEED)
    options = [
        *SV3D,
        f"{COARSE}.steps=3",
        f"{COARSE}.guidance.unseen.start=2",
        f"{COARSE}.guidance.unseen.mask=none",
        *TINY_REFINEMENT,
    ]
    assert main(["--config", "mixed.yaml", "--train", *QUICK, *options]) == 0, f"seed {SEED}"
    run = here / "runs" / "mixed" / "a"
    check_run(run, 2)
    assert len(losses(run, "unseen/sds")) == 1 and len(losses(run, "views/rgb")) == 3


def test_any_methods_views_are_enhanced_by_a_key(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run trains on and writes the enhanced SV3D views; masks, cameras and the input image are unchanged."""
    write_tiny_sv3d(here / "tiny.safetensors", seed=SEED)
    config = ["--config", str(CONFIGS / "sv3d-masked-sds.yaml")]
    assert main([*config, "--views", *QUICK, *SV3D, "tag=plain"]) == 0, f"seed {SEED}"
    options = [
        "views.enhance.type=rgnv",
        "views.enhance.prior.weights=depth",
        "views.enhance.steps=20",
        "views.enhance.levels=3",
        "views.enhance.last_layers=2",
        f"{COARSE}.steps=3",
        f"{FINE}.steps=1",
        f"{FINE}.geometry.resolution=12",
        f"{FINE}.guidance.unseen.start=1",
        "export.min_component_area=0",
        "tag=enhanced",
    ]
    assert main([*config, "--train", *QUICK, *SV3D, *options]) == 0, f"seed {SEED}"
    said = capsys.readouterr().out
    assert "enhance: depth prior depth" in said and "views: from the cache" in said
    plain, enhanced = (here / "runs" / "sv3d-masked-sds" / tag for tag in ("plain", "enhanced"))
    names = sorted(path.name for path in (plain / "views").glob("0*.png"))
    pairs = [[load_image(run / "views" / name) for run in (plain, enhanced)] for name in names]
    assert len(pairs) == 5 and all(torch.equal(before[1], after[1]) for before, after in pairs)
    changed = [not torch.equal(before[0], after[0]) for before, after in pairs]
    assert changed == [True] * 4 + [False], f"the last is the picture; seed {SEED}"
    assert len(losses(enhanced, "views/rgb")) == 4 and len(read_mesh(enhanced / "export" / "mesh.glb").faces) > 10


def test_what_is_not_there_is_told_before_views_are_made(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The missing folder of the last stage's model, and that of an estimator."""
    run = ["--config", str(CONFIGS / "hifi123.yaml"), "--train", *QUICK, "image=ball.png", *TINY_REFINEMENT]
    for option in (f"{FINE}.guidance.texture.prior.weights=nowhere", "views.maps={type: monocular, depth: nowhere}"):
        assert main([*run, option]) == BAD_INPUT
        assert "nowhere: no such folder" in capsys.readouterr().err
    assert not (here / "cache").exists() and not (here / "runs").exists()


@pytest.mark.parametrize("name", ["hifi123", "hifi123-toys"])
def test_configs_freeze_the_shape_while_texture_is_refined(name: str) -> None:
    config = load_run_config(CONFIGS / f"{name}.yaml", ["image=x.png"])
    stages = config.system.options.stages
    groups = stages["fine"].optimizer.groups
    assert all(groups[key].lr.is_zero() for key in ("geometry.sdf", "geometry.deformation"))
    assert stages["fine"].guidance["texture"].type == "hifi123-rgsd"
    assert stages["fine"].guidance["texture"].options.prompt == "", "a prompt of another picture"
    assert stages["coarse"].guidance["novel"].type == "zero123-sds"
    assert config.views is not None and config.views.options.held_out
    assert torch.tensor([stage.steps for stage in stages.values()]).min() > 0
