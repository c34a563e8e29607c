"""Edge-driven antialiasing: crossings, their values, and coverage gradients compared with finite differences."""

import math
from collections.abc import Callable

import pytest
import torch
import trimesh
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.antialiasing import antialias, find_crossings
from liftstudio.ops.backends import use_backend
from liftstudio.ops.edges import edge_adjacency
from liftstudio.ops.rasterization import rasterize

SEEDS = [fresh_seed(__name__) for _ in range(3)]
COLUMNS = {288: 12, 4_800: 50, 20_000: 100, 80_000: 200}  # triangles -> columns of the sphere
SIZES = [288, 20_000, 80_000]  # far larger than pixels, about as large, and smaller
X = torch.tensor([1.0, 0, 0])


def perspective(points: Tensor) -> Tensor:
    """Return clip positions [1, V, 4] seen from z = 3 (looking along -z, 45 degrees, near 0.1, far 100)."""
    scale = 1 / math.tan(math.radians(22.5))
    x, y, z = (points - torch.tensor([0.0, 0, 3])).unbind(-1)
    return torch.stack([x * scale, y * scale, -(100.1 / 99.9) * z - 20 / 99.9, -z], dim=-1)[None]


def bumpy_sphere(triangles: int, bumps: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a rotated sphere with bumps of relative height `bumps`."""
    columns = COLUMNS[triangles]
    mesh = trimesh.creation.uv_sphere(count=[columns // 2 + 1, columns])
    points = torch.tensor(mesh.vertices, dtype=torch.float32)
    x, y, z = points.unbind(-1)
    radius = 1 + bumps * torch.sin(5 * x) * torch.cos(4 * y + 1) * torch.cos(3 * z)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))[0]
    return radius[:, None] * points @ rotation, torch.tensor(mesh.faces)


def mask(face_index: Tensor, chosen: int) -> Tensor:
    """Return 1 where one of the first `chosen` faces is visible."""
    return ((face_index >= 0) & (face_index < chosen)).float()[..., None]


def coverage(points: Tensor, faces: Tensor, chosen: int, size: int = 2048) -> float:
    """Return the fraction of the image in which one of the first `chosen` faces is visible."""
    return mask(rasterize(perspective(points), faces, size, size), chosen).mean().item()


def soft_mask(points: Tensor, faces: Tensor, chosen: int, size: int = 256) -> Tensor:
    clip = perspective(points)
    face_index = rasterize(clip, faces, size, size)
    return antialias(mask(face_index, chosen), clip, faces, face_index)


def gradient_ratio(scene: Callable[[Tensor], Tensor], faces: Tensor, chosen: int, shifts: int) -> float:
    """Return the derivative of antialiased coverage at 256^2 over central differences at 2048^2.

    Both are summed over `shifts` sub-pixel placements of the scene: few rows decide, so one placement alone has a
    sampling error of about a percent.
    """
    generator = torch.Generator().manual_seed(7)
    step, ours, expected = 0.01, 0.0, 0.0
    for _ in range(shifts):
        shift = 0.02 * torch.randn(3, generator=generator)
        parameter = torch.zeros((), requires_grad=True)
        soft_mask(scene(parameter) + shift, faces, chosen).mean().backward()
        assert parameter.grad is not None
        ours += parameter.grad.item()
        ends = [coverage(scene(torch.tensor(s)) + shift, faces, chosen) for s in (step, -step)]
        expected += (ends[0] - ends[1]) / (2 * step)
    return ours / expected


# Bound: within 3 % of finite differences, on coarse meshes and on ones finer than the pixels.
@pytest.mark.parametrize("bumps", [0.1, 0.3])
@pytest.mark.parametrize("triangles", SIZES)
def test_coverage_gradient_of_scale(triangles: int, bumps: float) -> None:
    points, faces = bumpy_sphere(triangles, bumps)
    ratio = gradient_ratio(lambda s: points * 0.8 * (1 + s), faces, len(faces), shifts=1)
    assert ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("triangles", SIZES)
@pytest.mark.parametrize("moving", ["front", "back", "front inside"])
def test_coverage_gradient_with_occlusion(triangles: int, moving: str) -> None:
    """One ball in front of another: the visible area of one when a ball moves sideways or, inside the other, grows."""
    ball, faces = bumpy_sphere(triangles)
    both = torch.cat([faces, faces + len(ball)])
    large, small = 0.8 * ball + torch.tensor([-0.2, 0, -0.5]), 0.4 * ball + torch.tensor([0.5, 0.1, 0.6])
    inside = 0.3 * ball + torch.tensor([-0.1, 0.1, 0.7])
    scenes: dict[str, Callable[[Tensor], Tensor]] = {
        "front": lambda s: torch.cat([large, small + s * X]),
        "back": lambda s: torch.cat([large + s * X, small]),
        "front inside": lambda s: torch.cat([large, inside + s * (ball * 0.3)]),
    }
    assert gradient_ratio(scenes[moving], both, len(faces), shifts=4) == pytest.approx(1, abs=0.03)


def test_coverage_gradient_of_a_rough_surface() -> None:
    """Noisy vertices fold the outline into zigzags of less than a pixel."""
    points, faces = bumpy_sphere(20_000)
    noise = 1 + 0.01 * torch.randn(len(points), 1, generator=torch.Generator().manual_seed(SEEDS[0]))
    ratio = gradient_ratio(lambda s: points * noise * 0.8 * (1 + s), faces, len(faces), shifts=2)
    assert ratio == pytest.approx(1, abs=0.03)


def test_gradient_is_zero_for_a_hidden_ball() -> None:
    ball, faces = bumpy_sphere(4_800)
    hidden = torch.cat([0.3 * ball - torch.tensor([0, 0, 1.5]), 0.8 * ball]).requires_grad_()
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    clip, both = perspective(hidden), torch.cat([faces, faces + len(ball)])
    antialias(image, clip, both, rasterize(clip, both, 64, 64)).square().sum().backward()
    assert hidden.grad is not None
    assert (hidden.grad[: len(ball)] == 0).all() and (hidden.grad[len(ball) :] != 0).any()


@pytest.mark.parametrize("triangles", SIZES)
def test_image_error_drops_fourfold(triangles: int) -> None:
    points, faces = bumpy_sphere(triangles, bumps=0.0)
    clip = perspective(points)
    exact = mask(rasterize(clip, faces, 2048, 2048), len(faces)).view(256, 8, 256, 8).mean((1, 3))
    aliased = mask(rasterize(clip, faces, 256, 256), len(faces))[0, ..., 0]
    smooth = soft_mask(points, faces, len(faces))[0, ..., 0]
    assert (smooth - exact).abs().mean() <= (aliased - exact).abs().mean() / 4


@pytest.mark.parametrize("edge", [2.0, 2.2, 2.5, 2.8, 3.3])
@pytest.mark.parametrize("transposed", [False, True])
def test_straight_edge_covers_its_share(edge: float, transposed: bool) -> None:
    """A half plane up to coordinate `edge` (pixels): every row's sum is that coordinate, its derivative one."""
    position = torch.tensor(edge, requires_grad=True)
    x = 2 * position / 8 - 1
    far = torch.full_like(x, -40.0)
    corners = [torch.stack(pair) for pair in ((far, -far), (far, far), (x, far), (x, -far))]
    plane = torch.stack([corner.flip(0) if transposed else corner for corner in corners])
    plane = plane * torch.tensor([1.0, -1.0] if transposed else [1.0, 1.0])
    clip = torch.cat([plane, torch.zeros(4, 1), torch.ones(4, 1)], dim=1)[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    face_index = rasterize(clip, faces, 8, 8)
    image = antialias(mask(face_index, 2), clip, faces, face_index)[0, ..., 0]
    rows = image.sum(0 if transposed else 1)
    torch.testing.assert_close(rows.detach(), torch.full((8,), edge), atol=1e-5, rtol=0)
    rows.sum().backward()
    assert position.grad is not None
    torch.testing.assert_close(position.grad, torch.tensor(8.0), atol=1e-4, rtol=0)


def soup(seed: int) -> tuple[Tensor, Tensor]:
    """Random triangles in front of, behind and around two cameras; many open, non-manifold and crossing."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(2, 50, 4, generator=generator)
    return clip, torch.randint(0, 50, (40, 3), generator=generator)


@pytest.mark.parametrize("seed", SEEDS)
def test_crossings_equal_reference(seed: int) -> None:
    for offset in range(5):
        clip, faces = soup(seed + offset)
        face_index, edges = rasterize(clip, faces, 24, 31), edge_adjacency(faces, 50)
        fast = find_crossings(clip, faces, face_index, edges)
        with use_backend("reference"):
            exact = find_crossings(clip, faces, face_index, edges)
        assert len(fast.inner) > 0
        # Same float64 formulas in both: a decision within rounding of a tie has probability 1e-9.
        for name in ("inner", "outer", "edge"):
            assert torch.equal(getattr(fast, name), getattr(exact, name)), (seed + offset, name)


@pytest.mark.parametrize("seed", SEEDS)
def test_values_and_gradients_equal_float64_reference(seed: int) -> None:
    clip, faces = soup(seed)
    clip[..., 3] = clip[..., 3].abs() + 1
    face_index = rasterize(clip, faces, 24, 31)
    image = torch.rand(2, 24, 31, 3, generator=torch.Generator().manual_seed(seed))
    results = []
    for dtype in (torch.float32, torch.float64):
        colours, corners = image.to(dtype, copy=True).requires_grad_(), clip.to(dtype, copy=True).requires_grad_()
        out = antialias(colours, corners, faces, face_index)
        out.square().sum().backward()
        assert colours.grad is not None and corners.grad is not None
        results.append((out.double(), colours.grad.double(), corners.grad.double()))
    for fast, exact in zip(*results, strict=True):
        # float32 rounding of colours and shares; vertex gradients sum terms as large as the largest one.
        torch.testing.assert_close(fast, exact, atol=1e-5 * max(1.0, exact.abs().max().item()), rtol=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_stays_within_the_range_of_the_image(seed: int) -> None:
    """Also where a pixel blends with several neighbours: dots and wires thinner than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    corners = 2 * torch.rand(400, 1, 2, generator=generator) - 1 + 0.1 * torch.randn(400, 3, 2, generator=generator)
    clip = torch.cat([corners, torch.rand(400, 3, 1, generator=generator), torch.ones(400, 3, 1)], -1).view(1, -1, 4)
    faces = torch.arange(1200).view(-1, 3)
    face_index = rasterize(clip, faces, 32, 32)
    image = mask(face_index, len(faces))
    smooth = antialias(image, clip, faces, face_index)
    assert (smooth != image).any()
    assert smooth.min() >= -1e-6 and smooth.max() <= 1 + 1e-6  # float32 rounding of the sum


def test_gradcheck() -> None:
    # Two overlapping triangles, one image wider than high; generic positions, so no crossing changes pixels.
    front = [[-0.83, -0.71, 0.1, 1], [0.77, -0.62, 0.2, 1], [-0.13, 0.81, 0.1, 1]]
    back = [[-0.4, -0.9, 0.5, 1.3], [1.1, 0.3, 0.6, 1.2], [-0.9, 0.95, 0.7, 1.1]]
    clip = torch.tensor([front + back], dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    face_index = rasterize(clip, faces, 5, 6)
    image = torch.rand(1, 5, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, c: antialias(i, c, faces, face_index), (image, clip))


def test_several_cameras_are_independent() -> None:
    points, faces = bumpy_sphere(288)
    clip = torch.cat([perspective(points), perspective(1.1 * points + 0.1 * X)])
    face_index = rasterize(clip, faces, 40, 40)
    both = antialias(mask(face_index, len(faces)), clip, faces, face_index)
    for camera in range(2):
        one = slice(camera, camera + 1)
        alone = antialias(mask(face_index[one], len(faces)), clip[one], faces, face_index[one])
        assert torch.equal(both[one], alone)


def test_empty_mesh_and_bad_inputs() -> None:
    image, empty = torch.rand(1, 4, 5, 3), torch.full((1, 4, 5), -1, dtype=torch.int32)
    no_faces = torch.zeros(0, 3, dtype=torch.int64)
    assert torch.equal(antialias(image, torch.zeros(1, 0, 4), no_faces, empty), image)
    with pytest.raises(ValueError, match="face_index"):
        antialias(image, torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), empty + 2)
    with pytest.raises(ValueError, match="faces"):
        antialias(image, torch.zeros(1, 3, 4), torch.tensor([[0, 1, 3]]), empty)
    with pytest.raises(ValueError, match="edges"):
        edges = edge_adjacency(torch.tensor([[0, 1, 4]]), 5)
        antialias(image, torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]), empty, edges)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 40, 3000])
def test_edges_equal_reference(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vertex_count = max(4, count // 3)
    faces = torch.randint(0, vertex_count, (count, 3), generator=generator)
    fast = edge_adjacency(faces, vertex_count)
    with use_backend("reference"):
        exact = edge_adjacency(faces, vertex_count)
    for name in ("vertices", "faces", "opposite"):
        assert torch.equal(getattr(fast, name), getattr(exact, name)), name


def test_edges_of_closed_open_and_non_manifold_meshes() -> None:
    _, faces = bumpy_sphere(288)
    edges = edge_adjacency(faces, int(faces.max()) + 1)
    assert len(edges.vertices) == len(faces) * 3 // 2 and (edges.faces >= 0).all()
    fan = edge_adjacency(torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4], [5, 5, 0]]), 6)
    shared = (fan.vertices == torch.tensor([0, 1])).all(1)
    assert fan.faces[shared].tolist() == [[0, 1], [2, -1]]
    assert fan.opposite[shared].tolist() == [[2, 3], [4, -1]]
    assert len(fan.vertices) == 2 + 6
