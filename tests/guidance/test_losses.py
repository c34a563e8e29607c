import math
from collections.abc import Callable

import kornia
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from liftstudio.data.mesh import Mesh
from liftstudio.guidance import losses

B, H, W = 2, 6, 7


@pytest.fixture
def image() -> Callable[[int], Tensor]:
    """Return random [B, H, W, C] float64 images in [0, 1]."""
    return lambda channels: torch.rand(B, H, W, channels, dtype=torch.float64)


@pytest.fixture
def mask() -> Tensor:
    return (torch.rand(B, H, W, 1) > 0.3).double()


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors - 0.5, dim=-1)


# The losses of one image-shaped argument, with the others fixed: argument, function(argument, mask).
def cases() -> dict[str, tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]]:
    def rand(channels: int) -> Tensor:
        return torch.rand(B, H, W, channels, dtype=torch.float64)

    rgb, normal, depth = rand(3), unit(rand(3)), rand(1)
    return {
        "rgb": (rand(3), lambda x, mask: losses.rgb(x, rgb, mask)),
        "one_minus_ssim": (rand(1), lambda x, mask: losses.one_minus_ssim(x * mask, depth * mask)),
        "mask": (rand(1), lambda x, mask: losses.mask(x * mask, mask)),
        "mono_normal": (unit(rand(3)), lambda x, mask: losses.mono_normal(x, normal, mask)),
        "mono_depth": (rand(1), lambda x, mask: losses.mono_depth(x, depth, mask)),
        "depth_smoothness": (rand(1), lambda x, mask: losses.depth_smoothness(x, mask, torch.tensor([1.5, 2.0]))),
        "bilateral_normal": (unit(rand(3)), lambda x, mask: losses.bilateral_normal(x, rgb, mask)),
        "albedo_smoothness": (rand(3), lambda x, mask: losses.albedo_smoothness(x * mask, rgb * mask)),
        "illumination": (rand(1), lambda x, mask: losses.illumination(x, rgb, mask)),
        "bilateral_normal_printed": (
            unit(rand(3)),
            lambda x, mask: losses.bilateral_normal(x, rgb, mask, printed=True),
        ),
        "illumination_printed": (rand(1), lambda x, mask: losses.illumination(x, rgb, mask, printed=True)),
        "opaque": (rand(1), lambda x, mask: losses.opaque(x * mask)),
        "sparsity": (rand(1), lambda x, mask: losses.sparsity(x * mask)),
        "distortion": (rand(1), lambda x, mask: losses.distortion(x * mask)),
        "eikonal": (rand(3), lambda x, mask: losses.eikonal(x.reshape(-1, 3))),
    }


@pytest.mark.parametrize("name", cases())
def test_gradients_equal_finite_differences(name: str, mask: Tensor) -> None:
    argument, function = cases()[name]
    assert gradcheck(lambda x: function(x, mask), argument.requires_grad_())


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("covered", [0.0, 1.0])
def test_flat_images_and_empty_masks_have_finite_gradients(name: str, value: float, covered: float) -> None:
    argument, function = cases()[name]
    flat = torch.full_like(argument, value).requires_grad_()
    loss = function(flat, torch.full((B, H, W, 1), covered, dtype=torch.float64))
    loss.backward()
    assert loss.isfinite() and flat.grad is not None and flat.grad.isfinite().all()


PRINTED = ("bilateral_normal_printed", "illumination_printed")
MASKED = ("rgb", "mono_normal", "mono_depth", "depth_smoothness", "bilateral_normal", "illumination", *PRINTED)


@pytest.mark.parametrize("name", MASKED)
def test_an_empty_mask_gives_zero(name: str) -> None:
    argument, function = cases()[name]
    assert function(argument, torch.zeros(B, H, W, 1, dtype=torch.float64)) == 0


@pytest.mark.parametrize("name", MASKED)
def test_pixels_outside_the_mask_do_not_matter(name: str, mask: Tensor) -> None:
    argument, function = cases()[name]
    argument.requires_grad_()
    expected = function(argument, mask)
    changed = torch.where(mask > 0, argument, torch.inf).detach().requires_grad_()
    if name.startswith(("depth_smoothness", "bilateral_normal")):  # these take differences first: infinity - infinity
        changed = torch.where(mask > 0, argument, 7.0).detach().requires_grad_()
    assert torch.allclose(function(changed, mask), expected)
    (gradient,) = torch.autograd.grad(expected, argument)
    assert (gradient * (1 - mask) == 0).all()


