"""Lifting: the numba kernel compared with the reference, and that with its definition and finite differences."""

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.data.cameras import orbit_cameras
from liftstudio.ops.backends import use_backend
from liftstudio.ops.lifting import lift
from liftstudio.priors.projections import projections

SEEDS = [fresh_seed(__name__) for _ in range(3)]
# batch, views, height, width, channels, points: one view, one pixel, one point, more points than a job takes
SHAPES = [(2, 3, 12, 9, 5, 2500), (1, 1, 8, 8, 2, 300), (1, 4, 1, 1, 3, 40), (3, 2, 5, 1, 1, 1)]


def random_inputs(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, projections and points; cameras are near and far, so points are also outside and behind them."""
    b, t, h, w, c, n = shape
    features = torch.randn(b, t, h, w, c, generator=generator)
    azimuth, elevation, distance = torch.rand(3, b * t, generator=generator)
    distance[0] = 0
    cameras = orbit_cameras(360 * azimuth, 120 * elevation - 60, 0.5 + 3 * distance, 40.0, h, w)
    points = 3 * torch.rand(n, 3, generator=generator) - 1.5
    return features, projections(cameras).unflatten(0, (b, t)), points


def reference(features: Tensor, matrices: Tensor, points: Tensor) -> Tensor:
    with use_backend("reference"):
        return lift(features, matrices, points)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_numba_equals_reference(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = random_inputs(shape, generator)
    wanted_features = inputs[0].double().requires_grad_()
    wanted = reference(wanted_features, inputs[1].double(), inputs[2].double())
    features = inputs[0].clone().requires_grad_()
    found = lift(features, *inputs[1:])
    assert found.shape == (shape[0], shape[5], 2 * shape[4])
    # a projection is off by up to 1e-4 pixels next to the camera's plane, and neighbours differ by up to about 6
    torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=0)
    assert (found.double() - wanted).abs().mean() < 1e-5
    grad = torch.randn(found.shape, generator=generator)
    found.backward(grad)
    wanted.backward(grad.double())
    assert features.grad is not None and wanted_features.grad is not None
    error = (features.grad.double() - wanted_features.grad).norm() / wanted_features.grad.norm()
    assert error < 1e-4  # rounding of float32, and of the few points next to a camera's plane


def test_every_part_of_the_border_is_met() -> None:
    """The random points above cover all cases: inside the image, beyond each side, and behind the camera."""
    _, matrices, points = random_inputs(SHAPES[0], torch.Generator().manual_seed(SEEDS[0]))
    x, y, w = (matrices.double()[..., :3] @ points.double().T + matrices[..., 3:]).unbind(-2)
    u, v = x / w.clamp_min(1e-3), y / w.clamp_min(1e-3)
    for seen in (u < -1, u > 1, v < -1, v > 1, w < 1e-3, (u.abs() < 1) & (v.abs() < 1)):
        assert seen.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_of_the_reference(seed: int) -> None:
    features, matrices, points = random_inputs((2, 3, 4, 5, 2, 7), torch.Generator().manual_seed(seed))
    inputs = features.double().requires_grad_(), matrices.double(), points.double()
    assert torch.autograd.gradcheck(lambda f: reference(f, *inputs[1:]), inputs[:1])


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_point_on_a_pixels_centre_has_that_pixels_features(backend: str) -> None:
    features = torch.randn(1, 2, 6, 8, 3)
    plain = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # u = x, v = y
    matrices = torch.stack([plain, plain * torch.tensor([-1.0, 1, 1])[:, None]])[None]  # the second view is mirrored
    row, column = 4, 2
    points = torch.tensor([[(2 * column + 1) / 8 - 1, (2 * row + 1) / 6 - 1, 0.3]])
    with use_backend(backend):
        mean, variance = lift(features, matrices, points)[0, 0].split(3)
    first, second = features[0, 0, row, column], features[0, 1, row, 7 - column]
    torch.testing.assert_close(mean, (first + second) / 2, atol=1e-5, rtol=0)  # float32 rounding
    torch.testing.assert_close(variance, ((first - second) / 2).square(), atol=1e-5, rtol=0)


def test_one_view_has_no_variance() -> None:
    features, matrices, points = random_inputs((1, 1, 6, 6, 4, 100), torch.Generator().manual_seed(SEEDS[0]))
    assert lift(features, matrices, points)[..., 4:].abs().max() < 1e-5  # E(f^2) - E(f)^2 in float32


def test_repeats_to_the_bit() -> None:
    inputs = random_inputs(SHAPES[0], torch.Generator().manual_seed(SEEDS[0]))
    results = []
    for _ in range(2):
        features = inputs[0].clone().requires_grad_()
        found = lift(features, *inputs[1:])
        found.square().sum().backward()
        assert features.grad is not None
        results.append((found.detach(), features.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_bad_inputs() -> None:
    features, matrices, points = random_inputs((1, 2, 4, 4, 3, 10), torch.Generator().manual_seed(SEEDS[0]))
    with pytest.raises(ValueError, match="projections: expected shape"):
        lift(features, matrices[:, :1], points)
    with pytest.raises(ValueError, match="points: expected shape"):
        lift(features, matrices, points[:, :2])
    for broken in ((matrices.index_fill(1, torch.tensor(1), torch.nan), points), (matrices, points / 0)):
        with pytest.raises(ValueError, match="finite"):
            lift(features, *broken)
