"""A folder of captures for every test in this folder."""

from pathlib import Path

import pytest
from ball_captures import write_capture
from helpers.tiny_prior import write_weights


@pytest.fixture(autouse=True)
def _folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_surface_samples: None, few_visible_points: None
) -> None:
    """A folder of two balls 1 wide, as in the protocol, and a prior of just these."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    write_weights(tmp_path / "ball.safetensors", radius=0.9)
    write_capture(tmp_path / "objects" / "blue_ball1", mesh=True)
    write_capture(tmp_path / "objects" / "red_ball", mesh=True)
