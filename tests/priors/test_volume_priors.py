"""Common behaviour of the bundled volume priors: views, dropped inputs, and weight files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.seeds import fresh_seed
from helpers.volume_inputs import perturb, random_views
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.objects.network import Size as ObjectsSize
from liftstudio.priors.opening import open_prior
from liftstudio.priors.toys.network import Size as ToysSize
from liftstudio.priors.volume_prior import RESOLUTION, VolumePrior
from liftstudio.training.data import DataConfig, Sample, draw_sample
from liftstudio.training.objects_task import ObjectsTask
from liftstudio.training.toys_task import ToysTask
from liftstudio.training.volume_task import VolumeTask

TINY = {
    ToysTask: ToysSize(
        grid=8, widths=(8, 16, 32), down=(0, 1), middle=2, up=(1, 1), image_widths=(8, 8, 16, 16), view_width=8,
        color_features=3, embedding=16,
    ),
    ObjectsTask: ObjectsSize(
        planes=12, color_planes=3, view_planes=4, full=8, head=16, widths=(8, 16, 32), down=(1, 1), middle=2,
        up=(1, 1), embedding=16,
    ),
}  # fmt: skip
SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    print(f"seed {SEED}")  # noqa: T201  shown when a test fails
    return torch.Generator().manual_seed(SEED)


def build(task: type[VolumeTask], **options: Any) -> VolumeTask:
    return task(task.Config(**options), DataConfig(), torch.float32)


@pytest.fixture(params=list(TINY), ids=["toys", "objects"])
def task(request: pytest.FixtureRequest, generator: torch.Generator) -> VolumeTask:
    """A task whose network has random weights everywhere, so that no zero hides a fault."""
    made = build(request.param, size=TINY[request.param])
    perturb(made.network, generator)
    return made


@torch.no_grad()
def volumes(task: VolumeTask, given: list[Tensor]) -> Tensor:
    """Return density, occupancy and colour of both objects, [2, N]."""
    network = task.network
    made = network.lift(network.look(*given[:2]), *given[2:])
    color = made.color if isinstance(task, ObjectsTask) else made.color_features
    return torch.cat([part.flatten(1) for part in (made.density, made.occupancy, color)], dim=1)


def test_the_order_of_the_views_does_not_matter_but_each_view_does(
    task: VolumeTask, generator: torch.Generator
) -> None:
    given = random_views(4, RESOLUTION, generator)
    first = volumes(task, given)
    order = torch.tensor([2, 0, 3, 1])
    reordered = volumes(task, [*given[:2], given[2][:, order], given[3][:, order], *given[4:]])
    torch.testing.assert_close(reordered, first, atol=1e-4, rtol=1e-4)  # sums in another order
    swapped = volumes(task, [*given[:2], given[2][:, order], *given[3:]])  # images at each other's cameras
    assert (swapped - first).abs().max() > 1e-3


@pytest.mark.parametrize("views", [1, 2, 7])
def test_any_number_of_views(task: VolumeTask, views: int, generator: torch.Generator) -> None:
    found = volumes(task, random_views(views, RESOLUTION, generator))
    assert len(found) == 2 and torch.isfinite(found).all()


def test_what_is_dropped_is_not_looked_at(task: VolumeTask, generator: torch.Generator) -> None:
    given = random_views(3, RESOLUTION, generator)
    no, only_first = torch.zeros(2, dtype=torch.bool), torch.tensor([True, False])
    for index, flags in ((0, 5), (2, 6)):  # picture, views
        other = list(given)
        other[index] = -given[index]
        assert not torch.allclose(volumes(task, other), volumes(task, given), atol=1e-3)
        for each in (given, other):
            each[flags] = no
        torch.testing.assert_close(volumes(task, other), volumes(task, given), atol=0, rtol=0)
        for each in (given, other):
            each[flags] = only_first
        same = (volumes(task, other) - volumes(task, given)).abs().amax(1) == 0
        assert same.tolist() == [False, True]
        given[flags] = ~no


def input_of(sample: Sample) -> PosedImage:
    return PosedImage(sample.input_image[..., :3], sample.input_image[..., 3:], sample.rig.input_camera)


def test_a_saved_network_is_recognised_and_gives_the_same(
    task: VolumeTask, generator: torch.Generator, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.safetensors"
    task.save(task.network, path)
    sample = draw_sample("toy", SEED, DataConfig(), 2, generator)
    options = find("auto", "prior").Config(weights=str(path), precision="float32")
    opened: Any = open_prior(ComponentSpec("prior", "auto", options), torch.device("cpu"))
    assert isinstance(opened, task.prior_type) and opened.network.size == TINY[type(task)]
    noisy = opened.encode(sample.images[..., :3], sample.images[..., 3:])
    noisy = noisy + 2 * torch.randn(noisy.shape, generator=generator)
    results = [
        prior.denoise(NoisyViews(noisy, 2.0, prior.condition(input_of(sample)), sample.rig.views))
        for prior in (opened, task.prior_type.around(task.network))
    ]
    torch.testing.assert_close(*results, atol=0.03, rtol=0)  # weights in half precision: 5e-4 of each, some 20 layers
    assert results[0].shape == (2, 4, RESOLUTION, RESOLUTION)
    with pytest.raises(InputError, match=r"the network size is not that of task\.size"):
        build(type(task)).load(str(path))
    again = build(type(task), size=TINY[type(task)])
    again.load(str(path))
    halved = {key: value.half().float() for key, value in task.network.state_dict().items()}
    assert all(torch.equal(value, halved[key]) for key, value in again.network.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.network.parameters())


def test_another_priors_weights_are_refused(task: VolumeTask, tmp_path: Path) -> None:
    task.save(task.network, tmp_path / "tiny.safetensors")
    (other,) = set(TINY) - {type(task)}
    with pytest.raises(InputError, match=f"not weights of the prior '{other.prior_type.note}'"):
        build(other).load(str(tmp_path / "tiny.safetensors"))


def images_from(azimuths_deg: list[float], generator: torch.Generator) -> PosedImage:
    """Return random images at azimuths; the first has the others."""
    elevations = torch.full((len(azimuths_deg),), 15.0)
    cameras = orbit_cameras(torch.tensor(azimuths_deg), elevations, 3.6, 33.8, RESOLUTION, RESOLUTION)
    pixels = torch.rand(len(cameras), RESOLUTION, RESOLUTION, 4, generator=generator)
    first, *others = (PosedImage(p[..., :3], p[..., 3:], cameras[[n]]) for n, p in enumerate(pixels))
    return replace(first, others=tuple(others))


def estimate(prior: VolumePrior, posed: PosedImage, sigma: float, cameras: Cameras, latents: Tensor) -> Tensor:
    return prior.denoise(NoisyViews(latents, sigma, prior.condition(posed), cameras))


def test_further_images_are_known_views(task: VolumeTask, generator: torch.Generator) -> None:
    """At high noise they stand in for the noisy views; at low noise they are beside them."""
    prior = task.prior_type.around(task.network)
    posed, cameras = images_from([30.0, 210.0, 120.0], generator), images_from([0.0, 75.0], generator)
    views = concatenate([cameras.camera, cameras.others[0].camera])
    one, two = torch.randn(2, 2, 4, RESOLUTION, RESOLUTION, generator=generator)
    for sigma, is_used in ((80.0, False), (2.0, False), (0.5, True)):
        results = [estimate(prior, posed, sigma, views, latents) for latents in (one, two)]
        assert torch.equal(*results) != is_used
    alone = estimate(prior, replace(posed, others=()), 80.0, views, one)
    known = estimate(prior, posed, 80.0, views, one)
    moved = replace(posed, others=(posed.others[0], replace(posed.others[1], camera=posed.others[0].camera)))
    assert (known - alone).abs().max() > 1e-3
    assert (estimate(prior, moved, 80.0, views, one) - known).abs().max() > 1e-3


def test_views_are_blended_from_the_images_that_the_network_may_start_from(
    task: VolumeTask, generator: torch.Generator
) -> None:
    """The result at an image's camera is near that image's own volume, whatever the order of the others."""
    prior = task.prior_type.around(task.network)
    posed = images_from([0.0, 180.0, 90.0], generator)
    front, back, left = (replace(image, others=()) for image in (posed, *posed.others))
    latents = torch.zeros(1, 4, RESOLUTION, RESOLUTION)
    sides = 3 if isinstance(task, ObjectsTask) else 1  # toys are known from the front only
    assert len(prior.condition(posed)) == sides
    blended = estimate(prior, posed, 80.0, back.camera, latents)
    own = estimate(prior, replace(back, others=(front, left)), 80.0, back.camera, latents)
    others = estimate(prior, replace(left, others=(front, back)), 80.0, back.camera, latents)
    if sides == 3:
        # (1 + cos) / 2 squared is 1, 1/4 and about 0 at angles of 0, about 90 and 180 degrees.
        torch.testing.assert_close(blended, 0.8 * own + 0.2 * others, atol=0.1, rtol=0)
    swapped = replace(posed, others=posed.others[::-1])
    torch.testing.assert_close(estimate(prior, swapped, 80.0, back.camera, latents), blended, atol=1e-4, rtol=1e-4)


def test_without_the_images_only_the_views_count(task: VolumeTask, generator: torch.Generator) -> None:
    prior = task.prior_type.around(task.network)
    posed = images_from([0.0, 180.0], generator)
    latents = torch.randn(1, 4, RESOLUTION, RESOLUTION, generator=generator)
    several, one = (
        prior.denoise_separately(NoisyViews(latents, 2.0, prior.condition(image), posed.others[0].camera))
        for image in (posed, replace(posed, others=()))
    )
    torch.testing.assert_close(several.views, one.views)
    assert torch.equal(several.reference, several.everything)
    assert (several.reference - one.reference).abs().max() > 1e-3
