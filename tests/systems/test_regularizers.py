"""Regularisers: only active ones, by name, on renders and on geometry."""

import pytest
import torch
from helpers.tiny_scenes import TINY_GRID, Solid, ball, orbit, scene_of

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.geometry.dmtet import DMTet
from liftstudio.geometry.neus import DistanceGridConfig, NeuS
from liftstudio.renderers.neus import NeusRenderer
from liftstudio.renderers.scene import Scene
from liftstudio.renderers.surface import SurfaceRenderer
from liftstudio.renderers.volume import VolumeRenderer
from liftstudio.systems import regularizers
from liftstudio.systems.regularizers import Regularizers

ON_RENDERS = ("sparsity", "opaque", "distortion", "orientation", "albedo_smoothness", "normal_smoothness")
ON_GEOMETRY = ("eikonal", "laplacian", "normal_consistency")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def dmtet_scene() -> Scene:
    config = DMTet.Config(grid=TINY_GRID, resolution=12)
    return scene_of(DMTet(config, device=torch.device("cpu"), generator=generator()))


def test_active_follows_the_schedules() -> None:
    weights = Regularizers(lambda_sparsity=Schedule.parse([[10, 0], [20, 1]]), lambda_opaque=Schedule.constant(-2))
    assert Regularizers().active(0) == {}
    assert weights.active(10) == {"opaque": -2} and weights.active(15) == {"opaque": -2, "sparsity": 0.5}


def test_every_option_is_a_loss() -> None:
    everything = Regularizers(**{f"lambda_{name}": Schedule.constant(1) for name in (*ON_RENDERS, *ON_GEOMETRY)})
    assert len(vars(everything)) == len(everything.active(0)) == len(ON_RENDERS) + len(ON_GEOMETRY)


@pytest.mark.parametrize("name", ON_RENDERS)
def test_losses_on_a_volume_render(name: str) -> None:
    scene = scene_of(Solid(3.0))
    active = {name: 1.0}
    renderer = VolumeRenderer(VolumeRenderer.Config(grid_resolution=16), box=scene.geometry.box)
    render = renderer.render(scene, orbit(1, 12), passes=regularizers.passes(active))
    losses = regularizers.render_losses(active, render, scene, generator())
    assert set(losses) == {name} and losses[name].shape == ()
    # The ball has one colour, and its normals change by a few degrees per step.
    assert losses[name] == 0 if name == "albedo_smoothness" else losses[name] > 0
    assert regularizers.geometry_losses(active, scene.geometry, generator()) == {}


def test_albedo_smoothness_teaches_the_appearance() -> None:
    scene = dmtet_scene()
    torch.nn.init.normal_(scene.geometry.hash_field.table)
    render = SurfaceRenderer(SurfaceRenderer.Config(), box=scene.geometry.box).render(scene, orbit(1, 16))
    losses = regularizers.render_losses({"albedo_smoothness": 1.0}, render, scene, generator())
    losses["albedo_smoothness"].backward()
    assert scene.geometry.hash_field.table.grad is not None and scene.geometry.hash_field.table.grad.abs().sum() > 0
    assert scene.geometry.sdf.grad is None or scene.geometry.sdf.grad.abs().sum() == 0


def neus_scene() -> Scene:
    config = NeuS.Config(grid=TINY_GRID, distance_grid=DistanceGridConfig(**vars(TINY_GRID)))
    return scene_of(NeuS(config, device=torch.device("cpu"), generator=generator()))


def test_normal_smoothness_of_a_sphere() -> None:
    """A step e along a sphere of radius r turns the normal by e / r, in two of three directions."""
    scene = neus_scene()
    scene.geometry.config.normals = "analytic"
    renderer = NeusRenderer(NeusRenderer.Config(grid_resolution=16), box=scene.geometry.box)
    render = renderer.render(scene, orbit(4, 32))
    loss = regularizers.render_losses({"normal_smoothness": 1.0}, render, scene, generator())["normal_smoothness"]
    assert loss.item() == pytest.approx(2 * (0.02 / 0.5) ** 2, rel=0.15)  # about 700 points
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in scene.geometry.distance.parameters())


def test_eikonal_draws_its_points_from_the_generator() -> None:
    scene = neus_scene()
    torch.nn.init.normal_(scene.geometry.distance.table)
    losses = [
        regularizers.geometry_losses({"eikonal": 1.0}, scene.geometry, torch.Generator().manual_seed(seed))["eikonal"]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_albedo_smoothness_where_nothing_is_seen() -> None:
    scene = scene_of(Solid(0.0))
    renderer = VolumeRenderer(VolumeRenderer.Config(grid_resolution=16), box=scene.geometry.box)
    losses = regularizers.render_losses(
        {"albedo_smoothness": 1.0}, renderer.render(scene, orbit(1, 8)), scene, generator()
    )
    assert losses["albedo_smoothness"] == 0


@pytest.mark.parametrize("name", ON_GEOMETRY)
def test_losses_on_a_geometry(name: str) -> None:
    scene = dmtet_scene()
    torch.nn.init.normal_(scene.geometry.deformation, generator=generator())
    losses = regularizers.geometry_losses({name: 1.0}, scene.geometry, generator())
    assert set(losses) == {name} and losses[name] > 0
    losses[name].backward()
    gradients = [p.grad for p in (scene.geometry.sdf, scene.geometry.deformation) if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients) and any(g.abs().sum() > 0 for g in gradients)


def test_losses_that_do_not_apply() -> None:
    scene = scene_of(Solid(mesh=ball()))
    render = SurfaceRenderer(SurfaceRenderer.Config(), box=scene.geometry.box).render(scene, orbit(1, 8))
    with pytest.raises(InputError, match="lambda_distortion"):
        regularizers.render_losses({"distortion": 1.0}, render, scene, generator())
    with pytest.raises(InputError, match="lambda_eikonal"):
        regularizers.geometry_losses({"eikonal": 1.0}, scene.geometry, generator())
