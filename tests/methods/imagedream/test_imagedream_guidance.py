"""Multi-view score distillation: its cameras, noise levels, losses, background; ImageDream's network and the toys."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.distributions import DEVIATION, distance_to
from helpers.seeds import fresh_seed
from helpers.tiny_imagedream import write_tiny_imagedream, write_tiny_text
from helpers.tiny_scenes import sphere_views
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import find
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras, concatenate, orbit_cameras
from liftstudio.data.images import resize_smooth
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.methods.imagedream import conditioning
from liftstudio.methods.imagedream.denoising import rescaled
from liftstudio.priors.base import NoisyViews
from liftstudio.priors.classifier_free import guided
from liftstudio.priors.distillation import sds_weight
from liftstudio.priors.opening import open_prior
from liftstudio.priors.samplers import scaled_linear_levels

SEED = fresh_seed(__name__)
CPU = torch.device("cpu")
SIZE = 32  # pixels across the miniature's images
FRAMES = 4
IN_USE: list[Any] = []  # priors of all tests: as long as they are kept, their networks are not loaded again


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagedream")
    write_tiny_imagedream(folder / "tiny-ipmv.safetensors", seed=SEED)
    write_tiny_imagedream(folder / "tiny-ipmv-local.safetensors", seed=SEED)
    write_tiny_imagedream(folder / "tiny-4view.safetensors", seed=SEED, image=False)
    write_tiny_text(folder / "text", seed=SEED)
    return folder


def prior_of(folder: Path, name: str, **options: Any) -> ComponentSpec:
    given = {"weights": str(folder / f"{name}.safetensors"), "prompt": "a cat", "text_encoder": str(folder / "text")}
    return ComponentSpec("prior", "imagedream", find("imagedream", "prior").Config(**{**given, **options}))


def toys(prompt: str = "") -> ComponentSpec:
    return ComponentSpec("prior", "auto", find("auto", "prior").Config("asset://priors/toys", prompt=prompt))


def with_picture(size: int = SIZE) -> ReferenceViews:
    """Return views with an input image from the front, at elevation 5."""
    views = sphere_views(3, size)
    front = orbit_cameras(torch.zeros(1), torch.full((1,), 5.0), 3.0, 48.0, size, size)
    return replace(views, cameras=concatenate([views.cameras[:2], front]), input_views=(2,))


def make(
    prior: ComponentSpec, kind: str = "imagedream-sds", views: ReferenceViews | None = None, **options: Any
) -> Any:
    guidance = find(kind, "guidance")
    made = guidance(guidance.Config(prior=prior, **options), views=views, device=CPU)
    IN_USE.append(made.prior)
    return made


def generator(seed: int = SEED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def render_of(rgba: Tensor, background: Tensor | float = 1.0) -> Render:
    """Return a render of straight colours and opacities [T, H, W, 4] over a background."""
    rgb, opacity = rgba.split([3, 1], dim=-1)
    behind = torch.as_tensor(background).expand_as(rgb)
    foreground = rgb * opacity
    return Render(foreground + (1 - opacity) * behind, foreground, opacity, background=behind)


def pixels(count: int = FRAMES, size: int = SIZE) -> Tensor:
    return torch.rand(count, size, size, 4, generator=generator()).requires_grad_()


def drawn(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return azimuth, elevation, field of view and half view [O, 4] of each set of four views."""
    half_view = cameras.distance * torch.tan(torch.deg2rad(cameras.fov_deg / 2))
    columns = (cameras.azimuth_deg, cameras.elevation_deg, cameras.fov_deg, half_view)
    return tuple(column.unflatten(0, (-1, FRAMES)) for column in columns)  # type: ignore[return-value]


def test_cameras(folder: Path) -> None:
    """Four views at right angles share all else; what they share has the right distribution."""
    low, high = 5.0, 60.0
    config = {"elevation_range_deg": (low, high), "fov_range_deg": (40.0, 50.0), "half_view_range": (1.0, 1.5)}
    guidance = make(prior_of(folder, "tiny-ipmv"), views=with_picture(), views_per_step=[4 * 600], **config)
    cameras = guidance.draw_views(0, generator())
    azimuth, elevation, fov, half_view = drawn(cameras)
    assert (cameras.width, cameras.height) == (SIZE, SIZE)
    torch.testing.assert_close((azimuth.diff(dim=1) % 360), torch.full((600, 3), 90.0), atol=1e-3, rtol=0)
    for shared in (elevation, fov, half_view, cameras.distance.unflatten(0, (-1, FRAMES))):
        torch.testing.assert_close(shared, shared[:, :1].expand_as(shared), atol=2e-4, rtol=1e-5)

    def mixed(angle: Tensor) -> Tensor:
        bottom, top = math.sin(math.radians(low)), math.sin(math.radians(high))
        by_area = (torch.deg2rad(angle).sin() - bottom) / (top - bottom)
        return 0.5 * (angle - low) / (high - low) + 0.5 * by_area

    assert distance_to(azimuth[:, 0], lambda a: a / 360) < DEVIATION, SEED
    assert distance_to(elevation[:, 0], mixed) < DEVIATION, SEED
    assert distance_to(fov[:, 0], lambda f: (f - 40) / 10) < DEVIATION, SEED
    assert distance_to(half_view[:, 0], lambda h: (h - 1) / 0.5) < DEVIATION, SEED
    together = torch.stack([azimuth[:, 0], elevation[:, 0], fov[:, 0], half_view[:, 0]])
    assert torch.corrcoef(together).fill_diagonal_(0).abs().max() < 4.5 / math.sqrt(600), SEED  # 4.5 standard errors


