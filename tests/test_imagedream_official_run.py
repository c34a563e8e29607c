"""ImageDream's official config with its network in miniature, from start to file."""

import os
from pathlib import Path

import pytest
from tiny_imagedream import COARSE, FINE, QUICK, write_ball, write_tiny_imagedream, write_tiny_text

from liftstudio import assets
from liftstudio.cli import main
from liftstudio.mesh_io import read_mesh

SEED = int.from_bytes(os.urandom(4), "little")
OFFICIAL = str(assets.ROOT / "configs" / "imagedream.yaml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", ["tiny-ipmv", "tiny-ipmv-local"])
def test_official_networks_from_start_to_file(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The official config with other weights, through all of its resolutions, and with a prompt too long."""
    write_tiny_imagedream(here / f"{name}.safetensors", seed=SEED)
    write_tiny_text(here / "text", seed=SEED)
    write_ball(here / "ball.png")
    mv = f"{COARSE}.guidance.mv"
    options = [
        "image=ball.png",
        "prompt=a red ball",
        f"{mv}.prior.weights={name}.safetensors",
        f"{mv}.prior.type=imagedream",
        f"{mv}.prior.text_encoder=text",
        "views.steps=2",
        "views.resolution=32",
        f"{mv}.resolution=[8,12,16]",
        f"{mv}.resolution_milestones=[1,2]",
        f"{COARSE}.steps=3",
        f"{COARSE}.geometry.grid.finest_resolution=64",
        f"{COARSE}.regularizers.lambda_orientation=0.01",
        "system.material.shaded=1",
        f"{FINE}.steps=2",
        f"{FINE}.geometry.resolution=12",
        f"{FINE}.guidance.mv.resolution=[16]",
        "export.min_component_area=0",
    ]
    assert main(["--config", OFFICIAL, "--train", *QUICK, *options]) == 0
    said = capsys.readouterr()
    assert "prompt: too long, only its first 10 tokens" in said.out + said.err
    mode = "local" if "local" in name else "pixel"
    assert f"guidance: prior ImageDream ({mode}, {name}.safetensors)" in said.out
    (run,) = (here / "runs").glob("*/a")
    rows = (run / "log.csv").read_text().splitlines()
    assert {"mv/sds", "mv/orientation", "mv/sparsity", "normal_consistency"} <= set(rows[0].split(","))
    assert len(read_mesh(run / "export" / "mesh.glb").faces) and (run / "views" / "contact_sheet.png").is_file()
