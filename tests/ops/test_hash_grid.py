"""Hash-grid encoding: the reference against plain Python loops, the kernels against the reference."""

import itertools
import math

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.backends import use_backend
from liftstudio.ops.hash_grid import HashGridSpec, hash_encode

SEED = fresh_seed(__name__)
fresh_seed = pytest.mark.parametrize("seed", [SEED])
each_backend = pytest.mark.parametrize("backend", ["numba", "warp"])

SPECS = [
    HashGridSpec(levels=3, features=2, log2_table_size=14, base_resolution=4, finest_resolution=16),  # all dense
    HashGridSpec(levels=5, features=2, log2_table_size=7, base_resolution=3, finest_resolution=40),  # mostly hashed
    HashGridSpec(levels=4, features=1, log2_table_size=4, base_resolution=2, finest_resolution=30),  # heavy collisions
    HashGridSpec(levels=2, features=4, log2_table_size=10, base_resolution=8, finest_resolution=16),
    HashGridSpec(levels=1, features=3, log2_table_size=6, base_resolution=5, finest_resolution=5),
    HashGridSpec(levels=16, features=2, log2_table_size=11),
]
each_spec = pytest.mark.parametrize(
    "spec", SPECS, ids=lambda s: f"L{s.levels}F{s.features}T{s.log2_table_size}R{s.finest_resolution}"
)


def inner_points(count: int, spec: HashGridSpec, generator: torch.Generator) -> Tensor:
    """Return random float32 points, none within 0.5 % of a cell of any level's cell walls.

    Derivatives jump at the walls, where rounding decides which side a point is on.
    """
    points = torch.rand(count * 20, 3, generator=generator)
    position = points.double()[:, None] * torch.tensor(spec.scales, dtype=torch.float64)[:, None] + 0.5
    from_wall = (position - position.round()).abs().amin((1, 2))
    return points[from_wall > 0.005][:count]


def random_table(spec: HashGridSpec, generator: torch.Generator) -> Tensor:
    return torch.randn(spec.entries, spec.features, generator=generator)


def loop_encode(points: list[list[float]], table: list[list[float]], spec: HashGridSpec) -> list[list[float]]:
    """Compute tiny-cuda-nn's grid encoding in Python loops, from the parameters alone."""
    growth = math.exp(math.log(spec.finest_resolution / spec.base_resolution) / max(spec.levels - 1, 1))
    encodings: list[list[float]] = [[] for _ in points]
    first_row = 0
    for level in range(spec.levels):
        scale = spec.scales[level]
        # The layout computes growth^level in float32.
        assert scale == pytest.approx(spec.base_resolution * growth**level - 1, rel=1e-6)
        resolution = math.ceil(round(scale, 4)) + 1
        rows = min(math.ceil(resolution**3 / 8) * 8, 2**spec.log2_table_size)
        for point, encoding in zip(points, encodings, strict=True):
            position = [x * scale + 0.5 for x in point]
            result = [0.0] * spec.features
            for offset in itertools.product((0, 1), repeat=3):
                i, j, k = (math.floor(p) + o for p, o in zip(position, offset, strict=True))
                if resolution**3 <= rows:
                    row = (i + j * resolution + k * resolution * resolution) % rows
                else:
                    row = (i ^ (j * 2654435761 % 2**32) ^ (k * 805459861 % 2**32)) % rows
                weight = 1.0
                for p, o in zip(position, offset, strict=True):
                    weight *= p % 1 if o else 1 - p % 1
                result = [r + weight * t for r, t in zip(result, table[first_row + row], strict=True)]
            encoding += result
        first_row += rows
    assert first_row == len(table)
    return encodings


def test_layout_has_the_size_of_instant_ngp_snapshots() -> None:
    """instant-ngp stores 13,084,640 parameters for its base.json (finest 8192), 9,728 of them the networks'."""
    spec = HashGridSpec(log2_table_size=19, finest_resolution=8192)
    assert spec.entries * spec.features == 13_084_640 - 9_728
    assert spec.per_level_scale == pytest.approx(1.51572, abs=1e-5)  # as instant-ngp prints it


