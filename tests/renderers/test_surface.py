"""The surface renderer on a ball, whose images are known in closed form."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import COLOR, Solid, ball, orbit, scene_of, sphere_hits

from liftstudio.core.errors import InputError
from liftstudio.data.cameras import Cameras
from liftstudio.data.mesh import Mesh
from liftstudio.data.render import Render
from liftstudio.lights.spherical_gaussians import SphericalGaussians
from liftstudio.renderers.scene import Scene
from liftstudio.renderers.surface import SurfaceRenderer

RADIUS, BACKGROUND = 0.6, (0.1, 0.3, 0.9)


def ball_scene(mesh: Mesh) -> Scene:
    light = SphericalGaussians(SphericalGaussians.Config(lobes=3))
    return scene_of(Solid(mesh=mesh), light, BACKGROUND)


def render_of(scene: Scene, cameras: Cameras) -> Render:
    return SurfaceRenderer(SurfaceRenderer.Config(), box=scene.geometry.box).render(scene, cameras)


def projected_area(cameras: Cameras, radius: float) -> float:
    """Return the area in pixels of the disc of a sphere at the origin."""
    distance = cameras.distance[0].item()
    return math.pi * (cameras.fx[0].item() * radius) ** 2 / (distance**2 - radius**2)


def test_ball() -> None:
    scene, cameras = ball_scene(ball(RADIUS, 4)), orbit(3, 48, [0.0, 40.0, -40.0])
    render = render_of(scene, cameras)
    assert render.depth is not None and render.normal is not None and render.points is not None
    origins, directions = cameras.rays()
    near, far, _ = sphere_hits(cameras, RADIUS)
    inner = (far - near)[..., 0] > 0.4
    points = origins + near * directions
    cosine = (directions * cameras.forward[:, None, None]).sum(-1, keepdim=True)
    # The ball's 5120 flat faces lie up to 0.0013 inside the sphere.
    torch.testing.assert_close(render.depth[inner], (near * cosine)[inner], atol=0.005, rtol=0)
    torch.testing.assert_close(render.points[inner], points[inner], atol=0.005, rtol=0)
    torch.testing.assert_close(render.normal[inner], F.normalize(points, dim=-1)[inner], atol=0.01, rtol=0)
    torch.testing.assert_close(render.opacity[inner], torch.ones_like(render.opacity[inner]))
    outside = render.opacity[..., 0] == 0
    for image in (render.depth, render.points, render.normal, render.foreground):
        assert (image[outside] == 0).all()


def test_opacity_covers_the_disc() -> None:
    cameras = orbit(2, 48)
    opacity = render_of(ball_scene(ball(RADIUS, 4)), cameras).opacity
    assert (opacity >= 0).all() and (opacity <= 1).all()
    # Antialiasing is right to a few hundredths of a pixel per silhouette pixel, of which there are about 100.
    assert opacity.sum().item() / 2 == pytest.approx(projected_area(cameras, RADIUS), rel=0.01)


def test_shading() -> None:
    scene, cameras = ball_scene(ball(RADIUS, 3)), orbit(1, 32)
    render = render_of(scene, cameras)
    assert render.normal is not None and render.irradiance is not None and render.albedo is not None
    inner = (render.opacity[..., 0] == 1) & (render.normal.norm(dim=-1) > 0)
    torch.testing.assert_close(render.irradiance[inner], scene.light.irradiance(render.normal[inner]))
    # Pixels next to the silhouette blend with their neighbours.
    blended = (render.albedo[inner] - COLOR).abs().amax(-1) > 1e-5
    assert blended.float().mean() < 0.25
    shaded = COLOR * render.irradiance[inner]
    torch.testing.assert_close(render.foreground[inner][~blended], shaded[~blended], atol=0.02, rtol=0)
    torch.testing.assert_close(render.rgb, render.over(torch.tensor(BACKGROUND)))


def test_gradient_of_the_covered_area() -> None:
    """The disc's area grows with the radius as it does in closed form."""
    scale = torch.ones((), requires_grad=True)
    mesh, cameras = ball(RADIUS, 4), orbit(2, 48)
    render_of(ball_scene(Mesh(mesh.vertices * scale, mesh.faces)), cameras).opacity.sum().backward()
    step = 1e-3
    larger, smaller = (projected_area(cameras, RADIUS * (1 + s)) for s in (step, -step))
    assert scale.grad is not None
    assert scale.grad.item() / 2 == pytest.approx((larger - smaller) / (2 * step), rel=0.05)


def test_gradients_reach_light_and_vertices_through_shading() -> None:
    mesh = ball(RADIUS, 2)
    vertices = mesh.vertices.requires_grad_()
    scene = ball_scene(Mesh(vertices, mesh.faces))
    render_of(scene, orbit(1, 16)).rgb.square().sum().backward()
    assert vertices.grad is not None and torch.isfinite(vertices.grad).all() and vertices.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scene.light.parameters())


def test_nothing_in_view_is_background() -> None:
    render = render_of(ball_scene(Mesh(ball().vertices + 50.0, ball().faces)), orbit(1, 8))
    assert (render.opacity == 0).all()
    torch.testing.assert_close(render.rgb, torch.tensor(BACKGROUND).expand(1, 8, 8, 3))


def test_a_surface_without_faces_is_refused() -> None:
    with pytest.raises(InputError, match="no surface to render"):
        render_of(ball_scene(Mesh(ball().vertices, torch.empty(0, 3, dtype=torch.int64))), orbit(1, 8))
