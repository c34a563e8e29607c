"""Noise levels, the Euler solver, guidance, and parameterizations of the network output."""

import math

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.priors import parameterization as p
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.samplers import euler, karras_sigmas

SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


class Gaussian:
    """Normal data with known optimal denoiser and ODE solution."""

    def __init__(self, generator: torch.Generator, shape: tuple[int, ...]) -> None:
        self.mean = torch.randn(shape, generator=generator)
        self.deviation = 0.3 + torch.rand(shape, generator=generator)

    def denoise(self, z: Tensor, sigma: float) -> Tensor:
        variance = self.deviation**2
        return self.mean + variance / (variance + sigma**2) * (z - self.mean)

    def solution(self, start: Tensor, sigma: float) -> Tensor:
        """Return the end of the probability-flow ODE that starts at `start` at noise level `sigma`."""
        return self.mean + (start - self.mean) * self.deviation / (self.deviation**2 + sigma**2).sqrt()


def test_euler_converges_to_the_exact_solution(generator: torch.Generator) -> None:
    data, noise = Gaussian(generator, (4, 3, 5, 5)), torch.randn(4, 3, 5, 5, generator=generator)
    sigma_max = 80.0
    exact = data.solution(noise * math.sqrt(1 + sigma_max**2), sigma_max)

    def error(steps: int) -> float:
        return (euler(data.denoise, noise, karras_sigmas(steps, 0.002, sigma_max)) - exact).abs().max().item()

    coarse, fine = error(100), error(400)
    assert fine < 0.05, SEED
    assert 2.5 < coarse / fine < 6, "a method of first order: a quarter of the step, a quarter of the error"


def test_euler_tells_every_step(generator: torch.Generator) -> None:
    data, noise = Gaussian(generator, (2, 3)), torch.randn(2, 3, generator=generator)
    sigmas = karras_sigmas(5, 0.1, 10.0)
    asked: list[float] = []
    told: list[tuple[int, Tensor]] = []

    def denoise(z: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return data.denoise(z, sigma)

    final = euler(denoise, noise, sigmas, lambda step, z: told.append((step, z)))
    assert [step for step, _ in told] == [0, 1, 2, 3, 4] and torch.equal(told[-1][1], final)
    assert asked == sigmas[:-1].tolist()
    assert torch.equal(euler(data.denoise, noise, sigmas), final)
    # The last step goes to noise level 0: to the estimate itself.
    torch.testing.assert_close(final, data.denoise(told[-2][1], asked[-1]))


def test_noise_levels() -> None:
    sigmas = karras_sigmas(50, 0.002, 700.0)
    assert len(sigmas) == 51 and sigmas[-1] == 0
    torch.testing.assert_close(sigmas[[0, 49]], torch.tensor([700.0, 0.002]), rtol=1e-5, atol=0)
    assert (sigmas.diff() < 0).all()
    assert karras_sigmas(1, 0.002, 80.0).tolist() == pytest.approx([80.0, 0.0], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 0.1, 1.0), "steps: expected 1"), ((5, 0.0, 1.0), "0 < sigma_min"), ((5, 2.0, 1.0), "2 and 1")],
)
def test_impossible_noise_levels(arguments: tuple[int, float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        karras_sigmas(*arguments)


def test_guidance_is_per_frame(generator: torch.Generator) -> None:
    conditional, unconditional = torch.randn(2, 3, 4, 5, 5, generator=generator)
    result = guided(conditional, unconditional, torch.tensor([0.0, 1.0, 2.0]))
    expected = torch.stack([unconditional[0], conditional[1], 2 * conditional[2] - unconditional[2]])
    torch.testing.assert_close(result, expected)


SIGMAS = [0.01, 0.5, 3.0, 100.0]


@pytest.mark.parametrize("sigma", SIGMAS)
def test_parameterizations_are_conversions_of_one_another(sigma: float, generator: torch.Generator) -> None:
    x0, epsilon = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    z = x0 + sigma * epsilon
    v = (epsilon - sigma * x0) / math.sqrt(1 + sigma**2)
    torch.testing.assert_close(p.epsilon_from_x0(z, x0, sigma), epsilon)
    torch.testing.assert_close(p.x0_from_epsilon(z, epsilon, sigma), x0)
    torch.testing.assert_close(p.v_from_x0(z, x0, sigma), v)
    torch.testing.assert_close(p.x0_from_v(z, v, sigma), x0)
    alpha_bar = p.alpha_bar_from_sigma(torch.tensor(sigma, dtype=torch.float64))
    assert p.sigma_from_alpha_bar(alpha_bar).item() == pytest.approx(sigma)
    # The definition, in the variance-preserving form.
    torch.testing.assert_close(v, alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_scaling_is_that_of_v_prediction(sigma: float, generator: torch.Generator) -> None:
    z, v = torch.randn(2, 64, generator=generator, dtype=torch.float64)
    scaling = p.v_scaling(torch.tensor(sigma, dtype=torch.float64))
    torch.testing.assert_close(scaling.c_out * v + scaling.c_skip * z, p.x0_from_v(z, v, sigma))
    assert scaling.c_noise.item() == pytest.approx(0.25 * math.log(sigma))
    data = 0.5 * torch.randn(100_000, generator=generator)
    noisy = data + sigma * torch.randn(100_000, generator=generator)
    assert (scaling.c_in * noisy).std().item() <= 1.02, "the network's input is of unit scale at most"
