"""Marching cubes on known shapes, and on noise, in which every case of the table occurs."""

import math

import pytest
import torch
from helpers.tiny_scenes import is_closed, volume_of
from torch import Tensor

from liftstudio.ops.marching_cubes import marching_cubes

BOX = torch.tensor([[-1.0, -0.5, 0.0], [1.0, 1.5, 3.0]])


def lattice(shape: tuple[int, int, int], box: Tensor = BOX) -> Tensor:
    """Return the points [X, Y, Z, 3] whose values `marching_cubes` takes."""
    sides = [
        torch.linspace(float(low), float(high), count, dtype=box.dtype)
        for low, high, count in zip(*box, shape, strict=True)
    ]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)


@pytest.fixture
def noise() -> Tensor:
    """Return a lattice of random values, outside on the border."""
    size = [int(n) for n in torch.randint(6, 14, (3,))]
    return torch.nn.functional.pad(torch.randn(size), [1] * 6, value=1.0)


@pytest.mark.parametrize("shape", [(25, 25, 37), (40, 31, 33)])
def test_sphere(shape: tuple[int, int, int]) -> None:
    center, radius = BOX.mean(0), 0.7
    points = lattice(shape)
    mesh = marching_cubes((points - center).norm(dim=-1) - radius, BOX)
    step = ((BOX[1] - BOX[0]) / (torch.tensor(shape) - 1)).max().item()
    distance = (mesh.vertices - center).norm(dim=-1)
    # On an edge of length h the distance to a centre bends by at most h^2 / (8 r).
    torch.testing.assert_close(distance, torch.full_like(distance, radius), atol=step**2 / (8 * radius), rtol=0)
    assert is_closed(mesh) and len(mesh.vertices) - len(mesh.faces) / 2 == 2  # Euler: one sphere
    assert volume_of(mesh) == pytest.approx(4 / 3 * math.pi * radius**3, rel=2 * (step / radius) ** 2)


def test_plane_is_exact() -> None:
    normal, offset = torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64), dim=0), 0.1
    box = BOX.double()
    values = (lattice((9, 8, 10), box) - box.mean(0)) @ normal - offset
    mesh = marching_cubes(values, box)
    reached = (mesh.vertices - box.mean(0)) @ normal
    torch.testing.assert_close(reached, torch.full_like(reached, offset), atol=1e-3, rtol=0)  # the margin at ends
    assert reached.sub(offset).abs().median() < 1e-12
    facing = mesh.face_area_vectors() @ normal
    assert (facing > -1e-9).all() and facing.sum() > 0.5


def test_noise_is_closed_and_faces_outwards(noise: Tensor) -> None:
    mesh = marching_cubes(noise, BOX)
    ends = torch.cat([mesh.faces, mesh.faces.roll(-1, dims=1)]).view(2, -1)
    there, back = (torch.unique(a * len(mesh.vertices) + b, return_counts=True) for a, b in (ends, ends.flip(0)))
    assert torch.equal(there[0], back[0]) and torch.equal(there[1], back[1])  # every edge is traversed both ways
    assert torch.equal(torch.unique(mesh.faces), torch.arange(len(mesh.vertices)))
    # About a cell per inside point; less, as saddles separate the inside.
    cell = float(((BOX[1] - BOX[0]) / (torch.tensor(noise.shape) - 1)).prod())
    assert 0.5 < volume_of(mesh) / ((noise < 0).sum().item() * cell) < 1


def test_one_vertex_on_every_edge_that_changes_sign(noise: Tensor) -> None:
    inside = noise < 0
    changes = sum(
        int((inside.narrow(d, 1, n - 1) != inside.narrow(d, 0, n - 1)).sum()) for d, n in enumerate(noise.shape)
    )
    assert len(marching_cubes(noise, BOX).vertices) == changes


def test_saddles_separate_the_inside() -> None:
    values = torch.ones(4, 4, 4)
    values[1, 1, 1] = values[2, 2, 1] = -1  # on the diagonal of one face
    mesh = marching_cubes(values, BOX)
    assert is_closed(mesh) and len(mesh.vertices) - len(mesh.faces) / 2 == 4  # Euler: two octahedra


def test_gradients() -> None:
    values = (lattice((5, 5, 6), BOX.double()) - BOX.mean(0)).norm(dim=-1) - 0.6
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: marching_cubes(v, BOX.double()).vertices, values)


def test_nothing_crosses() -> None:
    for value in (1.0, -1.0):
        mesh = marching_cubes(torch.full((3, 4, 5), value), BOX)
        assert mesh.faces.shape == (0, 3) and mesh.vertices.shape == (0, 3)


def test_same_bytes_on_repeat(noise: Tensor) -> None:
    first, second = marching_cubes(noise, BOX), marching_cubes(noise, BOX)
    assert torch.equal(first.vertices, second.vertices) and torch.equal(first.faces, second.faces)


def test_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="values: expected shape"):
        marching_cubes(torch.zeros(3, 3), BOX)
    with pytest.raises(ValueError, match="box: expected shape"):
        marching_cubes(torch.zeros(3, 3, 3), BOX[0])
