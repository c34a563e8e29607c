"""The volume renderer on a ball and a slab of constant density, whose images are known in closed form."""

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import COLOR, Solid, orbit, scene_of, sphere_hits
from torch import Tensor

from liftstudio.data.cameras import Cameras
from liftstudio.data.render import Render
from liftstudio.guidance import losses
from liftstudio.lights.spherical_gaussians import SphericalGaussians
from liftstudio.renderers.scene import Scene
from liftstudio.renderers.volume import VolumeRenderer

RADIUS, BACKGROUND = 0.6, (0.1, 0.3, 0.9)
PASSES = frozenset({"normal", "distortion"})


class Slab(Solid):
    def inside(self, points: Tensor) -> Tensor:
        return points[:, :1].abs() < 0.25


def renderer_of(scene: Scene, **options: int) -> VolumeRenderer:
    return VolumeRenderer(VolumeRenderer.Config(**{"grid_resolution": 16, **options}), box=scene.geometry.box)  # type: ignore[arg-type]


def ball_scene(density: float) -> Scene:
    light = SphericalGaussians(SphericalGaussians.Config(lobes=3))
    return scene_of(Solid(density, RADIUS), light, BACKGROUND)


@torch.no_grad()
def picture(scene: Scene, cameras: Cameras, **options: int) -> Render:
    return renderer_of(scene, **options).render(scene, cameras, passes=PASSES)


@pytest.mark.parametrize("density", [0.5, 4.0, 60.0])
def test_ball(density: float) -> None:
    scene, cameras = ball_scene(density), orbit(3, 24)
    render = picture(scene, cameras, samples_across=256)
    near, far, hit = sphere_hits(cameras, RADIUS)
    chord = far - near
    opacity = -torch.expm1(-density * chord)
    # Samples are in or out as a whole, so a chord is off by up to one step of 2 / 256 at each end.
    off = (density * 2 * 2 / 256 * (1 - opacity) + 1e-4) * hit
    assert ((render.opacity - opacity).abs() <= off).all()
    assert render.albedo is not None and render.depth is not None and render.points is not None
    torch.testing.assert_close(render.albedo, render.opacity * COLOR)
    # The mean of an exponential cut off at the chord's end
    distance = near + 1 / density - chord * torch.exp(-density * chord) / opacity.clamp_min(1e-6)
    cosine = (cameras.rays()[1] * cameras.forward[:, None, None]).sum(-1, keepdim=True)
    solid = chord > 0.2
    torch.testing.assert_close(render.depth[solid], (distance * cosine)[solid], atol=2 * 2 / 256, rtol=0)
    assert (render.depth[render.opacity == 0] == 0).all()
    assert (render.points[render.opacity[..., 0] == 0] == 0).all()
    _, depth = cameras[:1].project(render.points[0].reshape(-1, 3))
    seen = solid[0].flatten()
    torch.testing.assert_close(depth[0][seen], render.depth[0].flatten()[seen])


def test_shading_with_the_normals_of_a_dense_ball() -> None:
    scene, cameras = ball_scene(200.0), orbit(2, 24)
    render = picture(scene, cameras)
    origins, directions = cameras.rays()
    near, far, _ = sphere_hits(cameras, RADIUS)
    normal = F.normalize(origins + near * directions, dim=-1)
    solid = (far - near)[..., 0] > 0.4
    assert render.normal is not None and render.irradiance is not None
    torch.testing.assert_close(render.normal[solid], normal[solid], atol=0.03, rtol=0)
    assert (render.normal[~(render.opacity[..., 0] > 0)] == 0).all()
    irradiance = scene.light.irradiance(render.normal[solid])
    torch.testing.assert_close(render.irradiance[solid], irradiance)
    torch.testing.assert_close(render.foreground[solid], COLOR * irradiance * render.opacity[solid])
    torch.testing.assert_close(render.rgb, render.over(torch.tensor(BACKGROUND)))


def test_slab_seen_from_the_front() -> None:
    scene = scene_of(Slab(3.0))
    cameras = orbit(1, 3, 0.0)  # looks along -x
    render = picture(scene, cameras, samples_across=200)
    cosine = (cameras.rays()[1] * cameras.forward[:, None, None]).sum(-1, keepdim=True)
    torch.testing.assert_close(render.opacity, -torch.expm1(-3.0 * 0.5 / cosine), atol=0.02, rtol=0)


