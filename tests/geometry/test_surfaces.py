"""Surface geometries: DMTet and a mesh from a file."""

import math
from pathlib import Path

import pytest
import torch
import trimesh
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import TINY_GRID, Solid, ball, is_closed, orbit, scene_of, volume_of

from liftstudio.core.errors import InputError
from liftstudio.geometry.base import Geometry
from liftstudio.geometry.dmtet import DMTet
from liftstudio.geometry.fixed_mesh import FixedMesh
from liftstudio.geometry.instant_ngp import InstantNGP
from liftstudio.renderers.surface import render_mesh

CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def dmtet(**options: object) -> DMTet:
    config = DMTet.Config(grid=TINY_GRID, **options)  # type: ignore[arg-type]
    return DMTet(config, device=CPU, generator=generator())


@pytest.mark.parametrize("radius", [1.0, 2.0])
def test_dmtet_begins_as_a_closed_sphere(radius: float) -> None:
    mesh = dmtet(radius=radius, resolution=24, sphere_radius=0.6).mesh()
    distance = mesh.vertices.detach().norm(dim=-1)
    # A linear crossing on an edge of length 0.2 is off by at most 0.2^2 / (8 * 0.6) of the half side.
    torch.testing.assert_close(distance, torch.full_like(distance, 0.6 * radius), atol=0.009 * radius, rtol=0)
    assert is_closed(mesh)
    assert volume_of(mesh) == pytest.approx(4 / 3 * math.pi * (0.6 * radius) ** 3, rel=0.05)


def test_dmtet_gradients_reach_distance_and_deformation() -> None:
    geometry = dmtet(resolution=12)
    mesh = geometry.mesh()
    mesh.vertices.norm(dim=-1).mean().backward()  # the mean radius
    assert geometry.sdf.grad is not None and geometry.deformation.grad is not None
    touched = geometry.sdf.grad != 0
    assert touched.any() and (geometry.sdf.grad[touched] < 0).float().mean() > 0.95  # a larger distance: a smaller ball
    outwards = (geometry.deformation.grad * geometry.grid.vertices).sum(-1)
    assert outwards.sum() > 0  # vertices moved outwards: a larger ball


def test_dmtet_extracts_once_in_a_step_and_again_after_it() -> None:
    alone, shared = dmtet(), dmtet()
    shared.update(0)
    weights = torch.rand(3)
    for geometry in (alone, shared):
        first, second = geometry.mesh().vertices, geometry.mesh().vertices
        ((first * weights).sum() + (second**2).sum()).backward()
    assert alone.sdf.grad is not None and shared.sdf.grad is not None
    torch.testing.assert_close(shared.sdf.grad, alone.sdf.grad)  # up to rounding: sums in another order
    shared.update(1)
    with torch.no_grad():
        before = shared.mesh()
    assert not before.vertices.requires_grad and shared.mesh().vertices.requires_grad
    torch.optim.Adam([shared.sdf], lr=0.1, fused=True).step()  # does not raise the tensors' version counters
    shared.parameters_changed()
    after = shared.mesh()
    assert len(after.vertices) != len(before.vertices)
    shared.load_state_dict(alone.state_dict())
    torch.testing.assert_close(shared.mesh().vertices, first, atol=0, rtol=0)
    assert shared.mesh() is not shared.mesh()


def test_dmtet_deformation_is_bounded() -> None:
    geometry = dmtet(resolution=12, radius=3.0)
    before = geometry.mesh().vertices.detach()
    torch.nn.init.constant_(geometry.deformation, 100.0)
    moved = geometry.mesh().vertices.detach() - before
    torch.testing.assert_close(moved, torch.full_like(moved, 3.0 * geometry.half_spacing), atol=1e-5, rtol=0)


def refined(coarse: DMTet) -> DMTet:
    """Return a grid that starts with the cells of `coarse`, cut in two."""
    options = DMTet.Config(grid=TINY_GRID, from_="coarse", subdivide=True).following(coarse.config)
    fine = DMTet(options, device=CPU, generator=generator())
    camera = orbit(1, 16)
    fine.initialize(coarse, camera, render_mesh(coarse.mesh().detach(), scene_of(coarse), camera))
    return fine


@pytest.mark.parametrize("resolution", [8, 12, 23])
def test_dmtet_subdivides_cells_and_keeps_the_surface(resolution: int) -> None:
    coarse = dmtet(resolution=resolution)
    draw = torch.Generator().manual_seed(fresh_seed())
    with torch.no_grad():
        coarse.box.mul_(torch.tensor(1.3))
        coarse.sdf += 0.1 * torch.rand(coarse.sdf.shape, generator=draw)
        coarse.deformation += 0.4 * torch.rand(coarse.deformation.shape, generator=draw) - 0.2  # half is allowed
    fine = refined(coarse)
    before, after = coarse.mesh().detach(), fine.mesh().detach()
    assert is_closed(after) and len(after.faces) > 2 * len(before.faces)
    # The signed distance is linear in each tetrahedron, and those of the finer grid fill the coarser ones.
    assert volume_of(after) == pytest.approx(volume_of(before), rel=1e-4), draw.initial_seed()
    cameras = orbit(3, 64)
    depths = [render_mesh(mesh, scene_of(coarse), cameras).require("depth") for mesh in (before, after)]
    differences = (depths[0] - depths[1]).abs()[(depths[0] > 0) & (depths[1] > 0)]
    assert len(differences) > 1000 and differences.max() < 1e-3, draw.initial_seed()  # float32 on slanted faces


