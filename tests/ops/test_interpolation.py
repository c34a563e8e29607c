"""Attribute interpolation: values, gradients, perspective."""

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.rasterization import Fragments, fragments, rasterize

SEEDS = [fresh_seed(__name__) for _ in range(3)]


def scene(seed: int, batch: int = 2) -> tuple[Tensor, Fragments]:
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(batch, 40, 4, generator=generator)
    clip[..., 3] = clip[..., 3].abs() + 1
    faces = torch.randint(0, 40, (30, 3), generator=generator)
    return faces, fragments(clip, faces, rasterize(clip, faces, 24, 19))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(40, 1), (40, 3), (2, 40, 5)])
def test_equals_float64_reference(seed: int, shape: tuple[int, ...]) -> None:
    faces, packed = scene(seed)
    generator = torch.Generator().manual_seed(seed)
    attributes = torch.randn(shape, generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = attributes.to(dtype, copy=True).requires_grad_()
        weights = packed.barycentric.to(dtype, copy=True).requires_grad_()
        out = interpolate(leaf, faces, Fragments(packed.pixel, packed.face, weights, packed.shape))
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)).sum().backward()
        results.append([part.double() for part in (out, leaf.grad, weights.grad)])
    # float32 rounding; an attribute's gradient sums up to a few hundred terms of size one.
    for fast, exact in zip(*results, strict=True):
        torch.testing.assert_close(fast, exact, atol=2e-5, rtol=1e-5)


def test_gradcheck() -> None:
    faces, packed = scene(SEEDS[0])
    few = slice(0, 20)
    weights = packed.barycentric[few].double().requires_grad_()
    attributes = torch.randn(2, 40, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, w: interpolate(a, faces, Fragments(packed.pixel[few], packed.face[few], w, packed.shape)),
        (attributes, weights),
    )


def test_perspective_correct_on_a_plane() -> None:
    """On a receding floor y = -1 the interpolated position is where the pixel's ray meets the plane."""
    corners = torch.tensor([[-9.0, -1, -1], [9, -1, -1], [9, -1, -30], [-9, -1, -30]])
    z = -(100.1 / 99.9) * corners[:, 2:] - 20 / 99.9  # near 0.1, far 100, 90 degrees
    clip = torch.cat([corners[:, :2], z, -corners[:, 2:]], dim=1)[None]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    packed = fragments(clip, faces, rasterize(clip, faces, 48, 32))
    positions = interpolate(corners, faces, packed)
    x = (2 * (packed.pixel % 32) + 1) / 32 - 1
    y = 1 - (2 * (packed.pixel // 32) + 1) / 48
    distance = -1 / y
    assert len(packed.pixel) > 300
    # float32 barycentrics over a plane of 30 units.
    torch.testing.assert_close(positions[:, 2], -distance, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(positions[:, 0], x * distance, atol=1e-4, rtol=1e-5)


def test_own_corner_list_and_empty() -> None:
    faces, packed = scene(SEEDS[0])
    per_corner = torch.randn(90, 2)
    own = interpolate(per_corner, torch.arange(90).view(30, 3), packed)
    corners = per_corner.view(30, 3, 2)[packed.face]
    torch.testing.assert_close(own, (packed.barycentric[..., None] * corners).sum(1))
    empty = Fragments(packed.pixel[:0], packed.face[:0], packed.barycentric[:0], packed.shape)
    assert interpolate(per_corner[:40], faces, empty).shape == (0, 2)


def test_bad_inputs_are_named() -> None:
    faces, packed = scene(SEEDS[0])
    with pytest.raises(ValueError, match="faces"):
        interpolate(torch.zeros(2, 2), faces, packed)
    with pytest.raises(ValueError, match="attributes"):
        interpolate(torch.zeros(3, 40, 2), faces, packed)
