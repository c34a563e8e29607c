"""Ancestral sampling (DDIM with eta = 1) and its noise levels."""

import math

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.priors.parameterization import sigma_from_alpha_bar
from liftstudio.priors.samplers import ancestral, ddim_sigmas, karras_sigmas

SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def endless(generator: torch.Generator, *shape: int):  # type: ignore[no-untyped-def]
    while True:
        yield torch.randn(shape, generator=generator)


def levels() -> Tensor:
    """Return the noise levels of Stable Diffusion's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return sigma_from_alpha_bar((1 - betas).cumprod(0))


@pytest.mark.parametrize("steps", [4, 13, 50])
def test_it_is_ddim_with_eta_1(steps: int, generator: torch.Generator) -> None:
    """Compared with diffusers' scheduler on the same noise, in its latent scaling, without noise in the last step."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    sigmas, noises = ddim_sigmas(levels(), steps), torch.randn(steps, 2, 4, 6, 6, generator=generator)
    torch.testing.assert_close(sigmas[:-1], levels()[scheduler.timesteps], rtol=0, atol=0)
    mixing = 0.3 * torch.randn(4, 4, generator=generator)

    def epsilon(x: Tensor) -> Tensor:
        return torch.einsum("ij,bjhw->bihw", mixing, torch.sin(x))

    x = noises[0]
    for step, timestep in enumerate(scheduler.timesteps):
        noise = noises[step + 1] if step + 1 < steps else torch.zeros_like(x)
        x = scheduler.step(epsilon(x), timestep, x, eta=1.0, variance_noise=noise).prev_sample

    def denoise(z: Tensor, sigma: float) -> Tensor:
        return z - sigma * epsilon(z / math.sqrt(1 + sigma**2))

    torch.testing.assert_close(ancestral(denoise, iter(noises), sigmas), x, rtol=1e-4, atol=2e-4)  # float32, many steps


def test_it_draws_from_the_distribution(generator: torch.Generator) -> None:
    """For normal data, with a known optimal denoiser, samples have the right mean and standard deviation."""
    mean, deviation, count = 0.7, 0.4, 40_000

    def denoise(z: Tensor, sigma: float) -> Tensor:
        return mean + deviation**2 / (deviation**2 + sigma**2) * (z - mean)

    samples = ancestral(denoise, endless(generator, count), karras_sigmas(400, 0.002, 80.0))
    assert samples.mean().item() == pytest.approx(mean, abs=5 * deviation / math.sqrt(count))
    assert samples.std().item() == pytest.approx(deviation, rel=0.03)  # 400 steps: 1.5 % too narrow


def test_it_tells_every_step_and_draws_no_noise_in_the_last(generator: torch.Generator) -> None:
    sigmas, told, asked = karras_sigmas(5, 0.1, 10.0), list[tuple[int, Tensor]](), list[float]()
    noises = iter(torch.randn(5, 3, 4, generator=generator))

    def denoise(z: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return 0.5 * z

    final = ancestral(denoise, noises, sigmas, lambda step, z: told.append((step, z)))
    assert [step for step, _ in told] == [0, 1, 2, 3, 4] and asked == sigmas[:-1].tolist()
    assert next(noises, None) is None, "the start and four steps"
    assert torch.equal(final, 0.5 * told[-2][1])


@pytest.mark.parametrize("steps", [0, 1000])
def test_impossible_numbers_of_steps(steps: int) -> None:
    with pytest.raises(InputError, match=f"steps: expected 1 to 999, got {steps}"):
        ddim_sigmas(levels(), steps)


@pytest.mark.parametrize(("steps", "fitting"), [(501, 500), (400, 333), (170, 166)])
def test_numbers_of_steps_that_miss_the_noisiest(steps: int, fitting: int) -> None:
    if steps == 170:  # 85 % of the schedule are enough
        assert ddim_sigmas(levels(), steps)[0] > 0.4 * levels()[-1]
    else:
        with pytest.raises(InputError, match=f"{steps} would start below full noise, at timestep .*; use {fitting} "):
            ddim_sigmas(levels(), steps)
    assert ddim_sigmas(levels(), fitting)[0] > 0.9 * levels()[-1]
