import numpy as np
import pytest
import scipy.spatial
import torch
from helpers.seeds import fresh_seed
from helpers.tiny_scenes import as_trimesh
from torch import Tensor

from liftstudio.ops.backends import use_backend
from liftstudio.ops.marching_tetrahedra import TetGrid, marching_tetrahedra, reference, tet_grid

SEEDS = [fresh_seed(__name__) for _ in range(3)]


def bumpy_sphere(vertices: Tensor, generator: torch.Generator) -> Tensor:
    waves = 8 * torch.rand(3, 3, generator=generator, dtype=torch.float64)
    return vertices.norm(dim=-1) - 0.6 + 0.05 * torch.sin(vertices @ waves.to(vertices.dtype)).sum(-1)


def deformed(grid: TetGrid, generator: torch.Generator) -> Tensor:
    spacing = (grid.vertices[grid.edges[0, 0]] - grid.vertices[grid.edges[0, 1]]).norm()
    return grid.vertices + 0.2 * spacing * (torch.rand(grid.vertices.shape, generator=generator) - 0.5)


def canonical_faces(faces: np.ndarray) -> np.ndarray:
    """Return rows rotated to their smallest index, then sorted: equal for equal sets of oriented faces."""
    start = faces.argmin(1)[:, None]
    rotated = np.take_along_axis(faces, (start + np.arange(3)) % 3, 1)
    return rotated[np.lexsort(rotated.T)]


@pytest.mark.parametrize("resolution", [2, 3, 5, 8, 17, 32])
def test_the_grid_fills_the_cube_once(resolution: int) -> None:
    grid = tet_grid(resolution)
    a, b, c, d = grid.vertices.double()[grid.tets].unbind(1)
    volumes = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    assert volumes.min() > 0.99 * volumes.max() > 0
    assert volumes.sum().item() == pytest.approx(8, rel=1e-5)  # float32 vertex positions
    triangles = torch.cat([grid.tets[:, list(corners)] for corners in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))])
    _, counts = triangles.sort(1).values.unique(dim=0, return_counts=True)
    assert counts.max() == 2 or resolution < 4
    border = (counts == 1).sum().item()
    assert border == 12 * round(0.4 * resolution) ** 2  # two triangles per cell face on six sides: no cracks inside


def test_the_edges_are_those_of_the_tetrahedra_each_once() -> None:
    grid = tet_grid(9)
    assert (grid.edges[:, 0] < grid.edges[:, 1]).all()
    assert len(grid.edges.unique(dim=0)) == len(grid.edges)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))):
        assert torch.equal(grid.edges[grid.tet_edges[:, k]], grid.tets[:, [i, j]].sort(1).values)


def test_a_grid_is_built_once_and_is_deterministic() -> None:
    first = tet_grid(12)
    assert tet_grid(12) is first
    tet_grid.cache_clear()
    assert torch.equal(tet_grid(12).tet_edges, first.tet_edges)
    with pytest.raises(ValueError, match="at least 2"):
        tet_grid(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("resolution", "zeros"), [(2, 0.0), (2, 0.2), (7, 0.05), (20, 0.0), (32, 0.05)])
