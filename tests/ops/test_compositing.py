import importlib.util
import math

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.backends import use_backend
from liftstudio.ops.compositing import Composite, composite, reference
from liftstudio.ops.marching import Samples

SEEDS = [fresh_seed(__name__) for _ in range(3)]
CUDA = torch.cuda.is_available()
TARGETS = [
    ("numba", "cpu"),
    ("warp", "cpu"),
    *([("warp", "cuda"), ("reference", "cuda")] if CUDA else []),
    *([("nerfacc", "cuda")] if CUDA and importlib.util.find_spec("nerfacc") else []),
]
ALL_TARGETS = [("reference", "cpu"), *TARGETS]
FIELDS = ("weights", "opacity", "values", "depth", "distortion")
# Float32 against float64: a ray sums up to 60 terms of at most about 5 (depth); 1e-5 is about 16 roundings of that.
TOLERANCE = {"rtol": 2e-5, "atol": 1e-5}


def packed(counts: list[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Samples:
    """Return samples with gaps between some of them, `counts[r]` on ray r."""
    lengths = 0.02 + 0.1 * torch.rand(sum(counts), generator=generator)
    gaps = 0.3 * torch.rand(sum(counts), generator=generator) * (torch.rand(sum(counts), generator=generator) < 0.2)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    ray_index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts, dtype=torch.int64))
    travelled = torch.cat([torch.zeros(1), (lengths + gaps).cumsum(0)])
    t_end = 0.5 + travelled[1:] - travelled[offsets[:-1]][ray_index]
    return Samples(ray_index, (t_end - lengths).to(dtype), t_end.to(dtype), offsets)


def random_case(seed: int, counts: list[int], channels: int) -> tuple[Samples, Tensor, Tensor, list[Tensor]]:
    """Return samples, sigma from thin to opaque, values, and one random gradient per field."""
    generator = torch.Generator().manual_seed(seed)
    samples = packed(counts, generator)
    sigma = 10 ** (4 * torch.rand(sum(counts), generator=generator) - 2)
    sigma[::9] = 0
    values = torch.randn(sum(counts), channels, generator=generator)
    shapes = [(sum(counts),), *((len(counts), c) for c in (1, channels, 1, 1))]
    return samples, sigma, values, [torch.randn(shape, generator=generator) for shape in shapes]