def test_squared_errors_by_hand() -> None:
    a, b = torch.zeros(1, 1, 2, 3), torch.tensor([[[[1.0, 2.0, 3.0], [0.0, 0.0, 2.0]]]])
    assert losses.rgb(a, b).item() == pytest.approx(18 / 6)
    assert losses.rgb(a, b, torch.tensor([[[[0.0], [1.0]]]])).item() == pytest.approx(4 / 3)
    assert losses.rgb(a, b, torch.tensor([[[[0.5], [1.0]]]])).item() == pytest.approx((0.5 * 14 + 4) / (1.5 * 3))
    assert losses.mask(torch.tensor([[[[0.5], [1.0]]]]), torch.tensor([[[[1.0], [1.0]]]])).item() == 0.125
    assert losses.albedo_smoothness(a.view(2, 3), b.view(2, 3)).item() == pytest.approx(3.0)
    assert losses.albedo_smoothness(torch.zeros(0, 3), torch.zeros(0, 3)) == 0


def test_one_minus_ssim_is_zero_for_equal_images(image) -> None:
    rgb = image(3)
    assert losses.one_minus_ssim(rgb, rgb).item() == pytest.approx(0, abs=1e-12)
    assert losses.one_minus_ssim(rgb, 1 - rgb) > 1


def test_mono_normal_by_hand() -> None:
    normal = torch.tensor([[[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]])
    target = torch.tensor([[[[0.0, 0.6, 0.8], [-1.0, 0.0, 0.0]]]])
    assert losses.mono_normal(normal, target, torch.ones(1, 1, 2, 1)).item() == pytest.approx((0.2 + 2) / 2)


def test_mono_depth_is_one_minus_the_correlation_of_each_image(image, mask: Tensor) -> None:
    depth, target = image(1), image(1)
    correlations = [np.corrcoef(depth[b][mask[b] > 0].numpy(), target[b][mask[b] > 0].numpy())[0, 1] for b in range(B)]
    # The guard against flat depth, 1e-6 beside a variance of 1/12, moves the value by 1e-5.
    assert losses.mono_depth(depth, target, mask).item() == pytest.approx(1 - np.mean(correlations), abs=2e-5)


def test_mono_depth_is_invariant_to_scale_and_shift(image, mask: Tensor) -> None:
    depth = image(1)
    assert losses.mono_depth(depth, 40 * depth + 7, mask).item() == pytest.approx(0, abs=2e-5)
    assert losses.mono_depth(depth, -depth, mask).item() == pytest.approx(2, abs=2e-5)
    half = mask * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)  # an image without foreground does not count
    assert losses.mono_depth(depth, depth, half).item() == pytest.approx(0, abs=2e-5)


def test_depth_smoothness_equals_a_loop(image, mask: Tensor) -> None:
    depth, distance = image(1), torch.tensor([1.5, 2.0], dtype=torch.float64)
    expected = 0.0
    for di, dj in ((0, 1), (1, 0)):
        pairs = [
            ((depth[b, i, j] - depth[b, i + di, j + dj]) / distance[b]).square().item()
            for b in range(B)
            for i in range(H - di)
            for j in range(W - dj)
            if mask[b, i, j] > 0 and mask[b, i + di, j + dj] > 0
        ]
        expected += sum(pairs) / len(pairs)
    assert losses.depth_smoothness(depth, mask, distance).item() == pytest.approx(expected)
    assert losses.depth_smoothness(depth, mask, 1.0) == losses.depth_smoothness(depth, mask, torch.ones(2))


@pytest.mark.parametrize("printed", [False, True])
def test_bilateral_normal_equals_a_loop(image, printed: bool) -> None:
    normal, rgb, mask = unit(image(3)), image(3), torch.ones(B, H, W, 1, dtype=torch.float64)
    mask[0, 0, 0] = 0  # takes out one 3x3 neighbourhood
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64) / 8
    values = []
    for b in range(B):
        for i in range(1, H - 1):
            for j in range(1, W - 1):
                window = (b, slice(i - 1, i + 2), slice(j - 1, j + 2))
                if mask[window].min() == 0:
                    continue
                (ix, iy), (nx, ny) = (
                    [(kernel[..., None] * x[window]).sum((0, 1)) for kernel in (sobel, sobel.T)] for x in (rgb, normal)
                )
                contrast = (ix.square() + iy.square()).sqrt().mean()
                bending = nx.square().sum() + ny.square().sum()
                bent = (1 + bending.sqrt()).sqrt() if printed else (1 + bending).sqrt() - 1
                values.append((torch.exp(-3 * contrast) * bent).item())
    assert len(values) == B * (H - 2) * (W - 2) - 1
    assert losses.bilateral_normal(normal, rgb, mask, printed=printed).item() == pytest.approx(np.mean(values))


def test_bilateral_normal_of_flat_normals_is_exactly_zero(image) -> None:
    normal = torch.tensor([0.0, 0.0, 1.0]).expand(B, H, W, 3)
    assert losses.bilateral_normal(normal, image(3).float(), torch.ones(B, H, W, 1)) == 0