def test_layout_of_the_default_grid() -> None:
    spec = HashGridSpec()
    assert spec.resolutions[0] == 16 and spec.resolutions[-1] == 2048
    assert spec.sizes[:4] == (4096, 12168, 29792, 32768)
    assert spec.offsets[:4] == (0, 4096, 16264, 46056)
    assert spec.hashed == (False,) * 3 + (True,) * 13
    assert spec.entries == 46056 + 13 * 2**15 and spec.output_size == 32


@fresh_seed
@each_spec
def test_reference_equals_loops(spec: HashGridSpec, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = inner_points(7, spec, generator).double()
    points = torch.cat([points, torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 0.37]], dtype=torch.float64)])
    table = random_table(spec, generator).double()
    expected = torch.tensor(loop_encode(points.tolist(), table.tolist(), spec), dtype=torch.float64)
    # float64 throughout; 2048 cells cost 11 of its 52 bits.
    torch.testing.assert_close(hash_encode(points, table, spec), expected, rtol=0, atol=1e-11)


@fresh_seed
@pytest.mark.parametrize(
    "spec",
    [
        HashGridSpec(levels=2, features=2, log2_table_size=4, base_resolution=2, finest_resolution=5),
        HashGridSpec(levels=2, features=1, log2_table_size=6, base_resolution=2, finest_resolution=3),
    ],
    ids=["hashed", "dense"],
)
def test_reference_derivatives_equal_finite_differences(spec: HashGridSpec, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = inner_points(3, spec, generator).double().requires_grad_()
    table = random_table(spec, generator).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: hash_encode(p, t, spec), (points, table), eps=1e-7)
    assert torch.autograd.gradgradcheck(lambda p, t: hash_encode(p, t, spec), (points, table), eps=1e-7)


def every_derivative(points: Tensor, table: Tensor, spec: HashGridSpec, backend: str, seed: int) -> dict[str, Tensor]:
    """Return values, first and second derivatives of a random nonlinear function of the encoding."""
    generator = torch.Generator().manual_seed(seed)
    mix, to_points, to_table = (
        torch.randn(shape, generator=generator).to(points) for shape in (spec.output_size, points.shape, table.shape)
    )
    points, table, mix = (tensor.clone().requires_grad_() for tensor in (points, table, mix))
    with use_backend(backend):
        encoding = hash_encode(points, table, spec)
        field = torch.sin(encoding * mix).sum()
        grad_points, grad_table = torch.autograd.grad(field, (points, table), create_graph=True)
        # A loss on normals alone, and one on both gradients.
        normals = torch.autograd.grad((grad_points * to_points).sum(), (points, table, mix), retain_graph=True)
        both = (grad_points * to_points).sum() + (grad_table * to_table).sum()
        second = torch.autograd.grad(both, (points, table, mix))
    names = ("encoding", "grad_points", "grad_table")
    names += tuple(f"{loss} d{to}" for loss in ("normals", "both") for to in ("points", "table", "mix"))
    return dict(zip(names, (encoding.detach(), grad_points, grad_table, *normals, *second), strict=True))


