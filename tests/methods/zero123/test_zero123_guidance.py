"""Score distillation at relative cameras: views, noise and losses, with Zero-1-to-3's network and the toys prior."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributions import DEVIATION, distance_to
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import sphere_views
from helpers.tiny_text2image import write_tiny_stable_diffusion
from helpers.tiny_zero123 import SIZE, write_tiny_zero123
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import orbit_cameras
from liftstudio.data.images import resize_smooth
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.distillation import sds_weight

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_zero123(tmp_path_factory.mktemp("zero123") / "tiny", SEED)


def tiny(folder: Path) -> ComponentSpec:
    return ComponentSpec("prior", "zero123", find("zero123", "prior").Config(str(folder), resolution=SIZE))


def toys() -> ComponentSpec:
    return ComponentSpec("prior", "auto", find("auto", "prior").Config("asset://priors/toys"))


def with_picture(size: int = SIZE) -> ReferenceViews:
    return replace(sphere_views(3, size), input_views=(2,))


def make(prior: ComponentSpec, size: int = SIZE, **options: Any) -> Any:
    cls = find("zero123-sds", "guidance")
    return cls(cls.Config(prior=prior, **options), views=with_picture(size), device=CPU)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def render_of(rgba: Tensor) -> Render:
    rgb, opacity = rgba.split([3, 1], dim=-1)
    foreground = rgb * opacity
    return Render(foreground + 1 - opacity, foreground, opacity)


def test_cameras(folder: Path) -> None:
    """All around at the input image's distance and field of view, elevations in range, both uniform in angle."""
    guidance = make(tiny(folder), views_per_step=[600], elevations_deg=(-10.0, 60.0), resolution=[20])
    cameras, picture = guidance.request(0, generator()).cameras, with_picture().cameras[2:]
    assert (cameras.width, cameras.height, len(cameras)) == (20, 20, 600)
    torch.testing.assert_close(cameras.distance, picture.distance.expand(600))
    torch.testing.assert_close(cameras.fov_deg, picture.fov_deg.expand(600))
    assert distance_to(cameras.azimuth_deg, lambda a: a / 360) < DEVIATION, SEED
    assert distance_to(cameras.elevation_deg, lambda e: (e + 10) / 70) < DEVIATION, SEED


def test_noise_and_size_follow_the_step(folder: Path) -> None:
    noise = {"min_step_percent": Schedule.constant(0.2), "max_step_percent": Schedule.parse([0, 0.6, 0.3, 100])}
    guidance = make(tiny(folder), **noise, resolution=[8, 16], resolution_milestones=[50], views_per_step=[1, 3])
    levels, draw = guidance.prior.levels, generator()
    for step, most, size, count in ((0, 600, 8, 1), (100, 300, 16, 3)):
        steps = []
        for _ in range(300):
            request = guidance.request(step, draw)
            steps.append(int((levels - request.sigma).abs().argmin()))
        assert (request.cameras.width, len(request.cameras)) == (size, count)
        assert min(steps) >= 200 and max(steps) <= most and max(steps) - min(steps) > 0.9 * (most - 200), SEED


@pytest.mark.parametrize("name", ["zero123", "toys"])
def test_losses_by_hand(folder: Path, name: str) -> None:
    """DreamFusion's gradient; each view is estimated independently, also by the toys prior."""
    guidance = make(toys() if name == "toys" else tiny(folder), views_per_step=[2], guidance_scale=5.0)
    request = guidance.request(0, generator())
    assert len(request.cameras) == 2
    prior, sigma = guidance.prior, request.sigma
    size = prior.resolution
    rgba = torch.rand(2, size, size, 4, generator=generator(), requires_grad=True)
    render = render_of(rgba)
    (gradient,) = torch.autograd.grad(guidance.losses(request, render)["sds"], rgba, retain_graph=True)
    latents = prior.encode(resize_smooth(render.over(1.0), size, size), render.opacity)
    noisy = latents.detach() + sigma * request.noise
    five = torch.full((1,), 5.0)
    clean = torch.cat(
        [
            prior.denoise(NoisyViews(noisy[i : i + 1], sigma, guidance.condition, request.views[i : i + 1], five))
            for i in range(2)
        ]
    )
    weighted = sds_weight(sigma) * (latents.detach() - clean) / sigma / latents.numel()
    (wanted,) = torch.autograd.grad(latents, rgba, weighted)
    tolerance = 1e-3 * wanted.abs().max().item()
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=tolerance, msg=f"seed {SEED}")


def test_the_default_guidance_scale_is_the_priors(folder: Path) -> None:
    """The default guidance scale of Zero-1-to-3 is 3."""
    view = orbit_cameras(torch.zeros(1), torch.zeros(1), 2.0, 40, 8, 8)
    assert make(tiny(folder)).guidance_scales(view).tolist() == [3.0]
    assert make(toys()).guidance_scales(view).tolist() == [1.0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"elevations_deg": (60.0, -10.0)}, "elevations_deg: expected the lower value first, got 60, -10"),
    ({"min_step_percent": Schedule.constant(0.99)}, "min_step_percent: expected at most max_step_percent"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find("zero123-sds", "guidance").Config(prior=toys(), **options)


def test_a_prior_of_text_alone_is_refused(tmp_path: Path) -> None:
    write_tiny_stable_diffusion(tmp_path / "sd", SEED)
    config = find("stable-diffusion", "prior").Config(str(tmp_path / "sd"), prompt="a cat")
    with pytest.raises(InputError, match=r"prior: Stable Diffusion \(sd\) cannot generate a single view"):
        make(ComponentSpec("prior", "stable-diffusion", config))
