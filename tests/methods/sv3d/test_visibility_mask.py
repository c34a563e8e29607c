"""SV3D's masked score distillation: its orbits, and its mask on spheres, whose visibility is known in closed form."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import Solid, ball, scene_of
from helpers.tiny_sv3d import write_tiny_sv3d
from torch import Tensor

from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.registry import register
from liftstudio.core.weights import Weights
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.data.render import Render
from liftstudio.methods.sv3d import visibility
from liftstudio.methods.sv3d.guidance import MaskedSDS
from liftstudio.methods.sv3d.prior import SV3D
from liftstudio.priors.base import NoisyViews, PosedImage, Prior
from liftstudio.renderers.surface import SurfaceRenderer

SEEDS = [fresh_seed(__name__) for _ in range(3)]
CPU = torch.device("cpu")
RESOLUTION = 32  # of the prior; its latents are 8x8
DISTANCE = 3.6

Sphere = tuple[tuple[float, float, float], float]  # centre, radius


@register("test-copying")
class CopyingPrior(Prior):
    """Estimates 1 everywhere for any latents, so the loss is the masked distance from 1."""

    name, resolution, latent_shape, frames = "copying", RESOLUTION, (3, 8, 8), 0
    sigma_min, sigma_max = 0.001, 100.0

    @classmethod
    def recognizes(cls, weights: Weights) -> bool:
        return False

    def __init__(self, config: Prior.Config, *, device: torch.device) -> None:
        self.scales: list[Tensor] = []

    def check_cameras(self, input_camera: Cameras, cameras: Cameras) -> None:
        assert cameras.width == input_camera.width == RESOLUTION

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        return F.avg_pool2d(images.permute(0, 3, 1, 2), 4)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        return F.interpolate(latents, scale_factor=4.0).permute(0, 2, 3, 1), None

    def condition(self, posed: PosedImage) -> None:
        return None

    def denoise(self, noisy: NoisyViews[Any]) -> Tensor:
        assert noisy.guidance_scale is not None
        self.scales.append(noisy.guidance_scale)
        return torch.ones_like(noisy.latents)


@dataclass(frozen=True)
class Seen:
    """Images of spheres: points and normals [T, H, W, 3], z-depth [T, H, W, 1]; 0 where there is none."""

    points: Tensor
    normals: Tensor
    depth: Tensor


def see(cameras: Cameras, spheres: list[Sphere]) -> Seen:
    origins, directions = cameras.rays()
    nearest = torch.full_like(origins[..., :1], math.inf)
    normals = torch.zeros_like(origins)
    for center, radius in spheres:
        offset = origins - torch.tensor(center)
        middle = -(offset * directions).sum(-1, keepdim=True)
        squared = radius**2 - offset.square().sum(-1, keepdim=True) + middle.square()
        distance = middle - squared.clamp_min(0).sqrt()
        is_first = (squared > 0) & (distance < nearest)
        nearest = torch.where(is_first, distance, nearest)
        normals = torch.where(is_first, (offset + distance * directions) / radius, normals)
    hit = nearest.isfinite()
    nearest = torch.where(hit, nearest, 0.0)
    depth = nearest * (directions * cameras.forward[:, None, None]).sum(-1, keepdim=True)
    return Seen((origins + nearest * directions) * hit, normals, depth)


def random_cameras(count: int, size: int, generator: torch.Generator) -> Cameras:
    angles = torch.rand(2, count, generator=generator)
    distances = 1.5 + 3 * torch.rand(count, generator=generator)
    return orbit_cameras(360 * angles[0], 160 * angles[1] - 80, distances, 40.0, size, size)


def paper_mask(cosine: Tensor) -> Tensor:
    """1 - f_s(x; 0, 0.5), piece by piece: f_s(x) = 12 x^2 - 16 x^3 between 0 and 0.5."""
    inside = 1 - 12 * cosine**2 + 16 * cosine**3
    return torch.where(cosine <= 0, 1.0, torch.where(cosine >= 0.5, 0.0, inside))


def sphere_facing(normals: Tensor, centers: Tensor, radius: float) -> Tensor:
    """max_i (c_i . n - r) / sqrt(|c_i|^2 - 2 r c_i . n + r^2), the cosine at the point r n of a sphere."""
    along = torch.einsum("...c,ic->...i", normals.double(), centers.double())
    squared = centers.double().square().sum(-1)
    return ((along - radius) / (squared - 2 * radius * along + radius**2).sqrt()).amax(-1, keepdim=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_mask_of_a_sphere_is_the_closed_form(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    radius = 0.3 + 0.6 * torch.rand((), generator=generator).item()
    reference = random_cameras(1 + seed % 4, 8, generator)
    seen = see(random_cameras(5, 48, generator), [((0.0, 0.0, 0.0), radius)])
    hit = seen.depth[..., 0] > 0
    wanted = sphere_facing(seen.normals[hit], reference.centers, radius)
    facing = visibility.facing(seen.points, seen.normals, reference)[hit]
    # float32 rays: points of a sphere 5 units away are known to 1e-6, their normals to a few times that
    torch.testing.assert_close(facing.double(), wanted, atol=5e-5, rtol=0)
    soft = visibility.unseen(facing, "soft")
    torch.testing.assert_close(soft.double(), paper_mask(wanted), atol=2e-4, rtol=0)  # slope up to 3 of f_s
    clear = (wanted - 0.25).abs() > 1e-4
    assert torch.equal(visibility.unseen(facing, "hard")[clear], (wanted < 0.25).float()[clear])


def test_smoothstep_has_the_erratum_fixed() -> None:
    cosines = torch.tensor([-1.0, -0.2, 0.0, 0.1, 0.25, 0.4, 0.5, 0.7, 1.0])
    wanted = torch.tensor([1.0, 1.0, 1.0, 0.896, 0.5, 0.104, 0.0, 0.0, 0.0])
    torch.testing.assert_close(visibility.unseen(cosines, "soft"), wanted)
    hard = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0, 0])
    assert torch.equal(visibility.unseen(cosines, "hard"), hard)


def test_an_occluded_camera_sees_nothing() -> None:
    """From +x a large sphere hides a small one completely."""
    spheres: list[Sphere] = [((0.8, 0.0, 0.0), 0.5), ((-0.9, 0.0, 0.0), 0.2)]
    reference = orbit_cameras(torch.zeros(1), torch.zeros(1), DISTANCE, 40.0, 128, 128)
    depths = see(reference, spheres).depth
    above = see(orbit_cameras(torch.tensor([0.0, 90.0]), torch.tensor([80.0, 10.0]), DISTANCE, 40.0, 96, 96), spheres)
    literal = visibility.facing(above.points, above.normals, reference)
    tested = visibility.facing(above.points, above.normals, reference, depths)
    large = (above.depth[..., 0] > 0) & (above.points[..., 0] > 0)
    small = (above.depth[..., 0] > 0) & (above.points[..., 0] < 0)
    assert small.sum() > 50 and (literal[small] > 0.5).any()
    assert (tested[small] == -1).all() and (visibility.unseen(tested[small], "soft") == 1).all()
    looked_at = large[..., None] & (literal > 0.1)  # as flat as the depth test is made for
    assert looked_at.sum() > 200 and torch.equal(tested[looked_at], literal[looked_at])
    away = large[..., None] & (literal < -0.1)
    assert away.any() and (tested[away] < 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_depth_test_reads_the_pixel_a_point_is_in(seed: int) -> None:
    """Camera-facing points anywhere in the pixels of a random depth map, in front of and behind it."""
    generator = torch.Generator().manual_seed(seed)
    camera = random_cameras(1, 24, generator)
    depth = 1 + 3 * torch.rand(1, 24, 24, 1, generator=generator)
    inside = 0.98 * torch.rand(2, 24, 24, generator=generator) + 0.01
    row, column = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    offset = torch.stack([(column + inside[0] - camera.cx) / camera.fx, (camera.cy - row - inside[1]) / camera.fy])
    directions = torch.cat([offset, -torch.ones(1, 24, 24)]).permute(1, 2, 0) @ camera.c2w[0, :3, :3].T
    normals = -F.normalize(directions, dim=-1)
    for behind, is_seen in [(-0.5, True), (0.9, True), (1.1, False)]:  # pixel footprints
        distance = depth[0] / (1 - behind / camera.fx)  # so that distance - depth = behind * distance / fx
        facing = visibility.facing(camera.centers + distance * directions, normals, camera, depth)
        assert ((facing > 0.99) == is_seen).all(), behind


def test_a_camera_sees_nothing_outside_its_image() -> None:
    narrow = orbit_cameras(torch.zeros(1), torch.zeros(1), DISTANCE, 5.0, 64, 64)
    points = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.4, 0.0], [9.0, 0.0, 0.0]])  # inside, outside, behind the camera
    normals = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    depths = torch.full((1, 64, 64, 1), 5.0)
    facing = visibility.facing(points, normals, narrow, depths)
    assert (facing[:, 0] > 0.5).tolist() == [True, False, False]


def reference_views(elevation_deg: float = 15.0, count: int = 3, size: int = RESOLUTION) -> ReferenceViews:
    """Return views of the front half only, so the back is unseen; the last is the input image at azimuth 30."""
    azimuth = torch.linspace(-30, 30, count)
    cameras = orbit_cameras(azimuth, torch.full_like(azimuth, elevation_deg), DISTANCE, 33.8, size, size)
    image = torch.full((count, size, size, 3), 0.5)
    mask = (see(cameras, [((0.0, 0.0, 0.0), 0.6)]).depth > 0).float()
    none = torch.zeros(count, dtype=torch.bool)
    return ReferenceViews(image, mask, cameras, tuple("abcdefgh"[:count]), none, input_views=(count - 1,))


def make(views: ReferenceViews | None = None, **options: Any) -> Any:
    options = {"prior": ComponentSpec("prior", "test-copying", CopyingPrior.Config("")), "frames": 5, **options}
    return MaskedSDS(MaskedSDS.Config(**options), views=views or reference_views(), device=CPU)


def render_of(seen: Seen, **changes: Tensor) -> Render:
    opacity = (seen.depth > 0).float()
    images = {"points": seen.points, "normal": seen.normals, "depth": seen.depth, **changes}
    return Render(0.5 * opacity + 1 - opacity, (0.5 * opacity).expand_as(seen.points), opacity, **images)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("elevation_deg", [0.0, -20.0, 75.0])
def test_orbits_are_closed_and_end_at_the_input_view(elevation_deg: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = reference_views(elevation_deg)
    guidance = make(views, frames=21)
    swings = []
    for step in range(40):
        cameras = guidance.request(step, generator).cameras
        assert len(cameras) == 21 and cameras.width == RESOLUTION
        torch.testing.assert_close(cameras.c2w[-1], views.cameras.c2w[-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(cameras.fy[-1:], views.cameras.fy[-1:])
        turn = (cameras.azimuth_deg - 30) % 360
        steps = turn[:-1].diff()
        assert (steps > 0).all() and turn[0] > 0 and turn[-2] < 360
        regular = 360 * torch.arange(1, 21) / 21
        assert (turn[:-1] - regular).abs().max() <= 5.001  # the jitter, to float32
        assert cameras.elevation_deg.abs().max() <= 89.01  # as arcsine in float32
        swings.append((cameras.elevation_deg - elevation_deg)[4].item())  # at 5/21 of the round: 0.997 of the amplitude
    room = min(40.0, 89 - abs(elevation_deg))
    assert max(map(abs, swings)) <= room + 0.1 and max(swings) > 0.3 * room and min(swings) < -0.3 * room, seed


def test_orbits_have_as_many_views_as_suit_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(SEEDS[0])
    assert len(make(frames=0).request(0, generator).cameras) == 12  # this prior takes any number of views
    monkeypatch.setattr(CopyingPrior, "frames", 21)
    assert len(make(frames=0).request(0, generator).cameras) == 21
    assert len(make(frames=5).request(0, generator).cameras) == 5


def test_more_jitter_than_half_a_step_is_refused() -> None:
    with pytest.raises(InputError, match="azimuth_jitter_deg"):
        make(frames=36)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", ["soft", "hard", "none", "soft-z-test"])
def test_latents_are_weighted_by_their_pixels_means(mode: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    views = reference_views(size=4 * RESOLUTION)  # finer than the depth maps of the z-test
    guidance = make(views, mask=mode)
    cameras = guidance.request(0, generator).cameras
    assert len(cameras) == (8 if mode == "soft-z-test" else 5)
    seen = see(cameras, [((0.0, 0.0, 0.0), 0.6)])
    mask = guidance.latent_mask(render_of(seen))
    assert mask.shape == (5, 1, 8, 8) and (mask[-1] == 0).all()
    cosine = sphere_facing(seen.normals[:5], views.cameras.centers, 0.6)
    pixels = {"none": torch.ones_like(cosine), "hard": (cosine < 0.25).double()}.get(mode, paper_mask(cosine))
    if mode != "none":
        pixels = pixels * (seen.depth[:5] > 0)
    wanted = pixels.reshape(5, 8, 4, 8, 4).mean((2, 4))
    # a pixel of 16 whose cosine is within rounding of the step may flip in the hard mask
    torch.testing.assert_close(mask[:4, 0].double(), wanted[:4], atol=0.07 if mode == "hard" else 1e-3, rtol=0)


def is_hidden(points: Tensor, center: Tensor, sphere: Sphere) -> Tensor:
    """Return [..., 1] whether the segment from a point to a camera's centre intersects a sphere."""
    away = F.normalize(center - points, dim=-1)
    offset = torch.tensor(sphere[0]) - points
    along = (offset * away).sum(-1, keepdim=True)
    return (along > 0) & (offset.square().sum(-1, keepdim=True) - along.square() < sphere[1] ** 2)


