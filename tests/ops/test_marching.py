import math

import pytest
import torch
import torch.nn.functional as F
from helpers.seeds import fresh_seed
from torch import Tensor

from liftstudio.ops.backends import use_backend
from liftstudio.ops.marching import Samples, march
from liftstudio.ops.marching.occupancy import OccupancyGrid

SEEDS = [fresh_seed(__name__) for _ in range(3)]
TARGETS = [("numba", "cpu"), ("warp", "cpu")] + ([("warp", "cuda")] if torch.cuda.is_available() else [])
ALL_TARGETS = [("reference", "cpu"), *TARGETS]
UNIT_BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
# A sample may be kept by one implementation alone only where its midpoint is this close (in cells, and in world
# units to `far`) to a border: positions of about 10 cells carry float32 errors of about 1e-6 cells, times G / 10.
BORDER = 1e-4


def random_rays(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rays from inside and around the box, half aimed at it, some parallel to axes, some on the border."""
    origins = 4 * torch.rand(count, 3, generator=generator) - 2
    aims = 2 * torch.rand(count, 3, generator=generator) - 1
    directions = torch.randn(count, 3, generator=generator)
    directions[::2] = (aims - origins)[::2]
    directions[::5, 0] = 0
    directions[::7, 1:] = 0
    directions[directions.norm(dim=1) == 0] = torch.tensor([0.0, 0.0, 1.0])
    origins[::11] = aims[::11]
    origins[::13, 1] = 1.0
    origins[::17, 0] = -1.0
    return origins, F.normalize(directions, dim=1)


def march_on(target: tuple[str, str], *args: object, **options: object) -> Samples:
    """Run `march` on a backend and device; return the result on the CPU."""
    backend, device = target
    args, values = [a.to(device) if isinstance(a, Tensor) else a for a in args], dict(options)
    if isinstance(values.get("jitter"), Tensor):
        values["jitter"] = values["jitter"].to(device)
    with use_backend(backend):
        samples = march(*args, **values)
    return Samples(*(t.cpu() for t in vars(samples).values()))


def brute_force(
    origins: Tensor, directions: Tensor, occupancy: Tensor, aabb: Tensor, step: float, near: float, far: float,
    jitter: Tensor,
) -> set[tuple[int, int]]:  # fmt: skip
    """Return (ray, lattice step) of the samples kept, by loops over Python floats."""
    size, low, high = len(occupancy), aabb[0].tolist(), aabb[1].tolist()
    kept = set()
    for r, (o, d, shift) in enumerate(zip(origins.tolist(), directions.tolist(), jitter.tolist(), strict=True)):
        enter, leave = near, far
        for axis in range(3):
            if d[axis] != 0:
                ends = sorted((bound[axis] - o[axis]) / d[axis] for bound in (low, high))
                enter, leave = max(enter, ends[0]), min(leave, ends[1])
            elif not low[axis] <= o[axis] <= high[axis]:
                leave = -math.inf
        k = 0
        while enter + (k + shift + 0.5) * step < leave:
            t = enter + (k + shift + 0.5) * step
            unit = [(o[a] + t * d[a] - low[a]) / (high[a] - low[a]) for a in range(3)]
            cell = tuple(min(max(int(u * size), 0), size - 1) for u in unit)
            if occupancy[cell]:
                kept.add((r, k))
            k += 1
    return kept


def lattice_steps(samples: Samples, t_first: Tensor, step: float) -> set[tuple[int, int]]:
    steps = ((samples.t_start.double() - t_first[samples.ray_index]) / step).round().long()
    pairs = set(zip(samples.ray_index.tolist(), steps.tolist(), strict=True))
    assert len(pairs) == len(steps)
    return pairs


def first_distances(
    origins: Tensor, directions: Tensor, aabb: Tensor, near: float, jitter: Tensor, step: float
) -> Tensor:
    """Return the lattice starts [R] float64 of the rays that hit."""
    ends = (aabb.double()[:, None] - origins.double()) / directions.double()
    ends = torch.where(directions == 0, -math.inf, ends)
    return ends.amin(0).amax(-1).clamp(min=near) + jitter.double() * step


def check_structure(samples: Samples, rays: int) -> None:
    """Check dtypes, packing and order."""
    assert samples.ray_index.dtype == samples.offsets.dtype == torch.int64
    assert samples.t_start.dtype == samples.t_end.dtype == torch.float32
    counts = torch.bincount(samples.ray_index, minlength=rays)
    assert torch.equal(samples.offsets, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))
    assert torch.equal(samples.ray_index, samples.ray_index.sort().values)
    same_ray = samples.ray_index[1:] == samples.ray_index[:-1]
    # Neighbours share their border exactly or are at least a step apart.
    assert (samples.t_start[1:] >= samples.t_end[:-1])[same_ray].all()


@pytest.mark.parametrize("target", ALL_TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("resolution", [1, 5, 16])
def test_equals_brute_force(target: tuple[str, str], seed: int, resolution: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    origins, directions = random_rays(70, generator)
    occupancy = torch.rand(resolution, resolution, resolution, generator=generator) < 0.4
    aabb = torch.stack([-0.5 - torch.rand(3, generator=generator), 0.5 + torch.rand(3, generator=generator)])
    near, far = (torch.rand(2, generator=generator) * torch.tensor([1.0, 4.0])).tolist()
    step, jitter = 0.03 + 0.1 * torch.rand(1, generator=generator).item(), torch.rand(70, generator=generator)

    samples = march_on(target, origins, directions, occupancy, aabb, step, near, far, jitter=jitter)

    check_structure(samples, 70)
    t_first = first_distances(origins, directions, aabb, near, jitter, step)
    wanted = brute_force(origins, directions, occupancy, aabb, step, near, far, jitter)
    for ray, k in wanted ^ lattice_steps(samples, t_first, step):
        t = t_first[ray].item() + (k + 0.5) * step
        cells = (origins[ray].double() + t * directions[ray] - aabb[0]) / (aabb[1] - aabb[0]) * resolution
        assert (cells - cells.round()).abs().min() < BORDER or abs(t - far) < BORDER


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rays", [1, 300, 2000])
@pytest.mark.parametrize("fill", [0.0, 0.02, 0.5, 1.0])
def test_equals_reference(target: tuple[str, str], seed: int, rays: int, fill: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    origins, directions = random_rays(rays, generator)
    occupancy = torch.rand(37, 37, 37, generator=generator) < fill
    jitter = torch.rand(rays, generator=generator)
    args = (origins, directions, occupancy, UNIT_BOX, 0.011)

    samples, wanted = march_on(target, *args, jitter=jitter), march_on(("reference", "cpu"), *args, jitter=jitter)

    check_structure(samples, rays)
    t_first = first_distances(origins, directions, UNIT_BOX, 0.0, jitter, 0.011)
    for ray, k in lattice_steps(samples, t_first, 0.011) ^ lattice_steps(wanted, t_first, 0.011):
        cells = (origins[ray] + (t_first[ray] + (k + 0.5) * 0.011) * directions[ray] + 1) / 2 * 37
        assert (cells - cells.round()).abs().min() < BORDER
    if len(samples.t_start) == len(wanted.t_start):
        # One rounding of a distance of at most 4.
        torch.testing.assert_close(samples.t_start, wanted.t_start, rtol=0, atol=5e-7)
        torch.testing.assert_close(samples.t_end, wanted.t_end, rtol=0, atol=5e-7)


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_full_grid_covers_the_box(target: tuple[str, str]) -> None:
    origins = torch.tensor([[-3.0, 0.1, 0.2], [0.0, 0.0, 0.0], [0.1, 3.0, 0.3], [0.0, 0.0, 3.0]])
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    samples = march_on(target, origins, directions, torch.ones(8, 8, 8, dtype=torch.bool), UNIT_BOX, 0.25)
    # From outside, from inside, against an axis, and one that looks away.
    assert samples.offsets.diff().tolist() == [8, 4, 8, 0]
    assert samples.t_start[:8].tolist() == [2 + 0.25 * k for k in range(8)]
    assert samples.t_end[8:12].tolist() == [0.25 * (k + 1) for k in range(4)]


@pytest.mark.parametrize("target", ALL_TARGETS)
def test_no_rays_no_hits_no_occupancy(target: tuple[str, str]) -> None:
    full, nowhere = torch.ones(4, 4, 4, dtype=torch.bool), torch.zeros(4, 4, 4, dtype=torch.bool)
    origins, directions = torch.full((5, 3), 2.0), F.normalize(torch.ones(5, 3), dim=1)
    for args in [
        (torch.zeros(0, 3), torch.zeros(0, 3), full),
        (origins, directions, full),
        (origins, -directions, nowhere),
        (origins, torch.zeros(5, 3), full),
        (origins * math.nan, -directions, full),
    ]:
        samples = march_on(target, *args, UNIT_BOX, 0.1)
        check_structure(samples, len(args[0]))
        assert len(samples.t_start) == 0


@pytest.mark.parametrize("target", TARGETS)
def test_repeat_is_bit_identical(target: tuple[str, str]) -> None:
    generator = torch.Generator().manual_seed(SEEDS[0])
    args = (*random_rays(3000, generator), torch.rand(32, 32, 32, generator=generator) < 0.3, UNIT_BOX, 0.01)
    first, again = march_on(target, *args), march_on(target, *args)
    assert all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(again).values(), strict=True))


def test_wrong_arguments_are_named() -> None:
    rays, grid = torch.zeros(2, 3), torch.ones(4, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="directions"):
        march(rays, torch.zeros(3, 3), grid, UNIT_BOX, 0.1)
    with pytest.raises(ValueError, match="occupancy"):
        march(rays, rays, grid[:3], UNIT_BOX, 0.1)
    with pytest.raises(ValueError, match="occupancy"):
        march(rays, rays, grid.float(), UNIT_BOX, 0.1)
    with pytest.raises(ValueError, match="jitter"):
        march(rays, rays, grid, UNIT_BOX, 0.1, jitter=torch.zeros(3))
    with pytest.raises(ValueError, match="step_size"):
        march(rays, rays, grid, UNIT_BOX, 0.0)


def ball(points: Tensor) -> Tensor:
    return 50.0 * (points.norm(dim=1, keepdim=True) < 0.5).float()


def test_occupancy_finds_a_ball() -> None:
    grid = OccupancyGrid(16, step_size=0.01)
    assert grid.occupied.all()
    generator = torch.Generator().manual_seed(SEEDS[0])
    for step in range(24):
        fraction = grid.update(ball, generator, UNIT_BOX, warm_up=step < 8)
    centres = (torch.arange(16) + 0.5) / 8 - 1
    distance = torch.stack(torch.meshgrid(centres, centres, centres, indexing="ij")).norm(dim=0)
    half_diagonal = math.sqrt(3) / 16
    assert grid.occupied[distance < 0.5 - half_diagonal].all()
    assert not grid.occupied[distance > 0.5 + half_diagonal].any()
    assert fraction == pytest.approx(grid.occupied.float().mean().item())


def test_occupancy_forgets_at_the_decay_rate() -> None:
    grid = OccupancyGrid(4, step_size=0.01, decay=0.5)
    generator = torch.Generator().manual_seed(SEEDS[0])
    grid.update(lambda points: torch.full((len(points), 1), 8.0), generator, UNIT_BOX, warm_up=True)
    grid.update(lambda points: (points[:, :1] > 0).float(), generator, UNIT_BOX, warm_up=True)
    assert torch.equal(grid.density, torch.full((4, 4, 4), 4.0))


@pytest.mark.parametrize("density", [0.0, 1e-4, 0.3, 1e3])
def test_occupancy_of_a_uniform_field_stays_full(density: float) -> None:
    """A fixed threshold would empty the grid of a thin field for good."""
    grid, generator = OccupancyGrid(12, step_size=0.01), torch.Generator().manual_seed(SEEDS[0])
    fraction = grid.update(lambda points: torch.full((len(points), 1), density), generator, UNIT_BOX, warm_up=True)
    assert fraction == 1.0


def test_occupancy_looks_at_the_expected_cells() -> None:
    grid, generator = OccupancyGrid(32, step_size=0.01), torch.Generator().manual_seed(SEEDS[0])
    visited: list[Tensor] = []

    def density(points: Tensor) -> Tensor:
        visited.append(((points + 1) * 16).floor().long())
        return ball(points)

    grid.update(density, generator, UNIT_BOX, warm_up=True)
    everywhere = torch.cartesian_prod(*[torch.arange(32)] * 3)
    # A point on its cell's upper border may round into the next cell.
    assert (torch.cat(visited) != everywhere).any(dim=1).float().mean() < 1e-3
    occupied = grid.occupied.clone()
    visited.clear()
    grid.update(density, generator, UNIT_BOX, warm_up=False)
    seen = torch.zeros_like(occupied)
    seen[tuple(torch.cat(visited).clamp(max=31).T)] = True
    # The ball fills 7 % of the box, less than a quarter: all of its cells are looked at, and a quarter of the rest.
    assert seen[occupied].float().mean() > 0.99
    assert seen[~occupied].float().mean() == pytest.approx(0.25, abs=0.02)


def test_occupancy_depends_on_the_generator_alone_and_is_state() -> None:
    states = []
    for _ in range(2):
        grid, generator = OccupancyGrid(9, step_size=0.01), torch.Generator().manual_seed(SEEDS[1])
        for step in range(5):
            torch.rand(3)  # the global generator must not matter
            grid.update(lambda points: points[:, :1].sin() + 1, generator, UNIT_BOX, warm_up=step < 2)
        states.append(grid.state_dict())
    assert set(states[0]) == {"density", "occupied"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
