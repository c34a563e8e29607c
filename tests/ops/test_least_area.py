"""Least-area segmentation: numba against the reference, and shapes whose optimum is known."""

import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.ops.backends import use_backend
from liftstudio.ops.least_area import least_area

SEEDS = [fresh_seed(__name__) for _ in range(3)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (17, 9, 12)])
def test_numba_equals_reference(seed: int, shape: tuple[int, int, int]) -> None:
    data = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    with use_backend("reference"):
        wanted = least_area(data.double(), 30)
    # 30 contracting iterations of float32 arithmetic: rounding stays near 1e-6
    torch.testing.assert_close(least_area(data, 30).double(), wanted, atol=1e-5, rtol=0)


def test_repeats_to_the_bit() -> None:
    data = torch.randn(24, 24, 24)
    assert torch.equal(least_area(data, 20), least_area(data, 20))


def test_a_gap_without_data_is_closed_by_a_flat_surface() -> None:
    """An open box with known walls, and known outside only far below it: the lid must be flat at the rim."""
    data = torch.full((24, 24, 32), 3.0)
    data[4:20, 4:20, :20] = 0.0  # unknown: inside the box and a shaft below it
    data[4:20, 4:20, 18:20] = -3.0  # the seen top
    for side in (4, 5, 18, 19):
        data[side, 4:20, 10:20] = -3.0  # seen walls, down to z = 10
        data[4:20, side, 10:20] = -3.0
    inside = least_area(data, 400) > 0.5
    assert inside[4:20, 4:20, 12:20].all()
    assert not inside[:, :, :8].any()


def test_small_specks_are_dropped() -> None:
    data = torch.zeros(16, 16, 16)
    data[8, 8, 8] = -2.0  # worth less than the area of one cell
    data[0] = 3.0
    assert not (least_area(data, 300) > 0.5).any()
