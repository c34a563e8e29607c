"""Score distillation: a prior with a known optimum, chunked encoder gradients, random draws, resuming."""

import copy
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import trimesh
import yaml
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import orbit, sphere_views
from lightning_fabric import Fabric
from torch import Tensor

from liftstudio.core.config import ComponentSpec, parse
from liftstudio.core.errors import InputError
from liftstudio.core.memory import Chunks
from liftstudio.core.registry import register
from liftstudio.core.schedules import Schedule
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.guidance.score_distillation import ScoreDistillation, posed_image
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.priors.distillation import draw_sigma, encode_in_chunks, sds_loss, sds_weight
from liftstudio.run.inputs import Inputs
from liftstudio.systems.coarse_to_fine import CoarseToFine

SEEDS = [fresh_seed(__name__) for _ in range(2)]
CPU = torch.device("cpu")
RESOLUTION = 16


@register("test-gaussian")
class GaussianPrior(Prior):
    """Frames with latents from N(mean, deviation^2), whose optimal denoiser is known (EDM, app. B.3).

    Latents are 2x2 means. Their mean is that of the input image, pulled towards grey by the guidance scale minus 1.
    """

    @dataclass
    class Config(Prior.Config):
        deviation: float = 0.5  # standard deviation of the data

    name, resolution, latent_shape, frames = "gaussian", RESOLUTION, (4, RESOLUTION // 2, RESOLUTION // 2), 0
    sigma_min, sigma_max = 0.01, 80.0

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return False

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.deviation = config.deviation

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        if cameras.width != self.resolution:
            raise InputError(f"cameras: expected {self.resolution} pixels, got {cameras.width}")

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        pixels = torch.cat([images, masks], dim=-1).permute(0, 3, 1, 2)
        return 2 * F.avg_pool2d(pixels, 2) - 1

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        pixels = F.interpolate((latents + 1) / 2, scale_factor=2.0).permute(0, 2, 3, 1)
        return pixels[..., :3], pixels[..., 3:]

    def condition(self, posed: PosedImage) -> Tensor:
        return self.encode(posed.image[None], posed.mask[None])

    @torch.no_grad()
    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        assert len(noisy.cameras) == len(noisy)
        scale = torch.ones(len(noisy)) if noisy.guidance_scale is None else noisy.guidance_scale
        mean = noisy.condition / scale[:, None, None, None]
        return (self.deviation**2 * noisy.latents + noisy.sigma**2 * mean) / (self.deviation**2 + noisy.sigma**2)


class Orbit(ScoreDistillation):
    """Four views from a random azimuth."""

    def draw_views(self, step: int, generator: torch.Generator) -> Cameras:
        shift = int(torch.randint(4, (), generator=generator))
        return orbit(16, self.prior.resolution)[shift::4]


@register("test-sds")
class RegisteredOrbit(Orbit):
    """Four views from a random azimuth."""


def input_views(size: int = RESOLUTION) -> ReferenceViews:
    return replace(sphere_views(3, size), input_views=(2,))


def make(views: ReferenceViews | None = None, deviation: float = 0.5, **options: Any) -> Orbit:
    prior = ComponentSpec("prior", "test-gaussian", GaussianPrior.Config("", deviation=deviation))
    config = Orbit.Config(**{"prior": prior, "guidance_scale": 1.0, **options})
    return Orbit(config, views=views or input_views(), device=CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def render_of(rgba: Tensor) -> Render:
    """Return a render [T, H, W] with given foreground and opacity."""
    foreground, opacity = rgba.split([3, 1], dim=-1)
    return Render(rgb=foreground + 1 - opacity, foreground=foreground, opacity=opacity)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradient_is_the_papers(seed: int) -> None:
    g = generator(seed)
    latents, denoised, noise = (torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=g) for _ in range(3))
    mask, sigma = torch.rand(3, 1, 5, 6, dtype=torch.float64, generator=g), 0.1 + 5 * torch.rand((), generator=g).item()
    latents.requires_grad_(), denoised.requires_grad_(), mask.requires_grad_()
    sds_loss(latents, denoised, sigma, mask).backward()  # type: ignore[no-untyped-call]
    noisy = latents + sigma * noise
    predicted = (noisy - denoised) / sigma
    wanted = sigma**2 / (1 + sigma**2) * mask * (predicted - noise) / latents.numel()  # DreamFusion, eq. 3, with a mask
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, wanted.detach())
    assert denoised.grad is None and mask.grad is None


