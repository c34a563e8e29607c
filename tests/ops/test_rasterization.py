"""Rasterisation and barycentric coordinates compared with the brute-force reference and closed forms."""

import pytest
import torch
import trimesh
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.backends import use_backend
from liftstudio.ops.edges import edge_adjacency
from liftstudio.ops.rasterization import Fragments, fragments, rasterize, scatter_image

SEEDS = [fresh_seed(__name__) for _ in range(3)]
FAST = ["numba", "warp"]


def soup(seed: int, vertices: int = 60, faces: int = 50, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return random triangles around the camera: in front, behind, through the near plane, with repeated vertices."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(batch, vertices, 4, generator=generator)
    return clip, torch.randint(0, vertices, (faces, 3), generator=generator)


def perspective(points: Tensor, fov_deg: float = 45.0, near: float = 0.1, far: float = 100.0) -> Tensor:
    """Return clip positions [1, V, 4] of points in camera space (looking along -z)."""
    scale = 1 / torch.tan(torch.deg2rad(torch.tensor(fov_deg / 2, dtype=points.dtype)))
    x, y, z = points.unbind(-1)
    depth = -(far + near) / (far - near) * z - 2 * far * near / (far - near)
    return torch.stack([x * scale, y * scale, depth, -z], dim=-1)[None]


def sphere(columns: int) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.uv_sphere(count=[columns // 2 + 1, columns])
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces)


def both(backend: str, clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    with use_backend(backend):
        fast = rasterize(clip, faces, height, width)
    with use_backend("reference"):
        return fast, rasterize(clip, faces, height, width)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("height", "width"), [(17, 31), (40, 24), (1, 1)])
def test_soup_equals_reference(backend: str, seed: int, height: int, width: int) -> None:
    clip, faces = soup(seed)
    fast, reference = both(backend, clip, faces, height, width)
    # Same float64 formulas: only a pixel centre within rounding of an edge or of a depth tie could differ.
    assert (fast != reference).sum() <= 1
    assert fast.shape == (2, height, width) and fast.dtype == torch.int32


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("seed", SEEDS)
def test_tiny_triangles_equal_reference(backend: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.rand(2000, 1, 2, generator=generator) - 1
    corners = centres + 0.05 * torch.randn(2000, 3, 2, generator=generator)
    depth = torch.rand(2000, 3, 1, generator=generator)
    clip = torch.cat([corners, depth, torch.ones_like(depth)], dim=-1).reshape(1, -1, 4)
    fast, reference = both(backend, clip, torch.arange(6000).view(-1, 3), 32, 32)
    assert (fast != reference).sum() <= 1
    assert (fast >= 0).any()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_orientation_depth_order_and_ties(backend: str) -> None:
    # A triangle in the upper left corner of the view must land in the upper left of the image.
    upper_left = torch.tensor([[-1.0, 1.0, 0, 1], [0, 1, 0, 1], [-1, 0, 0, 1]])
    nearer = upper_left - torch.tensor([0, 0, 0.5, 0])
    clip = torch.cat([upper_left, nearer])[None]
    with use_backend(backend):
        order = rasterize(clip, torch.tensor([[0, 1, 2], [3, 4, 5]]), 8, 8)
        tie = rasterize(clip, torch.tensor([[2, 1, 0], [0, 1, 2]]), 8, 8)  # both windings, equal depth
    covered = torch.zeros(8, 8, dtype=torch.bool)
    covered[:4, :4] = torch.ones(4, 4).tril(0).flip(0).bool()
    assert torch.equal(order[0] == 1, covered) and torch.equal(order[0] >= 0, covered)
    assert torch.equal(tie[0] == 0, covered)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_near_and_far_planes_cut_a_floor(backend: str) -> None:
    # A floor one unit below the eye that reaches from behind the camera to beyond the far plane.
    corners = [[-500.0, -1, 500], [500, -1, 500], [500, -1, -500], [-500, -1, -500]]
    clip = perspective(torch.tensor(corners), fov_deg=90, near=2.0, far=50.0)
    with use_backend(backend):
        rows = rasterize(clip, torch.tensor([[0, 1, 2], [0, 2, 3]]), 64, 16)[0].ge(0)
    # Row i looks down by -y = distance^-1: visible where 1 / 50 <= (2 i + 1) / 64 - 1 <= 1 / 2.
    slope = (2 * torch.arange(64) + 1) / 64 - 1
    assert torch.equal(rows, ((slope >= 1 / 50) & (slope <= 1 / 2))[:, None].expand(64, 16))


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_degenerate_and_non_finite_triangles_are_left_out(backend: str) -> None:
    big = torch.tensor([[-1.0, -1, 0, 1], [3, -1, 0, 1], [-1, 3, 0, 1]])
    for value in (float("nan"), float("inf"), -float("inf")):
        for component in range(4):
            clip = big.clone()
            clip[1, component] = value
            with use_backend(backend):
                assert (rasterize(clip[None], torch.tensor([[0, 1, 2]]), 8, 8) < 0).all(), (value, component)
    line = torch.tensor([[-1.0, -1, 0, 1], [0, 0, 0, 1], [1, 1, 0, 1]])
    behind = torch.tensor([[-1.0, -1, 0, -1], [3, -1, 0, -1], [-1, 3, 0, -1]])
    with use_backend(backend):
        assert (rasterize(line[None], torch.tensor([[0, 1, 2], [0, 1, 1], [2, 2, 2]]), 8, 8) < 0).all()
        assert (rasterize(behind[None], torch.tensor([[0, 1, 2]]), 8, 8) < 0).all()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("seed", SEEDS)
def test_closed_mesh_is_watertight_from_inside(backend: str, seed: int) -> None:
    """Seen from inside, every pixel is covered: no gaps along shared edges, at corners or across the near plane."""
    vertices, faces = sphere(60)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    points = (vertices + 0.3 * torch.rand(3, generator=generator)) @ rotation
    with use_backend(backend):
        assert (rasterize(perspective(points, 120, near=0.01), faces, 128, 128) >= 0).all()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_grid_through_pixel_centres_has_no_gaps(backend: str) -> None:
    """Vertices and edges exactly on pixel centres, the worst case for a coverage rule."""
    steps = (2 * torch.arange(8) + 1) / 8 - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    clip = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], dim=-1).reshape(1, -1, 4)
    corner = (torch.arange(7)[:, None] * 8 + torch.arange(7)).reshape(-1, 1)
    faces = torch.cat([corner + torch.tensor([0, 1, 9]), corner + torch.tensor([0, 9, 8])])
    with use_backend(backend):
        assert (rasterize(clip, faces, 8, 8) >= 0).all()


def test_empty_inputs() -> None:
    no_faces = torch.zeros(0, 3, dtype=torch.int64)
    face_index = rasterize(torch.zeros(2, 0, 4), no_faces, 4, 5)
    assert face_index.shape == (2, 4, 5) and (face_index == -1).all()
    packed = fragments(torch.zeros(2, 0, 4), no_faces, face_index)
    assert packed.barycentric.shape == (0, 3)
    assert torch.equal(scatter_image(torch.zeros(0, 3), packed, 0.25), torch.full((2, 4, 5, 3), 0.25))
    assert len(edge_adjacency(no_faces, 0).vertices) == 0


def test_bad_inputs_are_named() -> None:
    clip, faces = soup(0)
    with pytest.raises(ValueError, match="clip"):
        rasterize(clip[0], faces, 4, 4)
    with pytest.raises(ValueError, match="faces"):
        rasterize(clip, faces + 60, 4, 4)
    with pytest.raises(ValueError, match="faces"):
        rasterize(clip, faces - 60, 4, 4)
    with pytest.raises(ValueError, match="face_index"):
        fragments(clip, faces, torch.full((2, 4, 4), 50, dtype=torch.int32))


def test_repeats_are_identical() -> None:
    clip, faces = soup(SEEDS[0], vertices=300, faces=400)
    face_index = rasterize(clip, faces, 96, 80)
    assert torch.equal(face_index, rasterize(clip, faces, 96, 80))
    gradients = []
    for _ in range(2):
        leaf = clip.clone().requires_grad_()
        fragments(leaf, faces, face_index).barycentric.square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0], gradients[1])


