"""A rehearsed prior takes, by its fake tensors, what the true one takes."""

from typing import Any

import pytest
import torch
from helpers.tiny_sv3d import write_tiny_sv3d

from liftstudio.core.allocations import Allocations
from liftstudio.core.config import ComponentSpec
from liftstudio.core.memory import Chunks
from liftstudio.core.registry import find
from liftstudio.data.cameras import orbit_cameras
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.distillation import encode_in_chunks
from liftstudio.priors.latent_diffusion import fake_weights
from liftstudio.priors.opening import built_by, open_prior
from liftstudio.priors.rehearsal import ENCODING, Rehearsal

CPU = torch.device("cpu")
FRAMES = 5


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> ComponentSpec:
    path = write_tiny_sv3d(tmp_path_factory.mktemp("sv3d") / "sv3d_p.safetensors", frames=FRAMES)
    return ComponentSpec("prior", "sv3d", find("sv3d", "prior").Config(str(path)))


def orbit(count: int) -> Any:
    return orbit_cameras(torch.arange(count) * 360.0 / count + 1, torch.zeros(count), 3.6, 33.8, 32, 32)


def use(prior: Any, counted: Allocations) -> list[int]:
    """Return the bytes that each work of a prior takes at its peak."""
    image, mask = torch.rand(32, 32, 3), torch.ones(32, 32, 1)
    views = orbit(FRAMES)
    peaks = []

    def note(made: tuple[Any, int]) -> Any:
        peaks.append(made[1])
        return made[0]

    condition = note(counted.extra(lambda: prior.condition(PosedImage(image, mask, views[-1:]))))
    noisy = NoisyViews(torch.zeros(FRAMES, *prior.latent_shape), 1.0, condition, views, torch.ones(FRAMES))
    latents = note(counted.extra(lambda: prior.denoise(noisy)))
    note(counted.extra(lambda: prior.decode(latents)))
    images = torch.rand(FRAMES, 32, 32, 3).requires_grad_()

    def distil() -> None:
        encode_in_chunks(prior.encode, images, mask.expand(FRAMES, -1, -1, -1), Chunks(2, "")).sum().backward()

    note(counted.extra(distil))
    assert images.grad is not None and images.grad.shape == images.shape
    return peaks


def test_a_rehearsal_counts_as_much_as_the_networks_take(block: ComponentSpec) -> None:
    with Allocations() as counted:
        true = open_prior(block, CPU)
        weights, taken = counted.live, use(true, counted)
    del true
    with Allocations() as counted, fake_weights(), built_by(Rehearsal(counted).build):
        rehearsed = open_prior(block, CPU)
        assert counted.live == pytest.approx(weights, rel=0.01)
        counted.restart()
        planned = use(rehearsed, counted)
        assert counted.during == ENCODING
    assert planned == pytest.approx(taken, rel=0.1)


def test_results_have_shapes_and_show_something(block: ComponentSpec) -> None:
    counted = Allocations()
    with counted, fake_weights(), built_by(Rehearsal(counted).build):
        prior = open_prior(block, CPU)
        images, masks = prior.decode(torch.zeros(2, *prior.latent_shape))
    assert images.shape == (2, 32, 32, 3) and masks is None
    assert images[0, 0, 0].tolist() == [1, 1, 1] and images[0, 16, 16].tolist() == [0.5, 0.5, 0.5]