@fresh_seed
@each_backend
@each_spec
@pytest.mark.parametrize("count", [0, 1, 300])
def test_kernels_equal_reference(backend: str, spec: HashGridSpec, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, table = inner_points(count, spec, generator), random_table(spec, generator)
    actual = every_derivative(points, table, spec, backend, seed)
    expected = every_derivative(points.double(), table.double(), spec, "reference", seed)
    # float32 positions are off by up to 2^-24 of the resolution, in cells; weights and their products inherit that.
    tolerance = 40 * (spec.finest_resolution + 64) * 2**-24
    for name, value in expected.items():
        atol = tolerance * value.detach().abs().amax().item() if value.numel() else 0.0
        torch.testing.assert_close(actual[name].double(), value, rtol=0, atol=atol + 1e-6, msg=lambda m, n=name: n + m)


@fresh_seed
@each_backend
def test_boundaries(backend: str, seed: int) -> None:
    spec = SPECS[0]
    table = random_table(spec, torch.Generator().manual_seed(seed))
    corners = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
    with use_backend(backend):
        actual = hash_encode(corners, table, spec)
    torch.testing.assert_close(actual, hash_encode(corners.double(), table.double(), spec).float(), rtol=0, atol=1e-5)


@each_backend
@pytest.mark.parametrize("spec", SPECS[:2])
def test_points_outside_are_clamped_and_nan_stays_nan(backend: str, spec: HashGridSpec) -> None:
    table = random_table(spec, torch.Generator().manual_seed(0))
    far = torch.tensor([[-3.0, 0.2, 1e30], [math.inf, 0.7, -math.inf]], requires_grad=True)
    with use_backend(backend):
        outside = hash_encode(far, table, spec)
        inside = hash_encode(torch.tensor([[0.0, 0.2, 1.0], [1.0, 0.7, 0.0]]), table, spec)
        missing = hash_encode(torch.tensor([[math.nan, 0.5, 0.5]]), table, spec)
    assert torch.equal(outside, inside)
    (gradient,) = torch.autograd.grad(outside.sum(), far)
    assert torch.equal(gradient != 0, torch.tensor([[False, True, False]] * 2))
    assert missing.isnan().all()


@fresh_seed
def test_numba_repeats_bit_for_bit_with_any_number_of_threads(seed: int) -> None:
    spec = HashGridSpec(log2_table_size=12)
    generator = torch.Generator().manual_seed(seed)
    points, table = torch.rand(5000, 3, generator=generator), random_table(spec, generator)
    threads, runs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            runs.append([hash_encode(points, table.requires_grad_(), spec), *gradients(points, table, spec)])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(run, runs[0], strict=True))


def gradients(points: Tensor, table: Tensor, spec: HashGridSpec) -> tuple[Tensor, ...]:
    """Return first gradients of the encoding's sum, and the table gradient of a loss on the points' gradient."""
    points = points.clone().requires_grad_()
    first = torch.autograd.grad(hash_encode(points, table, spec).square().sum(), (points, table), create_graph=True)
    return *(g.detach() for g in first), *torch.autograd.grad(first[0].square().sum(), table)


def test_inputs_may_be_strided_and_grad_free() -> None:
    spec = SPECS[1]
    points = torch.rand(3, 20, generator=torch.Generator().manual_seed(0)).T
    table = random_table(spec, torch.Generator().manual_seed(0))
    with torch.no_grad():
        strided = hash_encode(points, table, spec)
    assert torch.equal(strided, hash_encode(points.contiguous(), table, spec)) and strided.grad_fn is None


@pytest.mark.parametrize(
    ("points", "table", "message"),
    [
        (torch.rand(4, 2), torch.rand(SPECS[0].entries, 2), "points"),
        (torch.rand(4, 3), torch.rand(SPECS[0].entries, 3), "table"),
        (torch.rand(4, 3).double(), torch.rand(SPECS[0].entries, 2), "must match"),
    ],
)
def test_wrong_inputs_are_named(points: Tensor, table: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hash_encode(points, table, SPECS[0])


@pytest.mark.parametrize("field", ["levels", "features", "log2_table_size", "base_resolution"])
def test_wrong_layouts_are_named(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        HashGridSpec(**{field: 0})
    with pytest.raises(ValueError, match="finest_resolution"):
        HashGridSpec(base_resolution=32, finest_resolution=16)


@fresh_seed
@pytest.mark.parametrize("backend", ["reference", "numba", "warp"])
@each_spec
def test_the_coarsest_levels_alone(spec: HashGridSpec, backend: str, seed: int) -> None:
    """They are encoded bit for bit as with all levels, from the first rows of the table."""
    generator = torch.Generator().manual_seed(seed)
    points, table = torch.rand(50, 3, generator=generator), random_table(spec, generator)
    with use_backend(backend):
        whole = hash_encode(points, table, spec)
        for levels in range(1, spec.levels + 1):
            part = spec.coarsest(levels)
            assert part.scales == spec.scales[:levels] and part.coarsest(1) == spec.coarsest(1)
            assert torch.equal(hash_encode(points, table[: part.entries], part), whole[:, : part.output_size])
    with pytest.raises(ValueError, match=rf"levels {spec.levels + 1} exceeds of_levels {spec.levels}"):
        spec.coarsest(spec.levels + 1)