@pytest.mark.parametrize("resolution, size", [(0, 64), (96, 64), (64, RESOLUTION)])
def test_z_test_of_two_spheres(resolution: int, size: int) -> None:
    """At any resolution of renders and views, a view does not see what a sphere hides from it."""
    large: Sphere = ((0.4, 0.0, 0.0), 0.5)
    small: Sphere = ((-0.6, 0.0, -0.25), 0.4)
    views = reference_views(size=size)
    apart = {}
    for mode in ("soft-z-test", "soft"):
        guidance = make(views, mask=mode, resolution=resolution, frames=9)
        cameras = guidance.request(0, torch.Generator().manual_seed(SEEDS[0])).cameras
        seen = see(cameras, [large, small])
        points, normals = seen.points[:9], seen.normals[:9]
        best = torch.full_like(points[..., :1], -1.0)
        for center in views.cameras.centers:
            cosine = (F.normalize(center - points, dim=-1) * normals).sum(-1, keepdim=True)
            above = points + 1e-3 * normals
            hidden = is_hidden(above, center, large) | is_hidden(above, center, small)
            best = torch.where(hidden, best, torch.maximum(best, cosine))
        pixels = paper_mask(best) * (seen.depth[:9] > 0)
        wanted = F.interpolate(pixels.permute(0, 3, 1, 2), (8, 8), mode="area")[:-1]
        apart[mode] = float((guidance.latent_mask(render_of(seen))[:-1] - wanted).abs().sum() / wanted.sum())
    # the shadow's border is known to a pixel of the depth map: 0.001 to 0.011; the literal mask has no shadow: 0.05
    assert apart["soft-z-test"] < 0.02 and apart["soft"] > 0.03, (SEEDS[0], apart)