def test_passes_are_there_when_asked_for() -> None:
    scene, cameras = scene_of(Solid(5.0)), orbit(1, 8)
    render = renderer_of(scene).render(scene, cameras)
    assert render.normal is None and render.distortion is None  # uniform light needs no normals
    assert render.albedo is not None and render.depth is not None and render.points is not None
    render = renderer_of(scene).render(scene, cameras, passes=PASSES)
    assert render.normal is not None and render.distortion is not None
    assert render.distortion.shape == (1, 8, 8, 1) and render.distortion.max() > 0


def test_chunks_change_nothing() -> None:
    scene, cameras = ball_scene(4.0), orbit(2, 12)
    whole, chunked = picture(scene, cameras), picture(scene, cameras, eval_rays=50)
    training = renderer_of(scene).render(scene, cameras, passes=PASSES)  # with gradients: all rays at once
    asked = {name: image for name, image in vars(whole).items() if image is not None}
    assert set(asked) >= PASSES
    for name, image in asked.items():
        torch.testing.assert_close(getattr(chunked, name), image, msg=name)
        torch.testing.assert_close(getattr(training, name).detach(), image, msg=name)


def test_normals_of_samples_that_hardly_show_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fog of density 40 the first 0.15 of a ray holds all but 0.2 % of its weight."""
    scene, cameras = ball_scene(40.0), orbit(2, 16)
    asked: list[int] = []
    true_normals = scene.geometry.normals
    monkeypatch.setattr(scene.geometry, "normals", lambda points: asked.append(len(points)) or true_normals(points))
    sparse = picture(scene, cameras)
    monkeypatch.setattr("liftstudio.renderers.volume.MIN_WEIGHT", -1.0)
    full = picture(scene, cameras)
    assert sparse.normal is not None and full.normal is not None
    assert asked[0] < 0.5 * asked[1]
    torch.testing.assert_close(sparse.normal, full.normal, atol=5e-3, rtol=0)


def test_gradients_reach_colour_and_light_but_not_shape_through_normals() -> None:
    scene, cameras = ball_scene(4.0), orbit(1, 8)
    renderer_of(scene).render(scene, cameras).foreground.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scene.light.parameters())


def test_orientation_and_background_are_passes() -> None:
    """A fog ball whose normals all point up: from below they face away, by the cosine squared."""
    scene, cameras = ball_scene(4.0), orbit(1, 8, -60.0)
    scene.geometry.normals = lambda points: torch.tensor([0.0, 0, 1.0]).expand_as(points)  # type: ignore[method-assign]
    options = {"normal_gradients": True}
    render = renderer_of(scene, **options).render(scene, cameras, passes=frozenset({"orientation", "background"}))
    assert render.orientation is not None and render.background is not None
    away = cameras.rays()[1][..., 2:].clamp_min(0).square()
    torch.testing.assert_close(render.orientation, away * render.opacity, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(render.over(render.background), render.rgb)
    seen = losses.orientation(render.orientation, render.opacity)
    hit = (render.opacity > 0).sum()
    torch.testing.assert_close(seen, render.orientation.sum() / hit)
    assert picture(scene, cameras).orientation is None


def test_occupancy_keeps_the_ball_and_drops_the_rest() -> None:
    scene, cameras = ball_scene(30.0), orbit(2, 16)
    renderer = renderer_of(scene)
    before = renderer.render(scene, cameras).opacity
    assert renderer.occupancy.occupied.all()
    generator = torch.Generator().manual_seed(0)
    for step in range(9):
        renderer.update(scene, step * renderer.config.update_every, generator)
    share = renderer.occupancy.occupied.float().mean().item()
    volume = 4 / 3 * torch.pi * RADIUS**3 / 8
    assert volume * 0.9 < share < volume * 1.6  # the cells of 1/8 that the ball touches
    after = renderer.render(scene, cameras).opacity
    assert (after - before).abs().mean() < 0.01


def test_occupancy_is_updated_now_and_then() -> None:
    scene = ball_scene(30.0)
    renderer, generator = renderer_of(scene, update_every=4), torch.Generator().manual_seed(0)
    renderer.update(scene, 3, generator)
    assert renderer.occupancy.occupied.all()
    renderer.update(scene, 4, generator)
    assert not renderer.occupancy.occupied.all()


def test_jitter_moves_samples_about_the_same_picture() -> None:
    scene, cameras = ball_scene(4.0), orbit(1, 16)
    renderer = renderer_of(scene)
    pictures = [
        renderer.render(scene, cameras, generator=torch.Generator().manual_seed(seed)).opacity for seed in (0, 0, 1)
    ]
    assert torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    torch.testing.assert_close(pictures[0], pictures[2], atol=4.0 * 2 * 2 / 128, rtol=0)
