"""The bundled prior of real objects, on photo-like views of an unseen real object."""

import pytest
import torch
from torch import Tensor

from liftstudio.core import assets
from liftstudio.core.config import ComponentSpec
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.metrics.novel_views import closeness
from liftstudio.priors.base import NoisyViews, PosedImage
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.opening import AUTO, AutoPrior, open_prior
from liftstudio.run.config import TruthConfig
from liftstudio.run.truth import load_truth, resized

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mario() -> ReferenceViews:
    truth = load_truth(TruthConfig(views=str(assets.packaged("assets") / "demo" / "mario")))
    assert truth.views is not None
    return resized(truth.views, 64)


@pytest.fixture(scope="module")
def prior() -> ObjectsPrior:
    opened = open_prior(ComponentSpec("prior", AUTO, AutoPrior.Config("asset://priors/objects")), CPU)
    assert isinstance(opened, ObjectsPrior)
    return opened


def input_of(views: ReferenceViews) -> PosedImage:
    return PosedImage(views.over(1.0)[0], views.masks[0], views.cameras[:1])


def estimate(prior: ObjectsPrior, views: ReferenceViews, start: Tensor | None, sigma: float) -> tuple[Tensor, Tensor]:
    noise = torch.randn(len(views), *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    noisy = sigma * noise if start is None else start + sigma * noise
    return prior.decode(prior.denoise(NoisyViews(noisy, sigma, prior.condition(input_of(views)), views.cameras)))


def test_views_of_one_picture_are_far_above_repeating_it(prior: ObjectsPrior, mario: ReferenceViews) -> None:
    found = closeness(*estimate(prior, mario, None, prior.sigma_max), mario)
    picture, mask = mario.over(1.0)[:1], mario.masks[:1]
    repeated = closeness(picture.expand(len(mario), -1, -1, -1), mask.expand(len(mario), -1, -1, -1), mario)
    assert found["psnr"] > repeated["psnr"] + 3 and found["silhouette_iou"] > repeated["silhouette_iou"] + 0.05


def test_noisy_views_are_used(prior: ObjectsPrior, mario: ReferenceViews) -> None:
    truth = prior.encode(mario.over(1.0), mario.masks)
    first, with_views = (
        closeness(*estimate(prior, mario, *given), mario) for given in ((None, prior.sigma_max), (truth, 1.0))
    )
    assert with_views["psnr"] > first["psnr"] + 0.5 and with_views["silhouette_iou"] > first["silhouette_iou"] + 0.02


def test_inside_points_are_in_all_silhouettes(prior: ObjectsPrior, mario: ReferenceViews) -> None:
    axis = torch.linspace(-1, 1, 40)
    points = torch.cartesian_prod(axis, axis, axis)
    inside = points[prior.occupancy(input_of(mario), points) > -1]
    assert 500 < len(inside) < 20_000
    pixels, _ = mario.cameras.project(inside)
    column, row = pixels.long().clamp(0, 63).unbind(-1)
    seen = torch.stack([mask[..., 0][r, c] > 0.5 for mask, r, c in zip(mario.masks, row, column, strict=True)])
    assert seen[0].float().mean() > 0.9  # of its own image
    assert seen.float().mean() > 0.7
