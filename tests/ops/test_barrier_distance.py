"""Minimum barrier distance: numba against the reference, and images whose distances are known."""

import pytest
import torch
from helpers.seeds import fresh_seed

from liftstudio.ops.backends import use_backend
from liftstudio.ops.barrier_distance import barrier_distance

SEEDS = [fresh_seed(__name__) for _ in range(3)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 5, 3), (3, 3, 1), (12, 9, 3), (5, 17, 2)])
def test_numba_equals_reference(seed: int, shape: tuple[int, int, int]) -> None:
    image = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    with use_backend("reference"):
        wanted = barrier_distance(image)
    torch.testing.assert_close(barrier_distance(image), wanted, atol=1e-6 * shape[2], rtol=0)  # order of the sum alone


def test_a_disc_differs_by_its_contrast_from_a_plain_or_a_shaded_ground() -> None:
    axis = torch.arange(40.0)
    disc = ((axis[:, None] - 20).square() + (axis - 18).square() < 81)[..., None]
    ground = torch.stack([axis / 40] * 40)[..., None]  # a ramp from left to right
    assert torch.equal(barrier_distance(disc.float()), disc[..., 0].float())
    shaded = barrier_distance(torch.where(disc, 3.0, ground))
    assert shaded[disc[..., 0]].min() > 2  # 3 minus the ground beside it
    assert shaded[~disc[..., 0]].max() < 0.6  # the way to the nearer side, or up and down at one level
    assert (shaded[[0, -1]] == 0).all() and (shaded[:, [0, -1]] == 0).all()


def test_channels_add_up() -> None:
    image = torch.rand(9, 11, 3)
    each = torch.stack([barrier_distance(image[..., [channel]]) for channel in range(3)])
    torch.testing.assert_close(barrier_distance(image), each.sum(0), atol=1e-6, rtol=0)


def test_wrong_shape() -> None:
    with pytest.raises(ValueError, match="image"):
        barrier_distance(torch.rand(4, 5))
