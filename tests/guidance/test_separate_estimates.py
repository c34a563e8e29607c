"""The bundled prior's estimates from the input image alone and from the noisy views alone."""

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.orbits import static
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior
from liftstudio.synthetic import make_object, split
from liftstudio.training.data import Sample, view_object
from liftstudio.training.rigs import DISTANCE, FOV_DEG, Rig

SEED = fresh_seed(__name__)
VIEWS = 4


@pytest.fixture(scope="module")
def prior() -> Prior:
    return open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config("asset://priors/toys")), torch.device("cpu"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def cameras(azimuth_deg: Tensor, elevation_deg: Tensor) -> Cameras:
    return orbit_cameras(azimuth_deg, elevation_deg, DISTANCE, FOV_DEG, 64, 64)


def toy(index: int) -> Sample:
    prompt = cameras(torch.zeros(1), torch.full((1,), 10.0))
    return view_object(
        make_object("toy", split(index, "toy", "unseen")), Rig(prompt, cameras(*static(VIEWS, 10.0)), 0.0)
    )


def input_of(sample: Sample) -> PosedImage:
    return PosedImage(sample.input_image[..., :3], sample.input_image[..., 3:], sample.rig.input_camera)


def test_what_each_estimate_depends_on(prior: Prior, generator: torch.Generator) -> None:
    one, other = (toy(index) for index in (0, 1))
    conditions = [prior.condition(input_of(sample)) for sample in (one, other)]
    clean = prior.encode(one.images[..., :3], one.images[..., 3:])
    noise = torch.randn(clean.shape, generator=generator)
    views, sigma = one.rig.views, 2.0
    first = prior.denoise_separately(NoisyViews(clean + sigma * noise, sigma, conditions[0], views))
    second = prior.denoise_separately(NoisyViews(clean + sigma * noise, sigma, conditions[1], views))
    third = prior.denoise_separately(NoisyViews(clean - 2 * sigma * noise, 2 * sigma, conditions[0], views))
    assert torch.equal(first.everything, prior.denoise(NoisyViews(clean + sigma * noise, sigma, conditions[0], views)))
    assert torch.equal(first.views, second.views) and not torch.equal(first.views, third.views)
    assert torch.equal(first.reference, third.reference) and not torch.equal(first.reference, second.reference)
    assert not torch.equal(first.everything, second.everything)


def test_each_of_them_knows_the_object(prior: Prior, generator: torch.Generator) -> None:
    """From the input image, or from slightly noisy views, it is closer to the object than to another one."""
    one, other = (toy(index) for index in (2, 3))
    clean, wrong = (prior.encode(sample.images[..., :3], sample.images[..., 3:]) for sample in (one, other))
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    for estimate in prior.denoise_separately(NoisyViews(noisy, 0.3, prior.condition(input_of(one)), one.rig.views)):
        assert (estimate - clean).square().mean() < 0.5 * (estimate - wrong).square().mean()


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_only_what_is_wanted_is_rendered(prior: Prior, generator: torch.Generator, share: float) -> None:
    sample = toy(2)
    condition, views = prior.condition(input_of(sample)), sample.rig.views
    noisy = torch.randn(len(views), *prior.latent_shape, generator=generator)
    wanted = torch.rand(len(views), 64, 64, generator=generator) < share
    whole = prior.denoise(NoisyViews(noisy, 1.0, condition, views))
    part = prior.denoise(NoisyViews(noisy, 1.0, condition, views, wanted=wanted))
    assert torch.equal(part.movedim(1, -1)[wanted], whole.movedim(1, -1)[wanted])
    assert (part.movedim(1, -1)[~wanted] == 0).all()
