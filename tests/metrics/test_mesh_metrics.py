import json
import math

import numpy as np
import pytest
import torch
import trimesh
from helpers.paths import GOLDEN
from helpers.seeds import fresh_seed
from safetensors.torch import load_file
from torch import Tensor

from liftstudio.core.errors import InputError
from liftstudio.data.mesh import Mesh
from liftstudio.metrics.meshes import chamfer_distance, f_score, mesh_metrics, place_truth, sample_surface
from liftstudio.metrics.visible_points import Depth, visible_points, voxel_means
from liftstudio.metrics.voxels import occupancy, volume_iou

EMPTY = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file((GOLDEN / "metrics") / "g_metrics.safetensors")


@pytest.fixture(scope="module")
def results() -> dict:
    return json.loads(((GOLDEN / "metrics") / "g_metrics.json").read_text())["mesh"]


def pair(golden: dict[str, Tensor], name: str) -> tuple[Mesh, Mesh]:
    truth = Mesh(golden[f"{name}_gt_vertices_transformed"], golden[f"{name}_gt_faces"].long())
    return Mesh(golden[f"{name}_pr_vertices"], golden[f"{name}_pr_faces"].long()), truth


def cells(indices: Tensor) -> np.ndarray:
    grid = np.zeros((64, 64, 64), bool)
    grid[tuple(indices.long().numpy().T)] = True
    return grid


def sphere(radius: float, subdivisions: int = 4) -> Mesh:
    loaded = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(torch.tensor(loaded.vertices, dtype=torch.float32), torch.tensor(loaded.faces, dtype=torch.int64))


def winding_number(mesh: Mesh, points: Tensor) -> Tensor:
    """Return the solid angles of all faces over 4 pi (van Oosterom & Strackee 1983): 1 inside, 0 outside."""
    a, b, c = (corner - points[:, None] for corner in mesh.corners().double().unbind(1))
    la, lb, lc = a.norm(dim=-1), b.norm(dim=-1), c.norm(dim=-1)
    triple = (a * torch.linalg.cross(b, c)).sum(-1)
    rest = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (c * a).sum(-1) * lb
    return torch.atan2(triple, rest).sum(1) / (2 * math.pi)


@pytest.mark.parametrize("name", ["blob", "box"])
@pytest.mark.parametrize(("depth", "variant"), [("ray", "ray_cast"), ("screen", "screen_space")])
def test_golden_chamfer(name: str, depth: Depth, variant: str, golden: dict[str, Tensor], results: dict) -> None:
    prediction, truth = (visible_points(mesh, depth) for mesh in pair(golden, name))
    expected = results[name][variant]
    assert chamfer_distance(prediction, truth) == pytest.approx(expected["chamfer"], abs=1e-5)
    # A pixel at a silhouette may fall either way in float32.
    assert abs(len(prediction) - expected["n_points_pr"]) <= 3 and abs(len(truth) - expected["n_points_gt"]) <= 3


def test_golden_points(golden: dict[str, Tensor]) -> None:
    points = visible_points(pair(golden, "blob")[1], "screen")
    assert chamfer_distance(points, golden["blob_points_gt"].double().numpy()) < 1e-5


def test_depth_variants_agree_where_triangles_are_small(golden: dict[str, Tensor]) -> None:
    ray, screen = (visible_points(pair(golden, "blob")[1], depth) for depth in ("ray", "screen"))
    assert chamfer_distance(ray, screen) < 5e-4  # voxels are 0.01 wide


@pytest.mark.parametrize("name", ["blob", "box"])
def test_golden_occupancy(name: str, golden: dict[str, Tensor], results: dict) -> None:
    """The true box ends on grid planes, where rounding decides which points are inside."""
    prediction, truth = pair(golden, name)
    assert np.array_equal(occupancy(prediction), cells(golden[f"{name}_occ_pr"]))
    assert np.array_equal(occupancy(truth), cells(golden[f"{name}_occ_gt"]))
    assert volume_iou(prediction, truth) == pytest.approx(results[name]["ray_cast"]["iou"], abs=1e-9)


def test_golden_occupancy_of_an_open_mesh(golden: dict[str, Tensor]) -> None:
    mesh = Mesh(golden["blob_gt_vertices_transformed"], golden["open_faces"].long())
    assert np.array_equal(occupancy(mesh), cells(golden["open_occ"]))


@pytest.mark.parametrize("seed", [fresh_seed(__name__) for _ in range(3)])
def test_occupancy_is_where_the_winding_number_is_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ball = sphere(0.5, 2)
    bumps = 1 + 0.3 * torch.rand(len(ball.vertices), 1, generator=generator)
    mesh = Mesh(ball.vertices * bumps + torch.rand(3, generator=generator) * 0.2, ball.faces)
    axis = torch.arange(16, dtype=torch.float64) / 8 - 1
    points = torch.cartesian_prod(axis, axis, axis)
    inside = (winding_number(mesh, points) > 0.5).reshape(16, 16, 16)
    assert np.array_equal(occupancy(mesh, 16), inside.numpy())


def test_occupancy_with_vertices_and_edges_on_grid_lines() -> None:
    """A unit box on grid planes: crossings on shared edges and corners count once, and its faces are not inside."""
    box = trimesh.creation.box((1, 1, 1))
    grid = occupancy(Mesh(torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces)))
    assert grid[17:48, 17:48, 17:48].all() and grid.sum() == 31**3
    ball = sphere(0.5, 1)  # has vertices at coordinates 0 and +-0.5
    volume = float((ball.corners()[:, 0] * ball.face_area_vectors()).sum() / 3)
    assert occupancy(ball).sum() / 32**3 == pytest.approx(volume, rel=0.02)