@pytest.mark.parametrize("seed", SEEDS)
def test_guidance_has_the_closed_form_for_a_gaussian_prior(seed: int) -> None:
    deviation, scale = 0.7, 3.0
    guidance = make(deviation=deviation, guidance_scale=scale, encoder_chunk=3)
    request = guidance.request(0, generator(seed))
    assert len(request.cameras) == 4 and request.cameras.width == RESOLUTION
    rgba = torch.rand(4, RESOLUTION, RESOLUTION, 4, generator=generator(seed + 1)).requires_grad_()
    loss = guidance.losses(request, render_of(rgba))["sds"]
    (gradient,) = torch.autograd.grad(loss, rgba)

    sigma, noise = request.sigma, request.noise
    render = render_of(rgba)
    latents = guidance.prior.encode(render.rgb, render.opacity)
    mean = guidance.condition / scale
    wanted = sigma * (latents - mean) - deviation**2 * noise
    wanted = sds_weight(sigma) * wanted / (deviation**2 + sigma**2) / latents.numel()
    (pixels,) = torch.autograd.grad(latents, rgba, wanted)
    torch.testing.assert_close(gradient, pixels, rtol=1e-4, atol=1e-8)  # float32; (z - D) loses digits at small sigma


def test_expected_gradient_has_no_noise_in_it() -> None:
    """Over the noise, the gradient's mean is w sigma (z0 - mean) / (deviation^2 + sigma^2)."""
    deviation, sigma, count = 0.5, 1.3, 200_000
    mean, latents = 0.3, torch.full((count, 1, 1, 1), -0.8, dtype=torch.float64).requires_grad_()
    noise = torch.randn(latents.shape, dtype=torch.float64, generator=generator(SEEDS[0]))
    noisy = latents.detach() + sigma * noise
    denoised = (deviation**2 * noisy + sigma**2 * mean) / (deviation**2 + sigma**2)
    sds_loss(latents, denoised, sigma).backward()  # type: ignore[no-untyped-call]
    assert latents.grad is not None
    wanted = sds_weight(sigma) * sigma * (-0.8 - mean) / (deviation**2 + sigma**2)
    spread = sds_weight(sigma) * deviation**2 / (deviation**2 + sigma**2) / math.sqrt(count)
    assert abs(latents.grad.sum().item() - wanted) < 5 * spread, SEEDS  # five standard errors


@pytest.mark.parametrize("resolution", [0, 32])
def test_optimisation_ends_at_the_priors_mean(resolution: int) -> None:
    """Images under Adam converge to the posed image, also at twice the prior's resolution."""
    guidance, g = make(resolution=resolution, deviation=0.2), generator(SEEDS[0])
    size = resolution or RESOLUTION
    rgba = torch.rand(4, size, size, 4, generator=g).requires_grad_()
    adam = torch.optim.Adam([rgba], lr=0.05)
    for step in range(500):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / 500)
        request = guidance.request(step, g)
        assert request.cameras.width == size
        adam.zero_grad()
        guidance.losses(request, render_of(rgba))["sds"].backward()  # type: ignore[no-untyped-call]
        adam.step()
    with torch.no_grad():
        latents = guidance._encode(request, render_of(rgba))
    error = (latents - guidance.condition).abs().mean().item()
    assert error < 0.05, SEEDS  # starts at 0.6; the rest is gradient noise


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_chunked_encoder_gradient_equals_the_whole(chunk: int, seed: int) -> None:
    g = generator(seed)
    kernel = torch.randn(5, 4, 3, 3, dtype=torch.float64, generator=g)
    seen: list[tuple[int, bool]] = []

    def encode(images: Tensor, masks: Tensor) -> Tensor:
        seen.append((len(images), torch.is_grad_enabled()))
        return torch.tanh(F.conv2d(torch.cat([images, masks], -1).permute(0, 3, 1, 2), kernel, stride=2))

    images = torch.rand(7, 10, 10, 3, dtype=torch.float64, generator=g).requires_grad_()
    masks = torch.rand(7, 10, 10, 1, dtype=torch.float64, generator=g).requires_grad_()
    weights = torch.randn(7, 5, 4, 4, dtype=torch.float64, generator=g)
    whole = encode(images, masks)
    wanted = torch.autograd.grad((weights * whole.square()).sum(), (images, masks))
    seen.clear()
    latents = encode_in_chunks(encode, images, masks, Chunks(chunk, ""))
    gradients = torch.autograd.grad((weights * latents.square()).sum(), (images, masks))
    # float64; a batch of another size may be summed in another order
    torch.testing.assert_close(latents, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-12)
    assert max(frames for frames, _ in seen) == min(chunk, 7)
    assert [graph for _, graph in seen] == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)


