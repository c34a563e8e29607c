"""The bundled priors estimate and sample on CUDA what they do on the CPU."""

import functools
from typing import Any

import pytest
import torch
from helpers.tiny_prior import ball
from helpers.tiny_scenes import orbit
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior

CPU = torch.device("cpu")
PRIORS = ["objects", "toys"]
VIEWS = 2
# Mean difference of pixels in [-1, 1]. Float32: rounding through some 40 layers, and on the CPU a renderer of its own,
# which ends rays at a transmittance of 0.001. Bfloat16 has 8 bits, float16 has 11.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "float16": 1e-2}
# A step divides the difference by the noise level and multiplies it by the change of level: it does not grow.
STEPS = 2


def opened(name: str, precision: str, device: torch.device) -> Prior:
    config: Any = AutoPrior.Config(f"asset://priors/{name}", precision=precision)
    return open_prior(ComponentSpec("prior", AUTO, config), device)


def posed(device: torch.device) -> PosedImage:
    camera = orbit(1, 64)
    image, mask = ball(camera)
    return PosedImage(image[0].to(device), mask[0].to(device), camera.to(device))


@torch.no_grad()
def estimated(prior: Prior, device: torch.device) -> Tensor:
    noise = torch.randn(VIEWS, *prior.latent_shape, generator=torch.Generator().manual_seed(0)).to(device)
    cameras = orbit(VIEWS, 64).to(device)
    scales = torch.full((VIEWS,), 1.5, device=device)
    wanted = torch.zeros(VIEWS, 64, 64, dtype=torch.bool, device=device)
    wanted[:, ::4, ::4] = True
    made = prior.denoise(NoisyViews(5.0 * noise, 5.0, prior.condition(posed(device)), cameras, scales, wanted))
    assert made.device.type == device.type
    return made.cpu()[:, :, ::4, ::4]


def sampled(prior: Prior) -> Tensor:
    images, masks = prior.sample(posed(CPU), orbit(VIEWS, 64), steps=STEPS, seed=1)
    assert masks is not None
    return 2 * torch.cat([images, masks], dim=-1).cpu() - 1


@functools.cache
def estimated_on_cpu(name: str) -> Tensor:
    return estimated(opened(name, "float32", CPU), CPU)


@functools.cache
def sampled_on_cpu(name: str) -> Tensor:
    return sampled(opened(name, "float32", CPU))


def differs(found: Tensor, wanted: Tensor) -> float:
    assert wanted.std() > 0.1, "the pictures show something"
    return float((found - wanted).abs().mean())


@pytest.mark.cuda
@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("name", PRIORS)
def test_estimates_and_samples(name: str, precision: str, cuda: torch.device) -> None:
    prior = opened(name, precision, cuda)
    assert differs(estimated(prior, cuda), estimated_on_cpu(name)) < TOLERANCE[precision]
    assert differs(sampled(prior), sampled_on_cpu(name)) < TOLERANCE[precision]


def test_one_estimate(device: torch.device) -> None:
    prior = opened("objects", "float32", device)
    assert differs(estimated(prior, device), estimated_on_cpu("objects")) < TOLERANCE["float32"]
