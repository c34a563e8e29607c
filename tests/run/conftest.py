"""The folder in which the tiny ball's prior generates views for the tiny system."""

from pathlib import Path

import pytest
from helpers.tiny_prior import TinyBall, write_ball, write_weights

CONFIG = """\
image: ???
prior: {type: tiny-ball, weights: ball.safetensors}
views:
  type: sv3d-views
  image: ${image}
  elevation_deg: 10
  prior: ${prior}
  orbit: {type: sine, frames: 6, amplitude_deg: 30}
  steps: 3
  resolution: 48
system:
  type: tiny-sphere
test: {frames: 2, size: 16, stills: 1}
log: {images_every: 0, tensorboard: false}
export: {formats: [ply], texture_size: 64}
"""


@pytest.fixture
def ball_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(project / "cache"))
    (project / "ball.yaml").write_text(CONFIG)
    write_ball(project / "photo.png")
    write_weights(project / "ball.safetensors")
    TinyBall.prompts.clear()
    return project