def test_chunked_encoder_that_ignores_masks() -> None:
    images, masks = torch.rand(3, 4, 4, 3, requires_grad=True), torch.rand(3, 4, 4, 1, requires_grad=True)
    latents = encode_in_chunks(lambda i, m: 3 * i.permute(0, 3, 1, 2), images, masks, Chunks(2, ""))
    gradients = torch.autograd.grad(latents.sum(), (images, masks))
    assert (gradients[0] == 3).all() and (gradients[1] == 0).all()


@pytest.mark.parametrize("mean, std, bounds", [(0.7, 1.6, (0.05, 20.0)), (-1.0, 0.5, (1.0, 3.0)), (0, 9, (0.1, 2))])
def test_noise_levels_are_a_cut_log_normal(mean: float, std: float, bounds: tuple[float, float]) -> None:
    g, count = generator(SEEDS[0]), 4000
    logs = torch.tensor([draw_sigma(g, mean, std, bounds) for _ in range(count)], dtype=torch.float64).log()
    low, high = math.log(bounds[0]), math.log(bounds[1])
    assert low <= logs.min() and logs.max() <= high
    grid = torch.linspace(low, high, 20001, dtype=torch.float64)  # the density, integrated
    density = torch.exp(-0.5 * ((grid - mean) / std).square())
    cumulative = torch.cumsum(density, 0) / density.sum()
    ranks = torch.arange(1, count + 1, dtype=torch.float64) / count
    wanted = cumulative[torch.searchsorted(grid, logs.sort().values).clamp_max(20000)]
    # Kolmogorov-Smirnov distance; P(> 2.2 / sqrt(n)) is 1e-4
    assert (ranks - wanted).abs().max() < 2.2 / math.sqrt(count), SEEDS


def test_weight_is_one_minus_alpha_bar() -> None:
    for alpha_bar in (0.999, 0.5, 0.01):
        sigma = math.sqrt((1 - alpha_bar) / alpha_bar)  # noise over signal of the variance-preserving process
        assert sds_weight(sigma) == pytest.approx(1 - alpha_bar)


def test_a_step_follows_from_the_generators_state() -> None:
    """A new guidance with a checkpoint's generator draws the same views, level and noise."""
    g = generator(SEEDS[0])
    rgba = torch.rand(4, RESOLUTION, RESOLUTION, 4, generator=g)
    first, second = make(), make()
    for step in range(3):
        first.request(step, g)
    state = g.get_state()
    request = first.request(3, g)
    loss = first.losses(request, render_of(rgba))["sds"]
    restored = torch.Generator()
    restored.set_state(state)
    again = second.request(3, restored)
    assert torch.equal(request.cameras.c2w, again.cameras.c2w)
    assert torch.equal(loss, second.losses(again, render_of(rgba))["sds"])
    assert torch.equal(g.get_state(), restored.get_state())  # losses draw nothing
    other = second.losses(second.request(4, restored), render_of(rgba))
    assert not torch.equal(loss, other["sds"])
    assert torch.equal(loss, second.losses(request, render_of(rgba))["sds"])  # all draws of a step are in its request


