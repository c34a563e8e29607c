"""The network that estimates elevations: framing, what its distribution says, the bundled weights."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from liftstudio.core import assets
from liftstudio.core.errors import InputError
from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors import elevation
from liftstudio.priors.elevation import (
    BOX_SHARE,
    SIDE,
    STEP_DEG,
    ElevationEstimator,
    candidates_deg,
    estimate,
    framed,
    read,
)
from liftstudio.synthetic import make_object, render, split


def card(left: int, top: int, right: int, bottom: int, size: int = 48) -> Tensor:
    """Return an image [1, 4, size, size] of a card whose left half is red and right half blue."""
    image = torch.ones(1, 4, size, size)
    image[:, 3] = -1
    image[:, 3, top:bottom, left:right] = 1
    image[:, 1, top:bottom, left:right] = -1
    image[:, 2, top:bottom, left : (left + right) // 2] = -1
    image[:, 0, top:bottom, (left + right) // 2 : right] = -1
    return image


def box_of(image: Tensor) -> list[int]:
    rows, columns = (torch.nonzero((image[3] > 0).any(axis)).flatten() for axis in (1, 0))
    return [int(end) for ends in ((columns[0], columns[-1] + 1), (rows[0], rows[-1] + 1)) for end in ends]


@pytest.mark.parametrize("corners", [(4, 10, 24, 44), (20, 2, 46, 12), (0, 0, 48, 48)])
def test_the_objects_box_is_centred_and_fills_a_share_of_the_frame(corners: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = corners
    (image,) = framed(card(*corners))
    longer, shorter = max(right - left, bottom - top), min(right - left, bottom - top)
    half_long, half_short = BOX_SHARE * SIDE / 2, BOX_SHARE * SIDE / 2 * shorter / longer
    across, down = (half_long, half_short) if right - left == longer else (half_short, half_long)
    middle = SIDE / 2
    expected = [middle - across, middle + across, middle - down, middle + down]
    assert box_of(image) == pytest.approx(expected, abs=1.01)
    assert image[0, 32, int(middle - across / 2)] > 0.99 and image[2, 32, int(middle + across / 2)] > 0.99


def test_motions_mirror_turn_and_zoom() -> None:
    image = card(10, 10, 40, 40)
    identity, mirror = torch.eye(2, 3)[None], torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    torch.testing.assert_close(framed(image, identity), framed(image))
    torch.testing.assert_close(framed(image, mirror), framed(image).flip(-1), atol=1e-5, rtol=0)
    left, right, top, bottom = box_of(framed(image, 2 * identity)[0])
    assert (right - left, bottom - top) == (BOX_SHARE * SIDE / 2, BOX_SHARE * SIDE / 2)


@pytest.mark.parametrize("true_deg", [3.7, 20.0, 31.3])
def test_the_estimate_is_the_median_and_its_error_the_mean_distance(true_deg: float) -> None:
    """Of a normal distribution with standard deviation s, the mean distance from the median is s sqrt(2 / pi)."""
    away = (candidates_deg() - true_deg) / 6
    found = read(-0.5 * away.square()[None] + 3.0)
    assert float(found.elevation_deg) == pytest.approx(true_deg, abs=0.1)
    assert float(found.error_deg) == pytest.approx(6 * math.sqrt(2 / math.pi), abs=0.2)


def test_a_certain_network_is_certain() -> None:
    logits = torch.full((1, len(candidates_deg())), -30.0)
    logits[0, 5] = 30.0
    assert float(read(logits).elevation_deg) == pytest.approx(float(candidates_deg()[5]), abs=1e-3)
    assert float(read(logits).error_deg) < 0.01 < STEP_DEG


def rendered_toys(elevations_deg: list[float]) -> Tensor:
    """Return framed images [N, 4, SIDE, SIDE] of unseen toy figures, each from near its front."""
    images = []
    for number, elevation_deg in enumerate(elevations_deg):
        camera = orbit_cameras(
            torch.tensor([20.0 * (number % 5) - 40]), torch.tensor([elevation_deg]), 3.6, 33.8, 96, 96
        )
        seen = render(make_object("toy", split(number, "toy", "unseen")), camera)
        images.append(2 * torch.cat([seen.rgb, seen.alpha], dim=-1).permute(0, 3, 1, 2) - 1)
    return framed(torch.cat(images))


def test_the_bundled_network_knows_unseen_toys_better_than_their_mean() -> None:
    """16 toys at elevations whose mean distance from their mean is 10 degrees."""
    true_deg = torch.linspace(-10, 30, 16)
    found = estimate(ElevationEstimator().network, rendered_toys(true_deg.tolist()))
    assert (found.elevation_deg - true_deg).abs().mean() < 7.5
    assert 2 < found.error_deg.mean() < 12


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(assets.packaged("assets") / "priors" / "elevation", tmp_path / "assets")
    path = tmp_path / "assets" / "weights.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(assets, "PACKAGE", tmp_path)
    monkeypatch.setattr(elevation, "WEIGHTS", "asset://weights.safetensors")
    with pytest.raises(InputError, match=r"weights\.safetensors: damaged, its SHA-256 differs from"):
        ElevationEstimator()