def test_dmtet_subdivides_cells_that_are_deformed_as_far_as_they_may_be() -> None:
    coarse = dmtet(resolution=23)
    torch.nn.init.constant_(coarse.deformation, 3.0)
    fine = refined(coarse)
    shift = (coarse.mesh().vertices.mean(0) - fine.mesh().vertices.mean(0)).abs()
    assert shift.detach().max() < 1.1 * fine.half_spacing  # of the two half spacings of before, .9 of one is left


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subdivide": True}, "subdivide: expected false, since `from` names no stage"),
        ({"subdivide": True, "from_": "prior"}, "subdivide: expected false, since `from` names no stage"),
    ],
)
def test_dmtet_refuses_to_subdivide_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dmtet(**options)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (InstantNGP.Config(), "subdivide: expected false, since `from` names a stage without tetrahedra"),
        (DMTet.Config(resolution=160), "subdivide: 320 from 160 is above the finest, 256"),
    ],
)
def test_dmtet_refuses_cells_that_cannot_be_cut(source: Geometry.Config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DMTet.Config(from_="coarse", subdivide=True).following(source)


def test_dmtet_takes_over_shape_and_appearance() -> None:
    coarse = InstantNGP(InstantNGP.Config(grid=TINY_GRID, radius=2.0), device=CPU, generator=generator())
    torch.nn.init.normal_(coarse.hash_field.table)
    cameras = orbit(12, 48, [-40.0, 0.0, 40.0], distance=6.0)
    mesh = ball(0.8)
    seen = render_mesh(mesh, scene_of(Solid(mesh=mesh)), cameras)
    fine = dmtet(resolution=24, radius=1.0, margin=0.1)
    fine.initialize(coarse, cameras, seen)
    half_side = 0.8 * (1 + 2 * 0.1)
    torch.testing.assert_close(fine.box, half_side * torch.tensor([[-1.0] * 3, [1.0] * 3]), atol=0.1, rtol=0)
    result = fine.mesh()
    assert is_closed(result)
    distance = result.vertices.detach().norm(dim=-1)
    assert (distance - 0.8).abs().mean() < 0.03  # cells of the fusion are 0.03
    points = torch.rand(40, 3) * 2 - 1
    assert torch.equal(fine.features(points), coarse.features(points))


def test_dmtet_takes_over_the_shape_of_a_geometry_without_a_hash_field() -> None:
    cameras, mesh = orbit(8, 32, [-30.0, 30.0]), ball()
    coarse = Solid(mesh=mesh)
    fine = dmtet(resolution=16)
    fine.initialize(coarse, cameras, render_mesh(mesh, scene_of(coarse), cameras))
    assert (fine.mesh().vertices.detach().norm(dim=-1) - 0.5).abs().mean() < 0.03


def test_dmtet_describes_an_empty_surface() -> None:
    geometry = dmtet(resolution=8)
    torch.nn.init.ones_(geometry.sdf)
    assert len(geometry.mesh().faces) == 0 and "never crosses 0" in geometry.describe_level()


@pytest.mark.parametrize("movable", [False, True])
def test_mesh_from_a_file(movable: bool, tmp_path: Path) -> None:
    path = tmp_path / "box.ply"
    trimesh.creation.box((0.4, 0.6, 0.8)).export(path)
    config = FixedMesh.Config(path=str(path), movable=movable, grid=TINY_GRID, features=5)
    geometry = FixedMesh(config, device=CPU, generator=generator())
    mesh = geometry.mesh()
    assert volume_of(mesh) == pytest.approx(0.4 * 0.6 * 0.8, rel=1e-5)
    assert mesh.vertices.requires_grad == movable
    features = geometry.features(mesh.vertices)
    assert features.shape == (8, 5)
    features.sum().backward()
    assert geometry.hash_field.table.grad is not None


def test_mesh_from_a_file_that_is_not_there(tmp_path: Path) -> None:
    config = FixedMesh.Config(path=str(tmp_path / "none.obj"), grid=TINY_GRID)
    with pytest.raises(InputError, match=r"none\.obj"):
        FixedMesh(config, device=CPU, generator=generator())


def test_a_volume_or_surface_says_how_to_render_it() -> None:
    with pytest.raises(InputError, match="render it with 'surface'"):
        dmtet(resolution=8).field(torch.zeros(1, 3))


def test_a_shape_that_reaches_the_border_is_still_closed() -> None:
    config = DMTet.Config(resolution=16, sphere_radius=1.0, grid=TINY_GRID)
    mesh = DMTet(config, device=CPU, generator=generator()).mesh()
    closed = trimesh.Trimesh(mesh.vertices.detach().numpy(), mesh.faces.numpy(), process=False)
    assert closed.is_watertight and closed.volume > 0.9 * 4 / 3 * 3.14
