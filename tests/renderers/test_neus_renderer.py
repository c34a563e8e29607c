"""NeuS's opacities compared with the paper's formula, and images of balls with closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import COLOR, Solid, orbit, scene_of, sphere_hits
from torch import Tensor

from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render
from liftstudio.geometry.instant_ngp import InstantNGP
from liftstudio.ops.compositing import composite
from liftstudio.ops.marching import Samples, march
from liftstudio.renderers.neus import NEGLIGIBLE, NeusRenderer, crossing, cut, section_density, section_ends
from liftstudio.renderers.scene import Scene

RADIUS = 0.6
EXACT = torch.tensor(1.0)


class Ball(Solid):
    """The true signed distance of a sphere, of one colour."""

    def __init__(self, sharpness: float, radius: float = RADIUS) -> None:
        super().__init__(radius=radius)
        self.s = torch.nn.Parameter(torch.tensor(sharpness))

    def signed_distance(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1, keepdim=True) - self.radius

    def sharpness(self) -> Tensor:
        return self.s


def renderer_of(scene: Scene, step: int = 1000, **options: object) -> NeusRenderer:
    """Return a renderer after annealing, with an occupancy grid updated for the scene."""
    renderer = NeusRenderer(NeusRenderer.Config(**{"grid_resolution": 32, **options}), box=scene.geometry.box)  # type: ignore[arg-type]
    renderer.config.warm_up = renderer.config.update_every = step + 1
    renderer.update(scene, 0, torch.Generator().manual_seed(0))
    renderer.update(scene, step, torch.Generator())
    return renderer


@torch.no_grad()
def picture(scene: Scene, cameras: Cameras, passes: frozenset[str] = frozenset(), **options: object) -> Render:
    return renderer_of(scene, **options).render(scene, cameras, passes=passes)


def ends(count: int = 400) -> tuple[Tensor, Tensor]:
    """Return distances at the ends of sections, in all orders, in float64."""
    first, last = 0.3 * torch.randn(2, count, dtype=torch.float64)
    return first, last


def random_samples(rays: int = 40) -> Samples:
    """Return samples from marching random occupied cells."""
    origins = torch.tensor([3.0, 0.1, -0.2]).expand(rays, 3)
    directions = F.normalize(torch.randn(rays, 3) * 0.3 - origins, dim=-1)
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    return march(origins, directions, torch.rand(8, 8, 8) < 0.6, box, 0.05, jitter=torch.rand(rays))


@pytest.mark.parametrize("sharpness", [3.0, 40.0])
def test_opacity_is_that_of_the_paper(sharpness: float) -> None:
    first, last = ends()
    density = section_density(first, last, 0.05, torch.tensor(sharpness, dtype=torch.float64), EXACT.double())
    before, after = torch.sigmoid(sharpness * first), torch.sigmoid(sharpness * last)
    wanted = ((before - after) / before).clamp_min(0)  # eq. 13
    torch.testing.assert_close(-torch.expm1(-0.05 * density), wanted, atol=1e-12, rtol=1e-9)
    assert (density[last >= first] == 0).all() and (density[last < first] > 0).all()


@pytest.mark.parametrize("annealing", [0.0, 0.3, 1.0])
def test_cosine_annealing(annealing: float) -> None:
    """Distances half a section before and behind its middle follow the annealed cosine; 1e-5 excepted."""
    first, last, length, sharpness = *ends(), 0.1, torch.tensor(12.0, dtype=torch.float64)
    cosine = (last - first) / length
    steepness = -(F.relu(0.5 - 0.5 * cosine) * (1 - annealing) + F.relu(-cosine) * annealing)
    middle = (first + last) / 2
    before, after = (torch.sigmoid(sharpness * (middle + way * steepness * length / 2)) for way in (-1, 1))
    density = section_density(first, last, length, sharpness, torch.tensor(annealing, dtype=torch.float64))
    torch.testing.assert_close(-torch.expm1(-length * density), (before - after) / before, atol=1e-12, rtol=1e-9)
    leaving = (cosine > 0) & (cosine < 1)
    assert (density[leaving] > 0).all() if annealing < 1 else (density[leaving] == 0).all()


def test_gradients_of_the_density() -> None:
    first, last = (end.requires_grad_() for end in ends(20))
    sharpness = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    half = torch.tensor(0.5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: section_density(a[0], a[1], 0.1, a[2], half), (first, last, sharpness))


def test_values_far_from_the_surface_are_finite() -> None:
    first = torch.tensor([90.0, -90.0, 0.5, -0.5], requires_grad=True)
    density = section_density(first, first.detach() - 0.3, 0.3, torch.tensor(1e4), EXACT)
    density.sum().backward()
    assert torch.isfinite(density).all() and first.grad is not None and torch.isfinite(first.grad).all()
    assert density[0] == 0 and density[1].item() == pytest.approx(1e4, rel=1e-3)  # deep inside: s per unit of distance


@pytest.mark.parametrize("sharpness", [20.0, 100.0, 500.0])
def test_weights_peak_at_the_surface(sharpness: float) -> None:
    """Unbiased to first order: the section with the largest weight is where a ray enters the ball, at any angle."""
    count = 50
    origins = torch.cat([torch.full((count, 1), -2.0), 0.55 * (2 * torch.rand(count, 2) - 1)], dim=1)
    origins = origins[origins[:, 1:].norm(dim=-1) < 0.45]
    direction = torch.tensor([1.0, 0.0, 0.0]).expand_as(origins)
    everything, box = torch.ones(1, 1, 1, dtype=torch.bool), torch.tensor([[-1.0] * 3, [1.0] * 3])
    samples = march(origins, direction, everything, box, 0.002, jitter=torch.rand(len(origins)))
    ball = Ball(sharpness)
    ray, t, end = section_ends(samples)
    distance = ball.signed_distance(origins[ray] + t[:, None] * direction[ray])[:, 0]
    density = section_density(distance[: len(end)], distance[end], 0.002, ball.sharpness(), EXACT)
    weights = composite(density, density[:, None], samples).weights
    for index, (begin, stop) in enumerate(zip(samples.offsets[:-1], samples.offsets[1:], strict=True)):
        peak = samples.t_mid[begin:stop][weights[begin:stop].argmax()]
        surface = 2 - math.sqrt(RADIUS**2 - float(origins[index, 1:].square().sum()))
        # To second order the cosine c changes along the ray, which moves the peak by 2 (1 - c^2) / (r s^2 c^3).
        assert abs(float(peak) - surface) < 0.002 + 8 / sharpness**2


@pytest.mark.parametrize("sharpness", [25.0, 300.0])
def test_opacity_of_a_ball(sharpness: float) -> None:
    """Transmittance is Phi nearest to the centre over Phi at the entry into the box."""
    scene, cameras = scene_of(Ball(sharpness)), orbit(2, 32)
    render = picture(scene, cameras)
    origins, directions = cameras.rays()
    along = -(origins * directions).sum(-1, keepdim=True)
    nearest = (origins + along * directions).norm(dim=-1, keepdim=True) - RADIUS
    opacity = 1 - torch.sigmoid(sharpness * nearest)
    # Cells, steps and what lies behind opaque steps count as empty where each holds at most NEGLIGIBLE.
    torch.testing.assert_close(render.opacity, opacity, atol=10 * NEGLIGIBLE, rtol=0)
    assert opacity.max() > 0.99 and opacity.min() < 0.01


def test_picture_of_a_sharp_ball() -> None:
    scene, cameras = scene_of(Ball(800.0)), orbit(3, 24)
    render = picture(scene, cameras, frozenset({"normal", "distortion"}), pieces=4)
    origins, directions = cameras.rays()
    near, far, _ = sphere_hits(cameras, RADIUS)
    solid = (far - near)[..., 0] > 0.3
    hits = origins + near * directions
    assert render.points is not None and render.normal is not None and render.albedo is not None
    torch.testing.assert_close(render.points[solid], hits[solid], atol=2 / 128 / 4, rtol=0)  # a piece
    torch.testing.assert_close(render.normal[solid], F.normalize(hits[solid], dim=-1), atol=0.02, rtol=0)
    torch.testing.assert_close(render.albedo, render.opacity * COLOR)


def test_pieces_are_cut_as_the_surface_sharpens() -> None:
    cameras, counts = orbit(1, 16), []
    origins, directions = (rays.reshape(-1, 3) for rays in cameras.rays())
    for sharpness in (20.0, 128.0, 500.0):
        scene = scene_of(Ball(sharpness))
        samples = renderer_of(scene, pieces=4)._sections(scene, origins, directions, None)
        lengths = samples.t_end - samples.t_start
        counts.append(round(2 / 128 / float(lengths.mean())))
        assert lengths.max() == pytest.approx(float(lengths.min()), rel=1e-3)
    assert counts == [1, 2, 4]


def test_nothing_is_marched_behind_opaque_samples() -> None:
    scene, cameras = scene_of(Ball(300.0)), orbit(1, 16)
    origins, directions = (rays.reshape(-1, 3) for rays in cameras.rays())
    samples = renderer_of(scene)._sections(scene, origins, directions, None)
    near, far, _ = (image.flatten() for image in sphere_hits(cameras, RADIUS))
    deep = (far - near)[samples.ray_index] > RADIUS  # at 60 degrees or less to the normal
    beyond = samples.t_mid - near[samples.ray_index]
    reach = -math.log(NEGLIGIBLE) / 300  # where a ray has almost all its light, or none
    assert deep.any() and beyond[deep].abs().max() < 2 * (reach + 2 / 128) + 2 / 128


def test_occupied_cells_are_those_about_the_surface() -> None:
    sharpness = 200.0
    renderer = renderer_of(scene_of(Ball(sharpness)))
    middles = (torch.stack(torch.meshgrid(*[torch.arange(32)] * 3, indexing="ij"), dim=-1) + 0.5) / 16 - 1
    gap = (middles.norm(dim=-1) - RADIUS).abs()
    reach = math.log(sharpness / 64 / NEGLIGIBLE) / sharpness  # where a step's density is negligible
    half_diagonal = math.sqrt(3) / 32
    occupied = renderer.occupancy.occupied
    assert occupied[gap < half_diagonal].all() and not occupied[gap > half_diagonal + 1.1 * reach].any()
    assert 0.05 < occupied.float().mean() < 0.3


def test_the_grid_follows_a_surface_that_moves() -> None:
    scene = scene_of(Ball(200.0))
    renderer = renderer_of(scene)
    scene.geometry.radius = 0.3
    renderer.update(scene, 0, torch.Generator().manual_seed(1))
    fresh = renderer_of(scene)
    assert torch.equal(renderer.occupancy.occupied, fresh.occupancy.occupied)


def test_section_ends() -> None:
    samples = random_samples()
    ray, t, end = section_ends(samples)
    count = len(samples.t_start)
    assert torch.equal(ray[:count], samples.ray_index) and torch.equal(t[:count], samples.t_start)
    torch.testing.assert_close(t[end], samples.t_end)
    assert torch.equal(ray[end], samples.ray_index)
    assert torch.equal(torch.unique(end), end.sort().values)  # no position ends two samples
    places = {(int(r), round(float(d), 4)) for r, d in zip(ray, t, strict=True)}
    assert len(places) == len(ray) < 1.6 * count  # without duplicates


def test_cut() -> None:
    steps = random_samples()
    chosen = torch.rand(len(steps.t_start)) < 0.5
    pieces = cut(steps, chosen, 3)
    assert len(pieces.t_start) == 3 * int(chosen.sum()) == int(pieces.offsets[-1])
    torch.testing.assert_close(pieces.t_start[::3], steps.t_start[chosen])
    torch.testing.assert_close(pieces.t_end[2::3], steps.t_end[chosen])
    torch.testing.assert_close(
        pieces.t_end - pieces.t_start, torch.full_like(pieces.t_end, 0.05 / 3), atol=2e-6, rtol=0
    )
    for r, (begin, stop) in enumerate(zip(pieces.offsets[:-1], pieces.offsets[1:], strict=True)):
        assert (pieces.ray_index[begin:stop] == r).all()
    assert len(cut(steps, torch.zeros_like(chosen), 3).t_start) == 0


def test_crossing() -> None:
    first = torch.tensor([0.3, 0.2, 0.0, -0.1, 0.1, 0.1])
    last = torch.tensor([-0.1, 0.1, -0.2, -0.3, 0.1, 0.4])
    torch.testing.assert_close(crossing(first, last), torch.tensor([0.75, 1.0, 0.0, 0.0, 0.5, 0.5]))


def test_gradients_grow_a_ball_that_is_too_small() -> None:
    """More opacity means a smaller distance everywhere; the gradient reaches the sharpness."""
    scene, cameras = scene_of(Ball(30.0)), orbit(1, 12)
    offset = torch.zeros((), requires_grad=True)
    ball = scene.geometry
    distance = ball.signed_distance
    ball.signed_distance = lambda points: distance(points) + offset
    renderer_of(scene).render(scene, cameras).opacity.sum().backward()
    assert offset.grad is not None and offset.grad < 0
    assert ball.s.grad is not None and torch.isfinite(ball.s.grad)


def test_chunks_and_jitter() -> None:
    scene, cameras = scene_of(Ball(100.0)), orbit(2, 12)
    whole, chunked = picture(scene, cameras), picture(scene, cameras, eval_rays=50)
    torch.testing.assert_close(chunked.rgb, whole.rgb)
    renderer = renderer_of(scene)
    shifted = [renderer.render(scene, cameras, generator=torch.Generator().manual_seed(n)).opacity for n in (0, 0, 1)]
    assert torch.equal(shifted[0], shifted[1]) and not torch.equal(shifted[0], shifted[2])
    torch.testing.assert_close(shifted[0], whole.opacity, atol=0.02, rtol=0)


def test_a_ray_that_hits_nothing() -> None:
    scene = scene_of(Ball(300.0, radius=0.05))
    render = picture(scene, orbit(1, 4)[:1], frozenset({"normal"}))
    assert torch.isfinite(render.rgb).all() and render.opacity[0, 0, 0] == 0 and (render.rgb[0, 0, 0] == 1).all()


def test_annealing_is_part_of_the_state() -> None:
    scene = scene_of(Ball(50.0))
    renderer = renderer_of(scene, step=50, cosine_annealing=Schedule.parse([0, 0, 1, 200]))
    assert renderer.cosine_annealing == 0.25
    other = NeusRenderer(renderer.config, box=scene.geometry.box)
    other.load_state_dict(renderer.state_dict())
    cameras = orbit(1, 8)
    assert torch.equal(other.render(scene, cameras).opacity, renderer.render(scene, cameras).opacity)


def test_options_out_of_range() -> None:
    with pytest.raises(InputError, match=r"^renderer\.cosine_annealing: expected 0 to 1, got 2$"):
        parse({"cosine_annealing": [0, 0, 2, 10]}, NeusRenderer.Config, "renderer")


def test_a_density_is_not_a_distance() -> None:
    assert not InstantNGP.is_signed_distance() and Ball.is_signed_distance()
    with pytest.raises(InputError, match="no signed distance: render it with"):
        Solid().signed_distance(torch.zeros(1, 3))
