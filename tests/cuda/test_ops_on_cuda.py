"""Every op gives on CUDA what it gives on the CPU, values and gradients, and takes the backend that it should."""

import functools
import importlib
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_scenes import ball, orbit
from torch import Tensor

from liftstudio.ops.antialiasing import antialias
from liftstudio.ops.backends import CUDA_LIBRARIES, TORCH_ON_CUDA, TORCH_ONLY, choose, is_installed, use_backend
from liftstudio.ops.barrier_distance import barrier_distance
from liftstudio.ops.compositing import composite
from liftstudio.ops.edges import edge_adjacency
from liftstudio.ops.hash_grid import HashGridSpec, hash_encode
from liftstudio.ops.interpolation import interpolate
from liftstudio.ops.least_area import least_area
from liftstudio.ops.lifting import lift
from liftstudio.ops.marching import Samples, march
from liftstudio.ops.marching_cubes import marching_cubes
from liftstudio.ops.marching_tetrahedra import marching_tetrahedra, tet_grid
from liftstudio.ops.projection import project
from liftstudio.ops.rasterization import fragments, rasterize, scatter_image
from liftstudio.ops.spherical_gaussians import irradiance
from liftstudio.priors.projections import projections

CPU = torch.device("cpu")
SIZE = 48
BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])
Results = dict[str, Tensor]

# Float32 on two devices: sums in another order, and fused multiply-adds. Relative to the largest value of a result.
TOLERANCE = 1e-4
# Which pixels, faces or cells are met is decided by rounding for a few of them.
FEW = 2e-3


def drawn(device: torch.device, *size: int, seed: int = 0) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed)).to(device)


def with_gradients(made: Results, *inputs: Tensor) -> Results:
    """Add the gradients of random sums of the results."""
    sums = [(value * drawn(value.device, *value.shape, seed=n)).sum() for n, value in enumerate(made.values())]
    gradients = torch.autograd.grad(torch.stack(sums).sum(), inputs)
    return made | {f"gradient {number}": gradient for number, gradient in enumerate(gradients)}


def hash_grid(device: torch.device) -> Results:
    spec = HashGridSpec(levels=5, features=2, log2_table_size=9, base_resolution=3, finest_resolution=40)
    position = drawn(CPU, 1000, 3)[:, None] * torch.tensor(spec.scales)[:, None] + 0.5
    inner = (position - position.round()).abs().amin((1, 2)) > 0.005  # gradients jump at the walls of cells
    points = drawn(CPU, 1000, 3)[inner].to(device).requires_grad_()
    table = drawn(device, spec.entries, spec.features, seed=1).requires_grad_()
    encoded = hash_encode(points, table, spec)
    (slope,) = torch.autograd.grad(encoded.square().sum(), points, create_graph=True)
    return with_gradients({"encoded": encoded, "slope": slope}, points, table)


def shell(device: torch.device) -> Samples:
    axis = torch.linspace(-1, 1, 16)
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).view(16, 16, 16)
    origins, directions = (rays.reshape(-1, 3) for rays in orbit(2, 24).rays())
    occupied = ((radius > 0.5) & (radius < 0.8)).to(device)
    return march(origins.to(device), directions.to(device), occupied, BOX.to(device), 0.03, jitter=drawn(device, 1152))


def marching(device: torch.device) -> Results:
    samples = shell(device)
    counts, first = samples.offsets.diff(), samples.offsets[:-1].clamp(max=len(samples.t_start) - 1)
    return {
        "few counts": counts,
        "few starts": samples.t_start[first] * (counts > 0),
        "total": counts.sum()[None] / 1e3,
    }


@functools.cache
def shell_on_cpu() -> Samples:
    return shell(CPU)


def compositing(device: torch.device) -> Results:
    samples = Samples(*(each.to(device) for each in vars(shell_on_cpu()).values()))
    sigma, values = (drawn(device, len(samples.t_start), *more).requires_grad_() for more in ((), (3,)))
    found = composite(20 * sigma, values, samples, distortion=True)
    made = {name: value for name, value in vars(found).items() if value is not None}
    return with_gradients(made, sigma, values)


@functools.cache
def seen_on_cpu() -> Tensor:
    mesh = ball(0.8)
    return rasterize(orbit(2, SIZE).clip(mesh.vertices), mesh.faces, SIZE, SIZE)