def test_occupancy_outside_the_grid() -> None:
    assert occupancy(sphere(3.0)).all()
    shifted = sphere(0.5)
    assert not occupancy(Mesh(shifted.vertices + 5, shifted.faces)).any()
    assert not occupancy(EMPTY).any() and volume_iou(EMPTY, EMPTY) == 0


@pytest.mark.usefixtures("few_surface_samples")
def test_chamfer_and_iou_of_concentric_spheres() -> None:
    metrics = mesh_metrics(sphere(0.2), sphere(0.25))
    # Nearest distances of 0.05, lengthened a little by the spacing of the points (about 0.01).
    assert metrics["chamfer"] == pytest.approx(0.05, rel=0.05)
    assert metrics["iou"] == pytest.approx((0.2 / 0.25) ** 3, abs=0.02)
    assert metrics["f_score_0.01"] == 0 and metrics["f_score_0.02"] == 0
    assert metrics["normal_consistency"] > 0.99


def test_a_mesh_against_itself() -> None:
    metrics = mesh_metrics(sphere(0.5), sphere(0.5))
    assert metrics["chamfer"] == 0 and metrics["iou"] == 1
    assert metrics["f_score_0.01"] > 0.999 and metrics["normal_consistency"] > 0.99


def test_visible_points_leave_out_the_inside() -> None:
    outer, inner = sphere(0.5), sphere(0.3)
    both = Mesh(
        torch.cat([outer.vertices, inner.vertices]), torch.cat([outer.faces, inner.faces + len(outer.vertices)])
    )
    points = visible_points(both)
    assert len(points) == pytest.approx(len(visible_points(outer)), abs=3)
    # Half a pixel of the protocol is 0.003 world units; at the rim the shifted ray is further off.
    assert np.linalg.norm(points, axis=1).min() > 0.48


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_voxel_means_equal_a_loop(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(500, 3))
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for point in points:
        cell = tuple(int(c) for c in np.floor((point - (points.min(axis=0) - 0.15)) / 0.3))
        groups.setdefault(cell, []).append(point)
    expected = np.array([np.mean(group, axis=0) for _, group in sorted(groups.items())])
    assert np.allclose(voxel_means(points, 0.3), expected, atol=1e-12)
    assert voxel_means(np.zeros((0, 3)), 0.3).shape == (0, 3)


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_surface_samples_are_uniform_over_the_area(seed: int) -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 3]])
    mesh = Mesh(vertices, torch.tensor([[0, 2, 1], [0, 3, 2], [0, 0, 1]]))  # areas 1/2, 3/2, none
    points, normals = sample_surface(mesh, 40_000, np.random.default_rng(seed))
    first = normals[:, 2] == -1
    assert first.mean() == pytest.approx(0.25, abs=0.015)  # 7 standard errors
    assert np.allclose(points[first].mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.02)
    assert np.allclose(points[~first].mean(axis=0), [0, 1 / 3, 1], atol=0.04)


@pytest.mark.usefixtures("few_surface_samples", "few_visible_points")
def test_metrics_repeat_with_the_seed_and_take_thresholds() -> None:
    a, b = sphere(0.40, 3), sphere(0.41, 2)
    first = mesh_metrics(a, b, seed=4, thresholds=(0.015,))
    assert first == mesh_metrics(a, b, seed=4, thresholds=(0.015,))
    assert first != mesh_metrics(a, b, seed=5, thresholds=(0.015,))
    assert set(first) == {"chamfer", "iou", "f_score_0.015", "normal_consistency"}


def test_f_score_by_hand() -> None:
    # precision 1/2, recall 1/4: 2 * (1/8) / (3/4)
    assert f_score(np.array([0.0, 0.2]), np.array([0.0, 0.2, 0.3, 0.4]), 0.1) == pytest.approx(1 / 3)
    assert f_score(np.array([1.0]), np.array([1.0]), 0.1) == 0


def test_empty_and_degenerate_predictions() -> None:
    expected = {"chamfer": None, "iou": 0.0, "f_score_0.01": 0.0, "f_score_0.02": 0.0, "normal_consistency": None}
    assert mesh_metrics(EMPTY, sphere(0.5)) == expected
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    assert mesh_metrics(flat, sphere(0.5)) == expected


def test_bad_meshes_are_refused() -> None:
    with pytest.raises(InputError, match="true mesh has no surface"):
        mesh_metrics(sphere(0.5), EMPTY)
    broken = sphere(0.5)
    broken.vertices[3, 1] = math.nan
    with pytest.raises(InputError, match="predicted mesh has vertices that are not finite"):
        mesh_metrics(broken, sphere(0.5))


@pytest.mark.parametrize("seed", [fresh_seed(__name__)])
def test_placing_undoes_a_turn_a_shift_and_a_scale(seed: int) -> None:
    generator = np.random.default_rng(seed)
    vertices = torch.tensor(generator.uniform(-1, 1, (50, 3)), dtype=torch.float32)
    mesh = Mesh(vertices, torch.zeros(0, 3, dtype=torch.int64))
    placed = place_truth(mesh).vertices
    extent = placed.amax(0) - placed.amin(0)
    assert extent.max().item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(placed.amax(0) + placed.amin(0), torch.zeros(3), atol=1e-6)
    moved = place_truth(Mesh(3.7 * vertices + torch.tensor([5.0, -2, 1]), mesh.faces)).vertices
    assert torch.allclose(moved, placed, atol=1e-5)  # float32 rounding of coordinates up to 9
    # A quarter turn: what was seen from azimuth 90 (+y) comes to +x.
    turned = place_truth(mesh, 90.0).vertices
    assert torch.allclose(turned, torch.stack([placed[:, 1], -placed[:, 0], placed[:, 2]], dim=1), atol=1e-6)