def test_the_loss_is_the_masked_mean_and_reaches_only_what_is_unseen() -> None:
    guidance = make()
    request = guidance.request(0, torch.Generator().manual_seed(SEEDS[0]))
    seen = see(request.cameras, [((0.0, 0.0, 0.0), 0.6)])
    render = render_of(seen)
    foreground = render.foreground.clone().requires_grad_()
    render = replace(render, foreground=foreground)
    loss = guidance.losses(request, render)["sds"]
    sigma, mask = request.sigma, guidance.latent_mask(render)
    latents = guidance.prior.encode(render.over(1.0), render.opacity)
    wanted = 0.5 * sigma / (1 + sigma**2) * (mask * (latents - 1).square()).mean()
    torch.testing.assert_close(loss, wanted)
    (gradient,) = torch.autograd.grad(loss, foreground)
    is_moved = F.interpolate(mask, RESOLUTION).permute(0, 2, 3, 1) > 0
    assert is_moved.any() and (gradient[is_moved.expand_as(gradient)] != 0).any()
    assert (gradient[~is_moved.expand_as(gradient)] == 0).all()


def test_the_scale_is_a_triangle_over_the_orbit() -> None:
    guidance = make(guidance_scale=3.0)
    request = guidance.request(0, torch.Generator())
    guidance.losses(request, render_of(see(request.cameras, [((0.0, 0.0, 0.0), 0.6)])))
    torch.testing.assert_close(guidance.prior.scales[0], torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0]))