def test_official_ranges_in_this_world(folder: Path) -> None:
    """Half a view officially shows 0.6 to 0.75, with objects 1 long, not 1.8; the first step is like any other."""
    guidance = make(prior_of(folder, "tiny-ipmv"), views=with_picture())
    _, elevation, fov, half_view = drawn(guidance.request(0, generator()).cameras)
    for values, low, high in ((elevation, 0, 5), (fov, 45, 50), (half_view / 1.8, 0.6, 0.75)):
        assert low - 1e-3 <= values.min() and values.max() <= high + 1e-3


def test_noise_levels_follow_the_schedules(folder: Path) -> None:
    guidance, levels = make(prior_of(folder, "tiny-ipmv"), views=with_picture()), scaled_linear_levels()
    ends = {0: (980, 980), 2500: (679, 830), 8000: (20, 500), 12000: (20, 500)}  # the released code's own table
    for step, (least, most) in ends.items():
        draw = generator()
        found = [guidance.draw_sigma(step, draw) for _ in range(400)]
        steps = [int((levels - sigma).abs().argmin()) for sigma in found]
        assert least <= min(steps) and max(steps) <= most, SEED
        assert max(steps) - min(steps) >= 0.95 * (most - least), SEED  # (0.95 + .)^400 is below 1e-7


@pytest.mark.parametrize("name", ["tiny-ipmv", "tiny-ipmv-local"])
@pytest.mark.parametrize("loss", ["reconstruction", "sds"])
def test_losses_by_hand(folder: Path, name: str, loss: str) -> None:
    """Two objects at once, renders larger than the prior's pictures, over a background of one grey."""
    scale, share, grey, size = 4.0, 0.3, 51 / 255, 48
    options = {"loss": loss, "guidance_scale": scale, "rescale": share, "random_background": 0.0}
    shapes = {"views_per_step": [8], "resolution": [size]}
    guidance = make(prior_of(folder, name), views=with_picture(), **options, **shapes)
    request = guidance.request(3000, generator())
    assert request.cameras.width == size
    rgba = pixels(8, size)
    render = render_of(rgba, grey)
    value = guidance.losses(request, render)["sds"]
    (gradient,) = torch.autograd.grad(value, rgba, retain_graph=True)

    prior, sigma, noise, cameras = guidance.prior, request.sigma, request.noise, request.views
    latents = prior.encode(resize_smooth(render.rgb, SIZE, SIZE), torch.empty(0))
    condition = prior.condition(replace(guidance.posed, grey=grey))
    ones = torch.ones(8)

    def denoise(scale: float) -> Tensor:
        return prior.denoise(NoisyViews(latents.detach() + sigma * noise, sigma, condition, cameras, scale * ones))

    target = denoise(scale)
    if loss == "reconstruction":
        factor = torch.stack(
            [c.std() / e.std() for c, e in zip(denoise(1).split(4), target.split(4), strict=True)]
        ).repeat_interleave(4)
        target = (share * factor + 1 - share).view(8, 1, 1, 1) * target
        torch.testing.assert_close(target, rescaled(denoise(scale), denoise(1), share, FRAMES))
        wanted = (latents - target) / latents.numel()
    else:
        wanted = sds_weight(sigma) * (latents - target) / sigma / latents.numel()
    (expected,) = torch.autograd.grad(latents, rgba, wanted.detach())
    close = {"rtol": 1e-3, "atol": 1e-4 * expected.abs().max().item()}  # float32, two networks, guidance of 4
    torch.testing.assert_close(gradient, expected, **close)
    size_of_loss = 0.5 * wanted.square().sum() * latents.numel()
    if loss == "reconstruction":
        torch.testing.assert_close(value.detach(), size_of_loss.detach(), rtol=1e-3, atol=0)


