"""`views.elevation_deg: auto`: what is estimated, said, saved and repeated."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_prior import TinyBall

from liftstudio.core import registry
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.priors.elevation import Elevation
from liftstudio.views import elevation


@pytest.fixture(autouse=True)
def folder(ball_folder: Path) -> Path:
    return ball_folder


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The elevation and the error that the network says, and how often it was asked."""
    said = [23.44, 4.0, 0]

    def ask(self: object, image: torch.Tensor) -> Elevation:
        said[2] += 1
        return Elevation(*(torch.tensor([value]) for value in said[:2]))

    monkeypatch.setattr(elevation.ElevationEstimator, "__call__", ask)
    return said


def make(source: str = "sv3d-views", **options: Any) -> ReferenceViews:
    prior = {"type": "tiny-ball", "weights": "ball.safetensors"}
    known = registry.find(source, "views")
    more = {"orbit": {"frames": 9}} if source == "sv3d-views" else {}
    data = {"image": "ball.png", "steps": 2, "resolution": 32, "prior": prior, **more, **options}
    return known(parse(data, known.Config, "views"), device=torch.device("cpu")).load()


def test_the_estimate_is_used_and_said(found: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "liftstudio"):
        views = make()
    assert views.cameras.elevation_deg[-1].item() == pytest.approx(23.4, abs=1e-3)
    assert views.elevation_estimate == (23.4, 4.0) and views.training().elevation_estimate == (23.4, 4.0)
    assert "elevation is estimated as 23.4 degrees, +-4; to set it by hand: views.elevation_deg=23.4" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_value_by_hand_gives_the_same_views_from_the_cache(found: list[float]) -> None:
    estimated, by_hand = make(), make(elevation_deg=23.4)
    assert torch.equal(estimated.images, by_hand.images) and len(TinyBall.prompts) == 1
    assert by_hand.elevation_estimate is None and found[2] == 1


DOUBTS = {
    "estimated as 23 degrees, +-14, which is doubtful; to set it by hand: views.elevation_deg=23": (23.0, 14.0),
    "estimated as 58.7 degrees, +-3, at the end of what the estimate knows (-20 to 60)": (58.7, 3.0),
    "estimated as -19 degrees, +-3, at the end of what the estimate knows (-20 to 60)": (-19.0, 3.0),
}


@pytest.mark.parametrize("message", DOUBTS)
def test_doubts_are_warnings(message: str, found: list[float], caplog: pytest.LogCaptureFixture) -> None:
    found[:2] = DOUBTS[message]
    make()
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warned) == 1 and message in warned[0]


def test_an_estimate_outside_the_methods_range_is_limited(
    found: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    found[0] = 47.0
    views = make("syncdreamer-views", instances=1)
    assert views.cameras.elevation_deg[-1].item() == pytest.approx(40, abs=1e-3)
    assert "estimated as 40 degrees, +-4 (limited, it seems to be 47, but the method takes -10 to 40)" in caplog.text


def test_an_estimate_that_the_orbit_does_not_allow_is_bad_input(found: list[float]) -> None:
    found[0] = 59.5
    with pytest.raises(InputError, match="elevation_deg and amplitude_deg: elevations must stay within"):
        make()
    assert not TinyBall.prompts


@pytest.mark.parametrize("value", ["automatic", "ten", [10]])
def test_what_is_neither_a_number_nor_auto(value: Any) -> None:
    with pytest.raises(InputError, match=r"views\.elevation_deg: expected .* or .*auto.*, got"):
        make(elevation_deg=value)


def test_four_views_are_at_the_estimated_elevation(found: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    for source in ("imagedream-views", "zero123-views"):
        torch.testing.assert_close(make(source).cameras.elevation_deg, torch.full((5 - (source[0] == "z"),), 23.4))


def test_one_view_relative_to_an_unknown_elevation(found: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TinyBall, "check_cameras", lambda *_: None)
    assert len(make("zero123-views", azimuths_deg=[0], elevations_deg=[50])) == 2
    for elevations_deg in ([], [23.4]):
        with pytest.raises(InputError, match="the only view is the input image's own"):
            make("zero123-views", azimuths_deg=[0], elevations_deg=elevations_deg)