def test_same_mesh_and_gradients_as_the_reference(resolution: int, zeros: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = tet_grid(resolution)
    positions = deformed(grid, generator)
    sdf = bumpy_sphere(positions, generator)
    sdf[torch.rand(len(sdf), generator=generator) < zeros] = 0.0
    results = []
    for op, dtype in ((marching_tetrahedra, torch.float32), (reference.marching_tetrahedra, torch.float64)):
        inputs = [x.to(dtype).requires_grad_() for x in (positions, sdf)]
        mesh = op(*inputs, grid)
        loss = (mesh.vertices * mesh.vertices.detach().sin()).sum()  # does not depend on the order of the vertices
        results.append((mesh, torch.autograd.grad(loss, inputs)))
    (fast, fast_grads), (slow, slow_grads) = results
    assert fast.vertices.shape == slow.vertices.shape
    assert fast.faces.shape == slow.faces.shape
    distance, match = scipy.spatial.cKDTree(slow.vertices.detach()).query(fast.vertices.detach().double())
    assert distance.max(initial=0) < 1e-6  # float32 rounding of coordinates up to 1
    if zeros == 0:  # around a zero several vertices share a place within float32, and the match is not unique
        assert np.array_equal(canonical_faces(match[fast.faces]), canonical_faces(slow.faces.numpy()))
    for fast_grad, slow_grad in zip(fast_grads, slow_grads, strict=True):
        # float32 sums of up to 14 edges; gradients to the sdf reach 1 / |difference|, hence relative to the largest
        torch.testing.assert_close(fast_grad.double(), slow_grad, rtol=1e-4, atol=1e-5 * slow_grad.abs().max().item())


@pytest.mark.parametrize("seed", SEEDS)
def test_faces_agree_with_the_reference_for_any_signs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = tet_grid(11)
    sdf = (
        torch.rand(len(grid.vertices), generator=generator)
        * torch.randn(len(grid.vertices), generator=generator).sign()
    )
    sdf = sdf + 0.1 * sdf.sign()  # keeps the vertices well apart
    fast, slow = (op(grid.vertices, sdf, grid) for op in (marching_tetrahedra, reference.marching_tetrahedra))
    distance, match = scipy.spatial.cKDTree(slow.vertices).query(fast.vertices)
    assert distance.max() < 1e-6
    assert np.array_equal(np.sort(match), np.arange(len(match)))
    assert np.array_equal(canonical_faces(match[fast.faces]), canonical_faces(slow.faces.numpy()))


@pytest.mark.parametrize("seed", SEEDS)
def test_closed_outward_without_loose_vertices_and_repeatable(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = tet_grid(24)
    positions = deformed(grid, generator)
    sdf = bumpy_sphere(positions, generator) + 0.02 * torch.randn(len(positions), generator=generator)
    mesh = marching_tetrahedra(positions, sdf, grid)
    surface = as_trimesh(mesh)
    assert surface.is_watertight
    assert surface.is_winding_consistent
    assert surface.volume > 0  # outward
    assert torch.equal(mesh.faces.unique(), torch.arange(len(mesh.vertices)))
    again = marching_tetrahedra(positions, sdf, grid)
    assert torch.equal(again.vertices, mesh.vertices)
    assert torch.equal(again.faces, mesh.faces)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("resolution", [2, 9, 64])
def test_the_compiled_and_the_torch_form_give_the_same_bytes(resolution: int, seed: int) -> None:
    grid = tet_grid(resolution)
    sdf = torch.randn(len(grid.vertices), generator=torch.Generator().manual_seed(seed))
    meshes = []
    for backend in ("numba", "reference"):
        with use_backend(backend):
            meshes.append(marching_tetrahedra(grid.vertices, sdf, grid))
    assert torch.equal(meshes[0].faces, meshes[1].faces)
    assert torch.equal(meshes[0].vertices, meshes[1].vertices)


def test_a_sphere_has_its_volume_and_normals() -> None:
    grid = tet_grid(64)
    mesh = marching_tetrahedra(grid.vertices, grid.vertices.norm(dim=-1) - 0.7, grid)
    assert as_trimesh(mesh).volume == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)  # chords cut (h / r)^2 / 8 or so
    centres = mesh.corners().mean(1)
    assert (mesh.face_area_vectors() * centres).sum(-1).min() > 0


@pytest.mark.parametrize(
    "field",
    [
        lambda v: v[:, 2],  # a whole layer of the lattice is zero
        lambda v: v.abs().sum(-1) - 1,
        lambda v: v.abs().amax(-1) - 10 / 13,
        lambda v: (v.abs().sum(-1) > 0.5).float(),  # nothing but zeros: zero is outside, so no surface
        lambda v: (v.norm(dim=-1) > 0.5).float() - 1e-30,
    ],
)
def test_exact_and_tiny_zeros_are_harmless(field) -> None:
    grid = tet_grid(64)
    positions = grid.vertices.clone().requires_grad_()
    sdf = field(grid.vertices).clone().requires_grad_()
    mesh = marching_tetrahedra(positions, sdf, grid)
    mesh.vertices.square().sum().backward()
    assert mesh.vertices.isfinite().all()
    assert positions.grad.isfinite().all()
    assert sdf.grad.isfinite().all()
    assert sdf.grad.abs().max() < 1e6  # an edge's length over twice the smallest value, times a few edges
    edges = mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].view(-1, 2)
    assert (edges[:, 0] != edges[:, 1]).all()
    assert (edges.sort(1).values.unique(dim=0, return_counts=True)[1] <= 2).all()


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_without_a_sign_change_the_mesh_is_empty(value: float) -> None:
    grid = tet_grid(4)
    sdf = torch.full((len(grid.vertices),), value, requires_grad=True)
    mesh = marching_tetrahedra(grid.vertices, sdf, grid)
    assert mesh.vertices.shape == (0, 3)
    assert mesh.faces.shape == (0, 3)
    assert mesh.faces.dtype == torch.int64
    mesh.vertices.sum().backward()
    assert torch.equal(sdf.grad, torch.zeros_like(sdf))


def test_one_inside_vertex_gives_one_closed_cell() -> None:
    grid = tet_grid(6)
    sdf = torch.ones(len(grid.vertices))
    sdf[grid.vertices.norm(dim=-1).argmin()] = -1
    surface = as_trimesh(marching_tetrahedra(grid.vertices, sdf, grid))
    assert surface.is_watertight
    assert surface.euler_number == 2


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_gradients_are_those_of_finite_differences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = tet_grid(3)
    positions = deformed(grid, generator).double().requires_grad_()
    sign = torch.where(torch.arange(len(positions)) % 3 == 0, -1.0, 1.0)
    sdf = (sign * (0.2 + torch.rand(len(positions), generator=generator))).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, s: marching_tetrahedra(p, s, grid).vertices, (positions, sdf))


def test_wrong_shapes_are_named() -> None:
    grid = tet_grid(2)
    with pytest.raises(ValueError, match="sdf: expected"):
        marching_tetrahedra(grid.vertices, torch.ones(3), grid)
    with pytest.raises(ValueError, match="positions: expected"):
        marching_tetrahedra(grid.vertices[:, :2], torch.ones(9), grid)
