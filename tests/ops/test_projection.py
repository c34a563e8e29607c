"""Projection of points onto a mesh along directions: Warp against the reference, and meshes that are known."""

import pytest
import torch
import torch.nn.functional as F
import trimesh
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import from_trimesh
from torch import Tensor

from liftstudio.data.mesh import Mesh
from liftstudio.ops.backends import use_backend
from liftstudio.ops.projection import project

SEEDS = [fresh_seed(__name__) for _ in range(3)]


def found(mesh: Mesh, points: Tensor, directions: Tensor, reach: float) -> Tensor:
    face, weights = project(mesh.vertices, mesh.faces, points, directions, reach)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(points)))
    return (weights[:, :, None] * mesh.corners()[face]).sum(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", ["sphere", "box", "face", "soup"])
def test_warp_equals_the_reference(seed: int, shape: str) -> None:
    """The points that are found; where several faces meet, either may be named."""
    draw = torch.Generator().manual_seed(seed)
    mesh = {
        "sphere": lambda: from_trimesh(trimesh.creation.icosphere(2)),
        "box": lambda: from_trimesh(trimesh.creation.box([1, 0.5, 0.2])),
        "face": lambda: Mesh(torch.randn(3, 3, generator=draw), torch.tensor([[0, 1, 2]])),
        "soup": lambda: Mesh(torch.randn(60, 3, generator=draw), torch.randperm(60, generator=draw).view(20, 3)),
    }[shape]()
    points = torch.randn(150, 3, generator=draw)
    directions = F.normalize(torch.randn(150, 3, generator=draw), dim=-1)
    for reach in (0.05, 1.0):
        with use_backend("reference"):
            wanted = found(mesh, points, directions, reach)
        off = (found(mesh, points, directions, reach) - wanted).norm(dim=-1)
        assert off.median() < 1e-5 and (off > 1e-4).sum() <= 2, "rays through edges may hit or miss"


@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_points_reach_a_sphere_along_its_radii(radius: float) -> None:
    sphere = from_trimesh(trimesh.creation.icosphere(4))
    directions = F.normalize(torch.randn(200, 3), dim=-1)
    hits = found(sphere, radius * directions, directions, 0.3)
    assert torch.linalg.cross(hits, directions).norm(dim=-1).max() < 2e-3
    assert (hits.norm(dim=-1) - 1).abs().max() < 3e-3  # the sagitta of the faces


def test_the_other_side_of_a_thin_wall_is_not_taken() -> None:
    wall = from_trimesh(trimesh.creation.box([2, 2, 0.02]))
    points = torch.cat([1.6 * torch.rand(100, 2) - 0.8, torch.full((100, 1), -0.005)], 1)  # nearer to the lower side
    hits = found(wall, points, torch.tensor([[0.0, 0, 1]]).expand(100, 3), 0.5)
    torch.testing.assert_close(hits, points * torch.tensor([1.0, 1, 0]) + torch.tensor([0, 0, 0.01]))


def test_without_a_hit_it_is_the_closest_point() -> None:
    box = from_trimesh(trimesh.creation.box([1, 1, 1]))
    hits = found(box, torch.tensor([[0.1, 0.2, 5.0]]), torch.tensor([[1.0, 0, 0]]), 0.5)
    torch.testing.assert_close(hits, torch.tensor([[0.1, 0.2, 0.5]]))