def packed_soup(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return soup in front of the camera, with well-conditioned barycentrics, and its face indices."""
    clip, faces = soup(seed)
    clip[..., 3] = clip[..., 3].abs() + 1
    return clip, faces, rasterize(clip, faces, 20, 28)


@pytest.mark.parametrize("seed", SEEDS)
def test_barycentrics_equal_float64_reference(seed: int) -> None:
    clip, faces, face_index = packed_soup(seed)
    leaves = [clip.clone().requires_grad_(), clip.double().requires_grad_()]
    fast, exact = (fragments(leaf, faces, face_index) for leaf in leaves)
    assert torch.equal(fast.pixel, exact.pixel) and torch.equal(fast.face, exact.face)
    # Both are computed in float64 from the same float32 positions, the fast one is rounded to float32 at the end.
    torch.testing.assert_close(fast.barycentric.double(), exact.barycentric, atol=2e-7, rtol=0)
    weights = torch.randn(exact.barycentric.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    (fast.barycentric * weights.float()).sum().backward()
    (exact.barycentric * weights).sum().backward()
    # float32 sums of terms that may cancel: relative to the largest gradient.
    scale = leaves[1].grad.abs().max().item()
    torch.testing.assert_close(leaves[0].grad.double(), leaves[1].grad, atol=1e-5 * scale, rtol=1e-4)


def test_barycentrics_gradcheck() -> None:
    # Well-shaped triangles: coordinates on slivers change too fast for finite differences.
    generator = torch.Generator().manual_seed(SEEDS[0])
    corners = torch.tensor([[-0.9, -0.9, 0, 1], [0.9, -0.7, 0, 1], [0, 0.9, 0, 1]], dtype=torch.float64).repeat(2, 2, 1)
    clip = (corners + 0.1 * torch.rand(corners.shape, generator=generator)) * torch.tensor([1, 1, 1, 1.2])
    clip.requires_grad_()
    faces = torch.tensor([[0, 1, 2], [4, 3, 5]])
    face_index = rasterize(clip, faces, 5, 6)
    assert (face_index >= 0).sum() > 10
    assert torch.autograd.gradcheck(lambda c: fragments(c, faces, face_index).barycentric, clip)


def test_barycentrics_locate_the_pixel() -> None:
    """The weighted corners project back onto the pixel's centre, with a depth that is nearest there."""
    clip, faces, face_index = packed_soup(SEEDS[0])
    packed = fragments(clip.double(), faces, face_index)
    image = packed.pixel // (20 * 28)
    points = (packed.barycentric[..., None] * clip.double()[image[:, None], faces[packed.face]]).sum(1)
    column, row = packed.pixel % 28, packed.pixel // 28 % 20
    torch.testing.assert_close(points[:, 0] / points[:, 3], (2 * column + 1).double() / 28 - 1)
    torch.testing.assert_close(points[:, 1] / points[:, 3], 1 - (2 * row + 1).double() / 20)
    assert (packed.barycentric >= -1e-9).all()
    assert (packed.pixel[1:] > packed.pixel[:-1]).all()


def test_scatter_image() -> None:
    pixel = torch.tensor([1, 3])
    packed = Fragments(pixel, torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3), (1, 2, 2))
    values = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    background = torch.tensor([7.0, 8], requires_grad=True)
    image = scatter_image(values, packed, background)
    assert image.tolist() == [[[[7, 8], [1, 2]], [[7, 8], [3, 4]]]]
    image.sum().backward()
    assert values.grad is not None and background.grad is not None
    assert torch.equal(values.grad, torch.ones(2, 2)) and background.grad.tolist() == [2, 2]