def picture(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return clip positions and faces of a ball, and the visible faces as the CPU finds them."""
    mesh = ball(0.8).to(device)
    clip = orbit(2, SIZE).to(device).clip(mesh.vertices).detach().requires_grad_()
    return clip, mesh.faces, seen_on_cpu().to(device)


def rasterization(device: torch.device) -> Results:
    clip, faces, seen = picture(device)
    packed = fragments(clip, faces, seen)
    found = {"few faces": rasterize(clip, faces, SIZE, SIZE), "barycentric": packed.barycentric}
    image = scatter_image(packed.barycentric, packed, 0.5)
    return found | with_gradients({"image": image}, clip)


def interpolation(device: torch.device) -> Results:
    clip, faces, seen = picture(device)
    attributes = drawn(device, clip.shape[1], 4).requires_grad_()
    return with_gradients({"values": interpolate(attributes, faces, fragments(clip, faces, seen))}, attributes, clip)


def edges(device: torch.device) -> Results:
    return vars(edge_adjacency(ball(0.8).faces.to(device), len(ball(0.8).vertices)))


def antialiasing(device: torch.device) -> Results:
    clip, faces, seen = picture(device)
    image = drawn(device, 2, SIZE, SIZE, 3).requires_grad_()
    return with_gradients({"few image": antialias(image, clip, faces, seen)}, image, clip)


def barriers(device: torch.device) -> Results:
    return {"distance": barrier_distance(drawn(device, 6, 8, 3))}


def areas(device: torch.device) -> Results:
    return {"inside": least_area(drawn(device, 12, 12, 12) - 0.5, 30)}


def lifting(device: torch.device) -> Results:
    features = drawn(device, 1, 3, 12, 12, 4).requires_grad_()
    matrices = projections(orbit(3, 12))[None].to(device)
    return with_gradients({"lifted": lift(features, matrices, 1.6 * drawn(device, 300, 3) - 0.8)}, features)


def tetrahedra(device: torch.device) -> Results:
    grid = tet_grid(12).to(device)
    positions = grid.vertices.clone().requires_grad_()
    sdf = (grid.vertices.norm(dim=-1) - 0.61).requires_grad_()
    mesh = marching_tetrahedra(positions, sdf, grid)
    return {"faces": mesh.faces} | with_gradients({"vertices": mesh.vertices}, positions, sdf)


def cubes(device: torch.device) -> Results:
    axis = torch.linspace(-1, 1, 14)
    radius = torch.cartesian_prod(axis, axis, axis).norm(dim=-1).view(14, 14, 14)
    values = (radius - 0.61).to(device).requires_grad_()
    mesh = marching_cubes(values, BOX.to(device))
    return {"faces": mesh.faces} | with_gradients({"vertices": mesh.vertices}, values)


def projection(device: torch.device) -> Results:
    mesh = ball(0.8).to(device)
    directions = F.normalize(drawn(device, 300, 3) - 0.5, dim=-1)
    face, weights = project(mesh.vertices, mesh.faces, 0.9 * directions, directions, 0.5)
    return {"few points": (weights[..., None] * mesh.corners()[face]).sum(1)}


def gaussians(device: torch.device) -> Results:
    normals, axes = (F.normalize(drawn(device, n, 3) - 0.5, dim=-1).requires_grad_() for n in (200, 6))
    sharpness, amplitude = (drawn(device, 6, seed=s).add(0.1).requires_grad_() for s in (1, 2))
    made = {"irradiance": irradiance(normals, axes, 9 * sharpness, amplitude)}
    return with_gradients(made, normals, axes, sharpness, amplitude)


OPS: dict[str, Callable[[torch.device], Results]] = {
    "hash_grid": hash_grid,
    "marching": marching,
    "compositing": compositing,
    "rasterization": rasterization,
    "interpolation": interpolation,
    "edges": edges,
    "antialiasing": antialiasing,
    "barrier_distance": barriers,
    "least_area": areas,
    "lifting": lifting,
    "marching_tetrahedra": tetrahedra,
    "projection": projection,
    "spherical_gaussians": gaussians,
}


def compare(found: Results, wanted: Results) -> None:
    """Assert that results agree within TOLERANCE; those named `few` in all but FEW of their entries."""
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value.shape == wanted[name].shape, name
        scale = wanted[name].abs().max().clamp_min(1e-6)
        off = ((value.detach().cpu().double() - wanted[name].detach().double()).abs() / scale > TOLERANCE).double()
        assert off.mean() <= (FEW if name.startswith("few") else 0), (name, float(off.mean()))


def test_every_op_is_here() -> None:
    assert set(OPS) == set(CUDA_LIBRARIES)


@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients(op: str, device: torch.device) -> None:
    found, wanted = OPS[op](device), OPS[op](CPU)
    assert all(value.device.type == device.type for value in found.values())
    compare(found, wanted)


def test_marching_cubes(device: torch.device) -> None:
    compare(cubes(device), cubes(CPU))


@pytest.mark.cuda
@pytest.mark.parametrize("op", [op for op, library in CUDA_LIBRARIES.items() if library])
def test_warp_and_the_library_agree(op: str, cuda: torch.device) -> None:
    """Where an op's CUDA library is installed, it is compared as well as our own kernels."""
    wanted = OPS[op](CPU)
    library = CUDA_LIBRARIES[op]
    for backend in ("warp", library) if library and is_installed(library) and cuda.type == "cuda" else ("warp",):
        with use_backend(backend):
            compare(OPS[op](cuda), wanted)


@pytest.fixture
def no_reference(monkeypatch: pytest.MonkeyPatch, cuda: torch.device) -> Iterator[torch.device]:
    """A device on which plain torch may not stand in for a kernel."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("plain torch instead of a kernel")

    for op, function in (("hash_grid", "hash_encode"), ("marching", "march"), ("compositing", "composite"),
                         ("rasterization", "rasterize"), ("projection", "project")):  # fmt: skip
        monkeypatch.setattr(importlib.import_module(f"liftstudio.ops.{op}.reference"), function, refuse)
    yield cuda


@pytest.mark.cuda
@pytest.mark.parametrize("op", ["hash_grid", "marching", "compositing", "rasterization", "projection"])
def test_no_silent_slow_path(op: str, no_reference: torch.device) -> None:
    OPS[op](no_reference)


@pytest.mark.parametrize("op", CUDA_LIBRARIES)
def test_choice(op: str) -> None:
    """On CUDA an op takes its library, else Warp; plain torch only where it is meant to."""
    library, chosen = CUDA_LIBRARIES[op], choose(op, "cuda").backend
    if op in TORCH_ONLY or op in TORCH_ON_CUDA:
        assert chosen == "reference"
    else:
        assert chosen == (library if library and is_installed(library) else "warp")
