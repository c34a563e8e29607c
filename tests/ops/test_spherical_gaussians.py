import math

import numpy as np
import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.spherical_gaussians import COSINE_AMPLITUDE, COSINE_SHARPNESS, inner_product, irradiance

SEEDS = [fresh_seed(__name__) for _ in range(3)]


def unit(generator: torch.Generator, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1).to(
        dtype
    )


def quadrature(axis: Tensor, sharpness: float, other_axis: Tensor, other_sharpness: float) -> float:
    """Integral of two spherical Gaussians of amplitude 1: Gauss-Legendre in the height along `axis`, trapezoid around.

    The integrand is analytic, so both rules converge geometrically; 400 x 400 is exact to rounding here.
    """
    heights, weights = np.polynomial.legendre.leggauss(400)
    angles = np.arange(400) * (2 * math.pi / 400)
    cosine = float(axis @ other_axis)
    sine = math.sqrt(max(1 - cosine * cosine, 0))
    dots = heights[:, None] * cosine + np.sqrt(1 - heights[:, None] ** 2) * sine * np.cos(angles)
    values = np.exp(sharpness * (heights[:, None] - 1) + other_sharpness * (dots - 1))
    return float(weights @ values.sum(1)) * (2 * math.pi / 400)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("sharpness", "other"), [(0.3, 0.3), (8.0, 2.133), (2.133, 2.133), (60.0, 15.0)])
def test_inner_product_is_the_integral(sharpness: float, other: float, seed: int) -> None:
    a, b = unit(torch.Generator().manual_seed(seed), 2)
    for second in (b, a, -a):
        exact = quadrature(a, sharpness, second, other)
        for dtype, tolerance in (
            (torch.float64, 1e-9),
            (torch.float32, 1e-5),
        ):  # float32: the cosine's last bit, times s
            ours = inner_product((a @ second).to(dtype), *torch.tensor([sharpness, 1.0], dtype=dtype), other, 1.0)
            assert ours.item() == pytest.approx(exact, rel=tolerance, abs=1e-30)


@pytest.mark.parametrize("seed", SEEDS)
def test_irradiance_is_the_sum_of_the_integrals_over_pi(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    normals, axes = unit(generator, 5), unit(generator, 4)
    sharpness = 0.5 + 30 * torch.rand(4, generator=generator, dtype=torch.float64)
    amplitude = 2 * torch.rand(4, generator=generator, dtype=torch.float64)
    expected = [
        sum(
            amplitude[k].item() * COSINE_AMPLITUDE * quadrature(axes[k], sharpness[k].item(), n, COSINE_SHARPNESS)
            for k in range(4)
        )
        / math.pi
        for n in normals
    ]
    ours = irradiance(normals, axes, sharpness, amplitude)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64)[:, None], rtol=1e-9, atol=0)
    single = irradiance(*(x.float() for x in (normals, axes, sharpness, amplitude)))
    torch.testing.assert_close(single.double(), ours, rtol=1e-5, atol=1e-6)  # float32 dot products, times the sharpness


def test_a_lobe_facing_the_surface_is_within_the_known_error_of_true_cosine_shading() -> None:
    """The cosine lobe is itself a fit: 1 to 16 % off for a light in front of the surface."""
    normal = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    heights, weights = np.polynomial.legendre.leggauss(400)
    for sharpness in (2.0, 8.0, 20.0):
        exact = float(weights @ (np.exp(sharpness * (heights - 1)) * np.clip(heights, 0, None))) * 2  # 2 pi / pi
        ours = irradiance(normal, normal, torch.tensor([sharpness]).double(), torch.ones(1).double()).item()
        assert ours == pytest.approx(exact, rel=0.16)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_those_of_finite_differences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        unit(generator, 3),
        unit(generator, 4),
        0.2 + 10 * torch.rand(4, generator=generator, dtype=torch.float64),
        0.1 + torch.rand(4, generator=generator, dtype=torch.float64),
    ]
    for x in inputs:
        x.requires_grad_()
    assert torch.autograd.gradcheck(irradiance, inputs)
    assert torch.autograd.gradgradcheck(irradiance, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_where_the_two_lobes_cancel(dtype: torch.dtype) -> None:
    """Equal sharpness, opposite axes: d = 0. There d/d cosine of sinh(d)/d is sharpness^2 / 3, by its series."""
    cosine = torch.tensor([-1.0, -1.0 + 1e-6], dtype=dtype, requires_grad=True)
    sharpness = torch.tensor(COSINE_SHARPNESS, dtype=dtype, requires_grad=True)
    value = inner_product(cosine, sharpness, torch.tensor(1.0, dtype=dtype), COSINE_SHARPNESS, 1.0)
    grads = torch.autograd.grad(value.sum(), (cosine, sharpness))
    at_zero = 4 * math.pi * math.exp(-2 * COSINE_SHARPNESS)
    torch.testing.assert_close(value, torch.full_like(value, at_zero), rtol=1e-5, atol=0)
    torch.testing.assert_close(grads[0], torch.full_like(value, at_zero * COSINE_SHARPNESS**2 / 3), rtol=1e-5, atol=0)
    assert grads[1].isfinite()


def test_both_branches_meet() -> None:
    """d^2 = 0.25 is where the series takes over."""
    sharpness = torch.tensor(1.0, dtype=torch.float64)
    cosine = torch.tensor(0.25 / 2 - 1, dtype=torch.float64) + torch.tensor([-1e-9, 1e-9], dtype=torch.float64)
    below, above = inner_product(cosine, sharpness, torch.tensor(1.0).double(), 1.0, 1.0)
    assert below.item() == pytest.approx(above.item(), rel=1e-8)


def test_sharp_lobes_neither_overflow_nor_vanish() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0]])
    sharp = irradiance(up, up, torch.tensor([1e4]), torch.tensor([1e4]))
    # A very sharp lobe is a point light: its integral 2 pi a / s, times the cosine lobe's height, over pi.
    assert sharp.item() == pytest.approx(2 * COSINE_AMPLITUDE, rel=1e-3)
    behind = irradiance(-up, up, torch.tensor([1e4]), torch.tensor([1.0]))
    assert 0 <= behind.item() < 1e-5


def test_never_negative_and_empty_inputs() -> None:
    up = torch.tensor([[0.0, 0.0, 1.0]])
    assert irradiance(up, up, torch.tensor([5.0]), torch.tensor([-1.0])).item() == 0
    assert irradiance(up[:0], up, torch.ones(1), torch.ones(1)).shape == (0, 1)
    assert torch.equal(irradiance(up, up[:0], torch.ones(0), torch.ones(0)), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="sharpness: expected"):
        irradiance(up, up, torch.ones(2), torch.ones(1))
