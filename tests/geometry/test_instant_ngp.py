"""Instant-NGP: its density, its normals against known fields, its surface."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import TINY_GRID, is_closed, volume_of
from torch import Tensor

from liftstudio.geometry.instant_ngp import InstantNGP

CPU = torch.device("cpu")


def make(seed: int = 0, **options: object) -> InstantNGP:
    config = InstantNGP.Config(grid=TINY_GRID, **options)  # type: ignore[arg-type]
    return InstantNGP(config, device=CPU, generator=torch.Generator().manual_seed(seed))


def make_blob(**options: object) -> InstantNGP:
    """Return a field whose network outputs 0, so that the density is the blob's, a function of the distance."""
    geometry = make(blob_density=20.0, density_bias=-3.0, **options)
    for parameter in geometry.hash_field.parameters():
        torch.nn.init.zeros_(parameter)
    return geometry


def points_around(count: int, low: float, high: float) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    radius = low + (high - low) * torch.rand(count, 1, generator=generator)
    return radius * F.normalize(torch.randn(count, 3, generator=generator), dim=-1)


def test_density_is_positive_and_falls_from_the_centre() -> None:
    geometry = make_blob()
    density, features = geometry.field(torch.tensor([[0.0, 0, 0], [0.3, 0, 0], [0, -0.6, 0], [0, 0, 1.0]]))
    assert features.shape == (4, 3) and density.shape == (4, 1)
    assert (density >= 0).all() and (density.diff(dim=0) < 0).all()


def test_density_is_positive_for_any_parameters() -> None:
    geometry = make()
    torch.nn.init.normal_(geometry.hash_field.table, std=10.0)
    assert (geometry.field(points_around(500, 0, 1.5))[0] >= 0).all()


@pytest.mark.parametrize("radius", [1.0, 2.5])
@pytest.mark.parametrize("normals", ["finite-difference", "analytic"])
def test_normals_of_a_radial_field_point_outwards(normals: str, radius: float) -> None:
    points = radius * points_around(200, 0.1, 0.9)
    found = make_blob(radius=radius, normals=normals).normals(points)
    # Four differences over a curved field are off by about step / distance / 2 = 0.05 rad at the innermost points.
    assert (found * F.normalize(points, dim=-1)).sum(-1).min() > 0.998
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(200))


@pytest.mark.parametrize("normals", ["finite-difference", "analytic"])
def test_normals_of_a_fitted_sphere(normals: str) -> None:
    geometry = make(normals=normals, normal_step=0.03)
    adam = torch.optim.Adam(geometry.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        points = 2 * torch.rand(1024, 3, generator=generator) - 1
        logits = geometry.hash_field(points)[:, :1]
        loss = (logits - 20 * (0.5 - points.norm(dim=-1, keepdim=True))).square().mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
    points = points_around(300, 0.45, 0.55)
    cosine = (geometry.normals(points) * F.normalize(points, dim=-1)).sum(-1)
    assert cosine.mean() > 0.97  # 14 degrees: cells of the tiny grid are an eighth of the box, linear inside


@pytest.mark.parametrize("normals", ["finite-difference", "analytic"])
def test_normals_have_gradients_where_wanted(normals: str) -> None:
    geometry = make(blob_density=5.0, normals=normals)
    geometry.normals(points_around(50, 0.2, 0.6))[:, 0].sum().backward()
    assert geometry.hash_field.table.grad is not None and geometry.hash_field.table.grad.abs().sum() > 0
    with torch.no_grad():
        assert not geometry.normals(points_around(5, 0.2, 0.6)).requires_grad


def test_surface_is_where_the_density_reaches_the_level() -> None:
    geometry = make_blob(radius=2.0, surface_level=30.0, surface_resolution=32)
    # softplus(x) = 30 * 2 / 10 at x = log(e^6 - 1); x = bias + 20 (1 - d / 2) with d in blob radii of 0.5 * 2
    x = math.log(math.expm1(6.0))
    radius = (1 - (x + 3) / 20) * 2 * 0.5 * 2
    mesh = geometry.mesh()
    distance = mesh.vertices.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full_like(distance, radius), atol=0.02, rtol=0)  # cells are 0.125
    assert is_closed(mesh) and volume_of(mesh) == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)
    assert not mesh.vertices.requires_grad


def test_empty_surface_names_a_level_that_works() -> None:
    geometry = make_blob(surface_level=1e6, surface_resolution=16)
    assert len(geometry.mesh().faces) == 0
    level = re.search(r"surface_level=([\d.e+]+)", geometry.describe_level())
    assert level is not None and "density ranges from" in geometry.describe_level()
    assert len(make_blob(surface_level=float(level[1]), surface_resolution=16).mesh().faces) > 0


def test_parameters_depend_on_the_generator_alone() -> None:
    first, second, other = make(7).state_dict(), make(7).state_dict(), make(8).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["hash_field.table"], other["hash_field.table"])
    assert not torch.equal(first["hash_field.network.0.weight"], other["hash_field.network.0.weight"])


def test_no_points() -> None:
    geometry = make()
    density, features = geometry.field(torch.empty(0, 3))
    assert density.shape == (0, 1) and features.shape == (0, 3) and geometry.normals(torch.empty(0, 3)).shape == (0, 3)