def count_calls(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_picture_is_encoded_when_the_grey_is_new(folder: Path) -> None:
    """Nothing is ever decoded."""
    guidance = make(prior_of(folder, "tiny-ipmv", ip_weight=0.9), views=with_picture(), random_background=0.0)
    looked, decoded = count_calls(guidance.prior.tower), count_calls(guidance.prior.vae.decoder)
    rgba, draw = pixels().detach(), generator()
    losses = []
    for step, (grey, wanted) in enumerate([(100.2, 1), (100.7, 1), (101.1, 2), (100.0, 2), (255.0, 2), (30.5, 3)]):
        losses.append(guidance.losses(guidance.request(step, draw), render_of(rgba, grey / 255)))
        assert len(looked) == wanted, (grey, wanted)
    assert not decoded
    direct = guidance.prior.condition(replace(guidance.posed, grey=101 / 255))
    kept = guidance._conditions[101].conditional
    assert torch.equal(kept.context, direct.conditional.context) and torch.equal(kept.latent, direct.conditional.latent)


def test_the_picture_stays_over_white_where_backgrounds_are_not_aligned(folder: Path) -> None:
    guidance = make(prior_of(folder, "tiny-ipmv-local"), views=with_picture(), align_background=False)
    looked = count_calls(guidance.prior.tower)
    guidance.losses(guidance.request(0, generator()), render_of(pixels(), 0.3))
    assert not looked and list(guidance._conditions) == [255]


def test_the_grey_is_the_mean_of_views_pixels_and_channels(folder: Path) -> None:
    guidance = make(prior_of(folder, "tiny-ipmv-local"), views=with_picture(), random_background=0.0)
    background = torch.rand(FRAMES, SIZE, SIZE, 3, generator=generator(SEED + 1))
    guidance.losses(guidance.request(0, generator()), render_of(pixels(), background))
    assert list(guidance._conditions) == [255, int(255 * background.mean())]


def test_random_backgrounds(folder: Path) -> None:
    """One colour for all views of a step, in the set share of steps, behind both renders and input image."""
    guidance, draw = make(prior_of(folder, "tiny-ipmv-local"), views=with_picture(), random_background=0.3), generator()
    render = render_of(pixels().detach(), 0.25)
    colors = []
    for step in range(400):
        request = guidance.request(step, draw)
        colors.append(request.background)
        if request.background is None:
            assert torch.equal(guidance.shown(request, render), render.over(0.25))
        else:
            torch.testing.assert_close(guidance.shown(request, render), render.over(request.background))
    share = sum(color is not None for color in colors) / 400
    assert abs(share - 0.3) < 4.5 * math.sqrt(0.21 / 400), SEED
    guidance.condition_for(replace(request, background=torch.tensor([0.2, 0.4, 0.9])), render)
    assert 127 in guidance._conditions or 128 in guidance._conditions  # 0.5 in 8 bits


def test_milestones_change_views_and_pixels(folder: Path) -> None:
    steps = {"views_per_step": [8, 4, 4], "resolution": [16, 48, 0], "resolution_milestones": [50, 100]}
    guidance = make(prior_of(folder, "tiny-ipmv"), views=with_picture(), **steps)
    found = [(len(c), c.width) for c in (guidance.request(step, generator()).cameras for step in (0, 49, 50, 99, 100))]
    assert found == [(8, 16), (8, 16), (4, 48), (4, 48), (4, SIZE)]
    again = guidance.request(0, generator())
    assert len(again.cameras) == len(again.noise) == 8


def test_a_step_follows_from_the_generators_state(folder: Path) -> None:
    losses = []
    for _ in range(2):
        guidance, draw = make(prior_of(folder, "tiny-ipmv"), views=with_picture()), generator()
        request = guidance.request(7, draw)
        state = draw.get_state()
        losses.append(guidance.losses(request, render_of(pixels().detach()))["sds"])
        assert torch.equal(state, draw.get_state())
    assert torch.equal(*losses)


def test_stages_share_their_networks(folder: Path) -> None:
    guidance = [make(prior_of(folder, "tiny-ipmv"), views=with_picture()) for _ in range(2)]
    assert guidance[0].prior is guidance[1].prior
    other = make(prior_of(folder, "tiny-ipmv", prompt="a dog"), views=with_picture())
    assert other.prior is not guidance[0].prior


def test_mvdream_needs_no_picture(folder: Path) -> None:
    guidance = make(prior_of(folder, "tiny-4view"), "mvdream-sds")
    assert guidance.config.guidance_scale == 50 and guidance.posed is None
    request = guidance.request(0, generator())
    rgba = pixels()
    guidance.losses(request, render_of(rgba, 0.3))["sds"].backward()
    assert len(request.cameras) == FRAMES and rgba.grad is not None and rgba.grad.abs().max() > 0


def test_toys_stand_in_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    """Over white for any background, guided by its estimate without the image; the text has no effect."""
    caplog.set_level("INFO", "liftstudio")
    text = 'a "robot": 1 + 1'
    guidance = make(toys(text), views=with_picture(64), guidance_scale=2.0, rescale=0.5)
    assert f"reads no text: the prompt {text!r} stays in the config and has no effect" in caplog.text
    assert "guidance: prior toys (bundled)" in caplog.text
    request = guidance.request(0, generator())
    assert request.passes == frozenset()
    rgba = pixels(FRAMES, 64)
    over_grey, over_white = (replace(render_of(rgba, grey), background=None) for grey in (0.1, 1.0))
    losses = [guidance.losses(request, render)["sds"] for render in (over_grey, over_white)]
    assert torch.equal(*losses)
    latents = guidance.prior.encode(over_white.rgb, over_white.opacity).detach()
    noisy = latents + request.sigma * request.noise
    scales = [None, torch.zeros(FRAMES), torch.full((FRAMES,), 2.0)]
    conditional, unconditional, both = (
        guidance.prior.denoise(NoisyViews(noisy, request.sigma, guidance.condition, request.views, scale))
        for scale in scales
    )
    torch.testing.assert_close(guided(conditional, unconditional, torch.full((FRAMES,), 2.0)), both)
    assert (conditional - unconditional).abs().mean() > 0.01
    target = rescaled(both, conditional, 0.5, FRAMES)
    torch.testing.assert_close(losses[0].detach(), 0.5 * (latents - target).square().mean(), rtol=1e-3, atol=0)


WRONG = [
    ({"views_per_step": [4, 4]}, "views_per_step: expected one number, or as many as there are resolutions"),
    ({"resolution": [8, 16]}, "resolution_milestones: expected one step fewer than there are resolutions"),
    ({"resolution": [8, 16, 9], "resolution_milestones": [3, 2]}, "resolution_milestones: expected ascending steps"),
    ({"elevation_range_deg": (5.0, 1.0)}, "elevation_range_deg: expected the lower value first, got 5, 1"),
    (
        {"min_step_percent": Schedule.constant(0.6)},
        "min_step_percent: expected at most max_step_percent, got 0.6 at step 8000",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find("imagedream-sds", "guidance").Config(prior=toys(), **options)


def test_the_guidance_must_fit_the_weights(folder: Path) -> None:
    published = folder / "sd-v2.1-base-4view-ipmv.safetensors"
    published.symlink_to(folder / "tiny-ipmv.safetensors")
    cases = [
        ("imagedream-sds", prior_of(folder, "tiny-4view"), with_picture(), "takes no image; .* 'mvdream-sds'"),
        ("mvdream-sds", toys(), with_picture(64), "toys .* needs an image; .* 'imagedream-sds'"),
        ("mvdream-sds", prior_of(folder, "tiny-ipmv"), with_picture(), "needs an image; .* 'imagedream-sds'"),
        ("imagedream-sds", prior_of(folder, "tiny-ipmv"), None, "needs an input picture; add a 'views:' block"),
        ("imagedream-sds", prior_of(folder, published.stem, mode="local"), with_picture(), "mode: expected pixel"),
        (
            "mvdream-sds",
            prior_of(folder, "tiny-4view", prompt=""),
            None,
            "prompt: expected a description of the object",
        ),
    ]
    for kind, prior, views, message in cases:
        with pytest.raises(InputError, match=message):
            make(prior, kind, views)


def test_a_perspective_the_prior_does_not_know(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Logged once, with the whole range and the trained one."""
    make(prior_of(folder, "tiny-ipmv"), views=with_picture())
    assert "trained" not in caplog.text
    ranges = {"elevation_range_deg": (-10.0, 40.0), "fov_range_deg": (30.0, 50.0)}
    make(prior_of(folder, "tiny-ipmv"), views=with_picture(), **ranges)
    assert (
        "elevation: -10 to 40 degrees; ImageDream (pixel, tiny-ipmv.safetensors) was trained for 0 to 30" in caplog.text
    )
    assert "field of view: 30 to 50 degrees" in caplog.text and caplog.text.count("trained") == 2
    make(prior_of(folder, "tiny-ipmv"), views=with_picture(), elevation_range_deg=(10.0, 20.0))
    assert "elevation of the input image: 5 degrees, but views from 10 to 20" in caplog.text
    assert caplog.text.count("trained") == 3


def test_the_prior_is_opened_once_and_shared(folder: Path) -> None:
    first = open_prior(prior_of(folder, "tiny-ipmv-local"), CPU)
    assert open_prior(prior_of(folder, "tiny-ipmv-local"), CPU) is first
    assert first.frames == conditioning.VIEWS == FRAMES