def test_a_run_with_two_guidances_resumes_in_the_same_bytes(tmp_path: Path) -> None:
    trimesh.creation.icosphere(2, 0.5).export(tmp_path / "ball.ply")
    config = f"""
    stages:
      only:
        steps: 6
        geometry:
          type: mesh
          path: {tmp_path / "ball.ply"}
          movable: true
          grid: {{levels: 4, log2_table_size: 9, base_resolution: 4, finest_resolution: 16, hidden: 16}}
        renderer: surface
        guidance:
          views: reconstruction
          unseen: {{type: test-sds, start: 2, guidance_scale: 1, prior: {{type: test-gaussian, weights: ''}}}}
    """

    def system() -> CoarseToFine:
        parsed = parse(yaml.safe_load(config), CoarseToFine.Config)
        fabric = Fabric(accelerator="cpu", devices=1)
        return CoarseToFine(parsed, views=input_views(), device=CPU, seed=3, fabric=fabric)

    straight = system()
    straight.enter("only")
    log = [straight.step(step) for step in range(4)]
    assert ["unseen/sds" in line for line in log] == [False, False, True, True]
    state = copy.deepcopy(straight.state())
    rest = [straight.step(step) for step in (4, 5)]
    resumed = system()
    resumed.enter("only", state)
    assert [resumed.step(step) for step in (4, 5)] == rest
    ends = zip(straight.stage.scene.parameters(), resumed.stage.scene.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in ends)


def test_the_prompt_is_the_input_view_over_white() -> None:
    views = input_views(2 * RESOLUTION)
    posed = posed_image(views, RESOLUTION, CPU)
    assert posed.image.shape == (RESOLUTION, RESOLUTION, 3) and posed.camera.width == RESOLUTION
    assert torch.equal(posed.camera.c2w, views.cameras.c2w[2:])
    corner = posed.image[0, 0]
    torch.testing.assert_close(corner, torch.ones(3))
    middle = views.over(1.0)[2, RESOLUTION - 1 : RESOLUTION + 1, RESOLUTION - 1 : RESOLUTION + 1].mean((0, 1))
    # the antialiasing kernel reaches one pixel further; the picture is smooth there: 0.02 per pixel
    torch.testing.assert_close(posed.image[RESOLUTION // 2 - 1, RESOLUTION // 2 - 1], middle, atol=0.05, rtol=0)


def test_the_prompt_follows_its_view(tmp_path: Path) -> None:
    views = replace(input_views(), held_out=torch.tensor([True, False, False]))
    assert views.training().input_view == 1 and views.select([0, 1]).input_view is None
    assert views.select([2, 0, 1]).input_view == 0 and sphere_views(2, 4).input_view is None
    views = replace(views, input_views=(2, 0))
    Inputs(views, None, torch.eye(4)).save(tmp_path / "inputs")
    restored = Inputs.restore(tmp_path / "inputs").views
    assert restored is not None and restored.input_views == (2, 0) and restored.input_view == 2
    assert restored.select([0, 1]).input_views == (0,) and restored.select([2, 1, 0]).input_views == (0, 2)


def test_several_pictures_are_one_prompt() -> None:
    views = replace(input_views(), input_views=(2, 0))
    posed = posed_image(views, RESOLUTION, CPU)
    (other,) = posed.others
    assert torch.equal(posed.camera.c2w, views.cameras.c2w[2:]) and torch.equal(other.camera.c2w, views.cameras.c2w[:1])
    torch.testing.assert_close(other.image, posed_image(replace(views, input_views=(0,)), RESOLUTION, CPU).image)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sigma_range": (2.0, 1.0)}, "sigma_range: expected two ascending levels"),
        ({"sigma_range": (0.05, 100.0)}, "sigma_range: the prior 'gaussian' was trained for 0.01 to 80"),
        ({"encoder_chunk": -1}, "encoder_chunk: expected 0 or more, got -1"),
        ({"views": sphere_views(3, RESOLUTION)}, "needs an input picture"),
    ],
)
def test_impossible_options_are_reported_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)


def test_an_image_that_is_not_square_is_refused() -> None:
    views = input_views()
    wide = replace(views, images=views.images[:, :8], masks=views.masks[:, :8], cameras=views.cameras.resized(8, 16))
    with pytest.raises(InputError, match="16x8 pixels"):
        make(wide)


def test_no_work_where_the_weight_is_zero() -> None:
    guidance = make(lambda_sds=Schedule.parse([[9, 0], [10, 1]]))
    render = render_of(torch.rand(4, RESOLUTION, RESOLUTION, 4))
    losses = [guidance.losses(guidance.request(step, generator()), render) for step in (9, 10)]
    assert losses[0] == {} and set(losses[1]) == {"sds"}