def run(
    target: tuple[str, str], dtype: torch.dtype, samples: Samples, sigma: Tensor, values: Tensor, grads: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return all fields, and gradients of their products with `grads` for sigma and values, in float64 on the CPU."""
    backend, device = target
    sigma, values = (t.to(device, dtype).requires_grad_() for t in (sigma, values))
    moved = Samples(*(t.to(device, dtype if t.is_floating_point() else None) for t in vars(samples).values()))
    with use_backend(backend):
        result = composite(sigma, values, moved, distortion=True)
    fields = [getattr(result, name) for name in FIELDS]
    loss = sum((field * grad.to(field)).sum() for field, grad in zip(fields, grads, strict=True))
    inputs = torch.autograd.grad(loss, (sigma, values))
    return [f.detach().cpu().double() for f in fields], [g.cpu().double() for g in inputs]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("counts", "channels"),
    [([], 3), ([0], 3), ([1], 1), ([0, 3, 0, 1, 60, 0], 0), ([7] * 200, 7), ([0, 40, 5] * 70, 3)],
)
def test_values_and_gradients_equal_float64_reference(
    target: tuple[str, str], seed: int, counts: list[int], channels: int
) -> None:
    case = random_case(seed, counts, channels)
    fields, grads = run(target, torch.float32, *case)
    wanted_fields, wanted_grads = run(("reference", "cpu"), torch.float64, *case)
    for name, field, wanted in zip(FIELDS, fields, wanted_fields, strict=True):
        torch.testing.assert_close(field, wanted, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted, **TOLERANCE)


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("field", FIELDS)
def test_gradient_through_one_field_alone(target: tuple[str, str], field: str) -> None:
    samples, sigma, values, grads = random_case(SEEDS[0], [0, 12, 1, 30], 3)
    grads = [grad * (name == field) for name, grad in zip(FIELDS, grads, strict=True)]
    _, wanted = run(("reference", "cpu"), torch.float64, samples, sigma, values, grads)
    device = target[1]
    leaf, moved = sigma.to(device).requires_grad_(), Samples(*(t.to(device) for t in vars(samples).values()))
    with use_backend(target[0]):  # values without gradient, and the other fields unused
        result = composite(leaf, values.to(device), moved, distortion=field == "distortion")
    (getattr(result, field) * grads[FIELDS.index(field)].to(device)).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.cpu().double(), wanted[0], **TOLERANCE)


def test_reference_gradients() -> None:
    samples, sigma, values, _ = random_case(SEEDS[0], [0, 4, 1, 6], 2)
    samples = Samples(samples.ray_index, samples.t_start.double(), samples.t_end.double(), samples.offsets)

    def fields(sigma: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        result = composite(sigma, values, samples, distortion=True)
        return tuple(getattr(result, name) for name in FIELDS)

    inputs = sigma.clamp(0.1, 5).double().requires_grad_(), values.double().requires_grad_()
    assert torch.autograd.gradcheck(fields, inputs)
    assert torch.autograd.gradgradcheck(fields, inputs)


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("sigma", [0.0, 1e-3, 1.7, 80.0])
def test_slab_of_constant_density(target: tuple[str, str], sigma: float) -> None:
    """Piecewise constant density makes the quadrature exact: opacity is 1 - exp(-sigma L)."""
    near, length, count = 0.75, 1.5, 4096
    edges = near + length * torch.arange(count + 1, dtype=torch.float64) / count
    samples = Samples(
        torch.zeros(count, dtype=torch.int64), edges[:-1].float(), edges[1:].float(), torch.tensor([0, count])
    )
    result = on(target, torch.full((count,), sigma), torch.full((count, 1), 3.0), samples)
    opacity = -math.expm1(-sigma * length)
    # Integral of sigma exp(-sigma (t - near)) t dt over the slab. Midpoints instead of exact means within a sample cost
    # (length / count)^2 sigma / 12 < 1e-6; float32 sums of 4096 terms of at most 2.25 cost the rest.
    depth = near * opacity + (opacity - sigma * length * math.exp(-sigma * length)) / sigma if sigma else 0.0
    assert result.opacity.item() == pytest.approx(opacity, abs=2e-5)
    assert result.values.item() == pytest.approx(3 * opacity, abs=6e-5)
    assert result.depth.item() == pytest.approx(depth, abs=6e-5)
    # The weights telescope: their running sum is the opacity up to each sample.
    wanted = -torch.expm1(-sigma * (edges[1:] - near))
    torch.testing.assert_close(result.weights.double().cumsum(0), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
def test_distortion_equals_the_double_sum(target: tuple[str, str], seed: int) -> None:
    samples, sigma, values, _ = random_case(seed, [0, 1, 2, 40, 0, 17], 1)
    result = on(target, sigma, values, samples)
    assert result.distortion is not None
    for ray, (first, last) in enumerate(zip(samples.offsets[:-1], samples.offsets[1:], strict=True)):
        w, start, end = (x[first:last].double() for x in (result.weights, samples.t_start, samples.t_end))
        mid = (start + end) / 2
        wanted = (w[:, None] * w * (mid[:, None] - mid).abs()).sum() + (w**2 * (end - start)).sum() / 3
        # Float32 weights (relative error 1e-6) and midpoints (absolute 2e-7 each).
        assert result.distortion[ray].item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)


def on(target: tuple[str, str], sigma: Tensor, values: Tensor, samples: Samples) -> Composite:
    backend, device = target
    with use_backend(backend), torch.no_grad():
        moved = Samples(*(t.to(device) for t in vars(samples).values()))
        result = composite(sigma.to(device), values.to(device), moved, distortion=True)
    return Composite(*(t.cpu() for t in vars(result).values()))


@pytest.mark.parametrize("target", [t for t in TARGETS if t[0] in ("numba", "warp")])
def test_repeat_is_bit_identical(target: tuple[str, str]) -> None:
    case = random_case(SEEDS[0], [0, 33, 8, 1] * 300, 3)
    first, again = run(target, torch.float32, *case), run(target, torch.float32, *case)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("target", [t for t in TARGETS if t[0] in ("numba", "warp")])
def test_hidden_samples_get_no_gradient(target: tuple[str, str]) -> None:
    """Behind an opaque sample the gradient is zero, not the rounding error of two cancelling sums."""
    samples = packed([50], torch.Generator().manual_seed(SEEDS[0]))
    sigma = torch.ones(50)
    sigma[10] = 1e4
    case = (samples, sigma, torch.rand(50, 3), [torch.zeros(50), *(torch.ones(1, c) for c in (1, 3, 1, 1))])
    _, (grad_sigma, grad_values) = run(target, torch.float32, *case)
    assert (grad_sigma[11:] == 0).all()
    assert (grad_values[11:] == 0).all()
    assert (grad_sigma[:10] != 0).all()


def test_half_precision_is_computed_in_float32() -> None:
    samples, sigma, values, _ = random_case(SEEDS[0], [5, 9], 3)
    result = composite(sigma.bfloat16(), values.bfloat16(), samples)
    wanted = reference.composite(sigma.bfloat16().float(), values.bfloat16().float(), samples, False)
    assert result.distortion is None
    torch.testing.assert_close(result.values, wanted.values)


def test_wrong_shapes_are_named() -> None:
    samples = packed([2, 3], torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="sigma"):
        composite(torch.ones(5, 1), torch.ones(5, 3), samples)
    with pytest.raises(ValueError, match="values"):
        composite(torch.ones(5), torch.ones(4, 3), samples)