@pytest.mark.parametrize("resolution", [0, 48])
@pytest.mark.parametrize("mode", ["soft", "hard", "none", "soft-z-test"])
def test_on_renders_of_a_mesh(mode: str, resolution: int) -> None:
    """Passes of the rasteriser give the mask of the true sphere, and gradients reach the vertices."""
    guidance = make(mask=mode, resolution=resolution)
    request = guidance.request(0, torch.Generator().manual_seed(SEEDS[0]))
    cameras = request.cameras
    assert cameras.width == (resolution or RESOLUTION)
    mesh = ball(0.6, 4)
    mesh = replace(mesh, vertices=mesh.vertices.requires_grad_())
    scene = scene_of(Solid(mesh=mesh))
    renderer = SurfaceRenderer(SurfaceRenderer.Config(), box=scene.geometry.box)
    render = renderer.render(scene, cameras, passes=request.passes)
    mask, exact = guidance.latent_mask(render), guidance.latent_mask(render_of(see(cameras, [((0.0,) * 3, 0.6)])))
    # facets turn interpolated normals by under 0.5 degrees; a hard step and the silhouette move single pixels
    assert (mask - exact).abs().mean() < 0.01 and (mask - exact).abs().max() < 0.3
    guidance.losses(request, render)["sds"].backward()
    assert mesh.vertices.grad is not None and mesh.vertices.grad.abs().sum() > 0


