"""Options that have no effect before the export may be changed for a finished run; its messages say which."""

import re
from pathlib import Path

import pytest
from helpers.tiny_project import write_capture

from liftstudio.cli.command_line import main

CONFIG = """\
data: {path: capture}
views: {type: posed-images, path: "${data.path}"}
system:
  type: coarse-to-fine
  stages:
    only:
      steps: 1
      geometry: {type: instant-ngp, surface_resolution: 16}
      renderer: {type: volume, grid_resolution: 16, samples_across: 32}
      guidance:
        views: {type: reconstruction, views_per_step: 1}
test: {frames: 1, size: 16, stills: 0}
log: {images_every: 0, tensorboard: false}
export: {formats: [ply], texture_size: 64}
"""


def test_the_advised_level_is_exported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(here / "capture", size=32)
    (here / "blob.yaml").write_text(CONFIG)
    assert main(["--config", "blob.yaml", "--train", "device=cpu", "tag=a"]) == 2
    advice = re.search(r"no surface to export: .*; try (\S+)$", capsys.readouterr().err.strip())
    assert advice is not None and advice[1].startswith("system.stages.only.geometry.surface_level=")
    run = ["--config", "runs/blob/a"]
    assert main([*run, "--export", advice[1], "system.stages.only.geometry.surface_resolution=12"]) == 0
    assert Path("runs/blob/a/export/mesh.ply").is_file()
    assert main([*run, "--resume", advice[1]]) == 0
    capsys.readouterr()
    assert main([*run, "--export", advice[1], "system.stages.only.renderer.samples_across=16"]) == 2
    assert "samples_across: the run in runs/blob/a was started with 32, not 16" in capsys.readouterr().err