def test_illumination_by_hand() -> None:
    target = torch.tensor([[[[0.2, 0.9, 0.4], [0.3, 0.1, 0.2], [1.0, 1.0, 1.0]]]])
    irradiance = torch.tensor([[[[1.0], [1.0], [3.0]]]])  # even light, and a background pixel
    mask = torch.tensor([[[[1.0], [1.0], [0.0]]]])
    assert losses.illumination(irradiance, target, mask).item() == pytest.approx(0.3**2)  # 0.9 and 0.3 about 0.6
    assert losses.illumination(5 * irradiance, target, mask).item() == pytest.approx(0.3**2)
    assert losses.illumination(irradiance, target, mask, printed=True).item() == pytest.approx((0.1**2 + 0.7**2) / 2)


def test_opacity_terms_by_hand() -> None:
    opacity = torch.tensor([0.5, 0.5, 0.0, 1.0]).view(1, 2, 2, 1)
    ends = -(1e-3 * math.log(1e-3) + 0.999 * math.log(0.999))
    assert losses.opaque(opacity).item() == pytest.approx((math.log(2) + ends) / 2, rel=1e-5)
    assert losses.sparsity(opacity).item() == 0.5
    assert losses.distortion(torch.tensor([1.0, 2.0, 6.0])).item() == 3.0
    assert losses.distortion(torch.zeros(0)) == 0


def test_eikonal_by_hand() -> None:
    assert losses.eikonal(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])).item() == pytest.approx(
        17 / 3
    )


def tetrahedron() -> Mesh:
    vertices = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    return Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]]))


def folded(angle_deg: float) -> Mesh:
    """Return two triangles with a common edge, normals `angle_deg` apart."""
    angle = math.radians(angle_deg)
    corners = [[0.0, 0, 0], [0, 1, 0], [1, 0, 0], [-math.cos(angle), 0, math.sin(angle)]]
    vertices = torch.tensor(corners, dtype=torch.float64)
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 1, 3]]))


def test_mesh_laplacian_by_hand() -> None:
    # The neighbours of a vertex v of this tetrahedron have the mean -v/3: offset 4/3 |v|, |v|^2 = 3.
    assert losses.mesh_laplacian(tetrahedron()).item() == pytest.approx(16 / 9 * 3)


def test_mesh_laplacian_equals_a_loop() -> None:
    torch.manual_seed(1)
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4]])
    vertices = torch.rand(6, 3, dtype=torch.float64)  # vertex 5 has no face
    neighbours: dict[int, set[int]] = {v: set() for v in range(5)}
    for face in faces.tolist():
        for v in face:
            neighbours[v] |= set(face) - {v}
    expected = [(vertices[sorted(n)].mean(0) - vertices[v]).square().sum().item() for v, n in neighbours.items()]
    assert losses.mesh_laplacian(Mesh(vertices, faces)).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 90.0, 150.0])
def test_mesh_normal_consistency_of_a_fold(angle_deg: float) -> None:
    expected = 1 - math.cos(math.radians(angle_deg))
    assert losses.mesh_normal_consistency(folded(angle_deg)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [losses.mesh_laplacian, losses.mesh_normal_consistency])
def test_mesh_gradients(loss: Callable[[Mesh], Tensor]) -> None:
    for mesh in (tetrahedron(), folded(40.0)):
        assert gradcheck(lambda v, faces=mesh.faces: loss(Mesh(v, faces)), mesh.vertices.clone().requires_grad_())


@pytest.mark.parametrize("loss", [losses.mesh_laplacian, losses.mesh_normal_consistency])
def test_degenerate_meshes(loss: Callable[[Mesh], Tensor]) -> None:
    sliver = tetrahedron().vertices.float().clone()
    sliver[3] = (sliver[0] + sliver[1]) / 2 + 1e-7
    for vertices in (torch.zeros(4, 3), sliver):
        vertices = vertices.clone().requires_grad_()
        value = loss(Mesh(vertices, tetrahedron().faces))
        value.backward()
        # The least height that counts is 0.001 of the side, so no derivative exceeds about 1000 per side.
        assert value.isfinite() and vertices.grad is not None and vertices.grad.abs().max() < 1e4
    empty = torch.zeros(0, 3, requires_grad=True)
    assert loss(Mesh(empty, torch.zeros(0, 3, dtype=torch.int64))) == 0


def test_sobel_differences_are_kornias() -> None:
    images = torch.rand(2, 7, 9, 3, dtype=torch.float64)
    gradient = kornia.filters.spatial_gradient(images.permute(0, 3, 1, 2))  # [B, C, 2, H, W], along x and y
    torch.testing.assert_close(losses._sobel(images), gradient.permute(2, 0, 3, 4, 1)[:, :, 1:-1, 1:-1])