@pytest.mark.parametrize("variant", ["p", "u"])
def test_with_the_real_network(tmp_path: Path, variant: str) -> None:
    """A step with SV3D in miniature follows the formula for any encoder chunk, on orbits that suit the weights."""
    weights = write_tiny_sv3d(tmp_path / "tiny.safetensors", variant=variant, image_size=RESOLUTION)
    gradients = []
    for chunk in (2, 5):
        prior = ComponentSpec("prior", "sv3d", SV3D.Config(str(weights)))
        guidance = make(prior=prior, encoder_chunk=chunk)
        request = guidance.request(0, torch.Generator().manual_seed(SEEDS[0]))
        seen = see(request.cameras, [((0.0, 0.0, 0.0), 0.6)])
        render = render_of(seen)
        foreground = render.foreground.clone().requires_grad_()
        loss = guidance.losses(request, replace(render, foreground=foreground))["sds"]
        gradients.append(torch.autograd.grad(loss, foreground)[0])
    with torch.no_grad():
        latents = guidance.prior.encode(render.over(1.0), render.opacity)
        sigma, scales = request.sigma, torch.tensor([1.0, 1.75, 2.5, 1.75, 1.0])
        noisy = latents + sigma * request.noise
        denoised = guidance.prior.denoise(NoisyViews(noisy, sigma, guidance.condition, request.views, scales))
        squares = guidance.latent_mask(render) * (latents - denoised).square()
    torch.testing.assert_close(loss.detach(), 0.5 * sigma / (1 + sigma**2) * squares.mean())
    assert (request.views.elevation_deg.std() > 1) == (variant == "p")
    # float32 convolutions with other batch sizes
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * gradients[1].abs().max().item())
    assert gradients[0].abs().max() > 0 and gradients[0].isfinite().all()


def test_a_network_without_cameras_is_refused_on_orbits_that_swing(tmp_path: Path) -> None:
    weights = write_tiny_sv3d(tmp_path / "tiny.safetensors", variant="u", image_size=RESOLUTION)
    with pytest.raises(InputError, match="sv3d_u"):
        make(prior=ComponentSpec("prior", "sv3d", SV3D.Config(str(weights))), amplitude_deg=40.0)
