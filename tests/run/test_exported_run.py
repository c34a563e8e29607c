"""Exports and relighting of a finished run with a fitted light: the meshes' places, and pictures under other light."""

import json
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from helpers.tiny_project import write_capture

from liftstudio.cli.command_line import main
from liftstudio.data.environment import save_environment

CONFIG = """\
data: {path: capture}
views: {type: posed-images, path: "${data.path}", mesh: truth.ply}
system:
  type: coarse-to-fine
  light: {type: spherical-gaussians, lobes: 12}
  stages:
    only:
      steps: 1
      geometry: {type: mesh, path: truth.ply, grid: {levels: 2, log2_table_size: 9}}
      renderer: surface
      guidance:
        views: {type: reconstruction, views_per_step: 1}
test: {frames: 4, size: 64, stills: 0}
log: {images_every: 0, tensorboard: false}
export: {formats: [glb], texture_size: 64}
"""
RUN = ["--config", "runs/ball/a"]
RELIGHT = ["relight", "runs/ball/a"]


def frames(path: Path) -> list[np.ndarray]:
    reader = imageio_ffmpeg.read_frames(path)
    width, height = next(reader)["size"]
    return [np.frombuffer(data, np.uint8).reshape(height, width, 3).astype(float) for data in reader]


@pytest.fixture
def run(here: Path, few_surface_samples: None) -> Path:
    import trimesh

    write_capture(here / "capture", size=32)
    trimesh.creation.icosphere(3, radius=0.6).export(here / "truth.ply")
    (here / "ball.yaml").write_text(CONFIG)
    assert main(["--config", "ball.yaml", "--train", "device=cpu", "tag=a"]) == 0
    return here / "runs/ball/a"


def test_a_run_is_exported_and_relit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"mesh.glb", "light.json", "light.hdr", "light.png"} <= {path.name for path in (run / "export").iterdir()}
    measured = json.loads((run / "metrics.json").read_text())["mesh"]
    options = ["export.longest_side_mm=80", "export.origin=bottom", "export.up=y", "export.formats=[obj,glb]"]
    assert main([*RUN, "--export", *options]) == 0
    placed = json.loads((run / "metrics.json").read_text())["mesh"]
    assert placed["chamfer"] == pytest.approx(measured["chamfer"], rel=0.05)  # whatever the size in the file

    assert main([*RELIGHT, "--light", "runs/ball/a/export/light.hdr"]) == 0
    plain, relit = frames(run / "test/turntable.mp4"), frames(run / "relit/light.mp4")
    for one, other in zip(plain, relit, strict=True):  # its own light, but for the Gaussian that stands for the cosine
        assert np.abs(one - other).mean() < 6
    lamp = torch.zeros(16, 32, 3)
    lamp[7:9, 7:9, 0] = 30.0  # red, from +y
    save_environment(Path("lamp.hdr"), lamp)
    assert main([*RELIGHT, "--light", "lamp.hdr", "--exposure", "-1"]) == 0
    reds = [(image[..., 0] * (image[..., 2] < 60)).sum() for image in frames(run / "relit/lamp.mp4")]
    assert max(reds) == reds[0]  # the frames are at azimuths 90, 180, 270 and 0
    assert min(reds) == reds[2]
    capsys.readouterr()
    for arguments, message in (
        ([], "error: the following arguments are required: --light"),
        (["--light", "none.hdr"], "error: --light: none.hdr: no such file"),
        (["--light", "truth.ply"], "error: truth.ply: expected an environment map as Radiance HDR (.hdr)"),
        (["--light", "lamp.hdr", "--exposure=nan"], "expected stops from -20 to 20, got 'nan'"),
    ):
        assert main([*RELIGHT, *arguments]) == 2
        assert message in capsys.readouterr().err
