"""Shared parts of priors that ImageDream uses: schedule, steps, contrast, loss, pipeline folders."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from helpers.seeds import fresh_seed
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.core.weights import open_weights
from liftstudio.methods.imagedream.denoising import rescaled
from liftstudio.priors.distillation import reconstruction_loss, sds_loss, sds_weight
from liftstudio.priors.parameterization import x0_from_epsilon
from liftstudio.priors.samplers import ddim_sigmas, euler, nearest_timestep, scaled_linear_levels

SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def test_noise_levels_are_those_of_stable_diffusion() -> None:
    alpha_bar = scheduler().alphas_cumprod.double()
    levels = scaled_linear_levels()
    torch.testing.assert_close(levels, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=2e-5, atol=0)  # theirs are float32
    for timestep in (0, 1, 421, 999):
        assert nearest_timestep(levels, 1.0001 * levels[timestep].item()) == timestep


@pytest.mark.parametrize("steps", [3, 10])
def test_euler_steps_on_ddims_levels_are_ddim(steps: int, generator: torch.Generator) -> None:
    """Some noise remains at the end, with which the result has unit variance."""
    direction = torch.randn(2, 4, 5, 5, generator=generator)
    noise, levels, ddim = torch.randn(direction.shape, generator=generator), scaled_linear_levels(), scheduler()

    def epsilon(x: Tensor, timestep: int) -> Tensor:
        return torch.sin(x + timestep / 300) + 0.3 * direction

    def denoise(z: Tensor, sigma: float) -> Tensor:
        x = z / (1 + sigma**2) ** 0.5
        return x0_from_epsilon(z, epsilon(x, nearest_timestep(levels, sigma)), sigma)

    ddim.set_timesteps(steps)
    x = noise
    for timestep in ddim.timesteps.tolist():
        x = ddim.step(epsilon(x, timestep), timestep, x).prev_sample
    torch.testing.assert_close(euler(denoise, noise, ddim_sigmas(levels, steps)), x, rtol=1e-4, atol=1e-4)


def test_rescaled_contrast(generator: torch.Generator) -> None:
    estimate = 3 * torch.randn(8, 4, 6, 6, generator=generator) + 1
    conditional = torch.randn(8, 4, 6, 6, generator=generator)
    assert torch.equal(rescaled(estimate, conditional, 0.0, 4), estimate)
    full = rescaled(estimate, conditional, 1.0, 4)
    for one, wanted in zip(full.split(4), conditional.split(4), strict=True):
        torch.testing.assert_close(one.std(), wanted.std(), rtol=1e-5, atol=0)
    half = rescaled(estimate, conditional, 0.5, 4)
    torch.testing.assert_close(half, (full + estimate) / 2, rtol=1e-5, atol=1e-6)
    other = torch.cat([estimate[:4], 7 * estimate[4:]])
    assert torch.equal(rescaled(other, conditional, 0.5, 4)[:4], half[:4]), "objects do not change one another"


def test_reconstruction_loss(generator: torch.Generator) -> None:
    latents = torch.randn(4, 4, 3, 3, generator=generator, requires_grad=True)
    denoised = torch.randn(latents.shape, generator=generator, requires_grad=True)
    mask = torch.rand(4, 1, 3, 3, generator=generator, requires_grad=True)
    loss = reconstruction_loss(latents, denoised, mask)
    (gradient,) = torch.autograd.grad(loss, latents)
    torch.testing.assert_close(gradient, mask * (latents - denoised) / latents.numel())
    assert torch.autograd.grad(loss + latents.sum(), (denoised, mask), allow_unused=True) == (None, None)
    sigma = 1.7
    expected = sds_weight(sigma) / sigma * reconstruction_loss(latents, denoised, mask)
    torch.testing.assert_close(sds_loss(latents, denoised, sigma, mask), expected)


def test_the_unet_of_a_pipeline_is_opened(tmp_path: Path) -> None:
    for name in ("unet", "vae", "image_encoder"):
        (tmp_path / name).mkdir()
        save_file({name: torch.ones(1)}, tmp_path / name / "model.safetensors")
    assert open_weights(str(tmp_path)).path == tmp_path / "unet" / "model.safetensors"
    save_file({"fp16": torch.ones(1)}, tmp_path / "unet" / "model.fp16.safetensors")
    with pytest.raises(InputError, match=r"several weight files there; name one, for example .*/unet/model\.fp16"):
        open_weights(str(tmp_path))
