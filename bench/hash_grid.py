"""Hash-grid encoding against the reference's per-level gather, whose backward is a flat scatter_add."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.timing import Case
from liftstudio.ops.backends import use_backend
from liftstudio.ops.hash_grid import HashGridSpec, hash_encode

POINTS = 65_536


def cases(device: torch.device) -> list[Case]:
    """Return cases on the device's default grid: gradients of table, of table and points, and of a normal loss."""
    spec = HashGridSpec(log2_table_size=15 if device.type == "cpu" else 19)
    points = torch.rand(POINTS, 3, device=device)
    table = torch.randn(spec.entries, spec.features, device=device, requires_grad=True)
    grad_output = torch.randn(POINTS, spec.output_size, device=device)
    size = f"{POINTS} x {spec.levels} x {spec.features}, 2^{spec.log2_table_size}"

    def forward() -> None:
        with torch.no_grad():
            hash_encode(points, table, spec)

    def table_gradient() -> None:
        torch.autograd.grad(hash_encode(points, table, spec), table, grad_output)

    def both_gradients() -> None:
        position = points.clone().requires_grad_()
        torch.autograd.grad(hash_encode(position, table, spec), (position, table), grad_output)

    def normal_loss() -> None:
        torch.autograd.grad(_normals(points, table, spec, grad_output).square().sum(), table)

    works: dict[str, Callable[[], None]] = {
        "forward": forward,
        "f+b table": table_gradient,
        "f+b table, points": both_gradients,
        "normals f+b table": normal_loss,
    }
    targets = {"f+b table": 12.0}
    name = "gather + scatter_add per level"
    return [Case(f"hash {k}", size, fn, _on_reference(fn), name, targets.get(k)) for k, fn in works.items()]


def _normals(points: Tensor, table: Tensor, spec: HashGridSpec, grad_output: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    return torch.autograd.grad(hash_encode(points, table, spec), points, grad_output, create_graph=True)[0]


def _on_reference(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with use_backend("reference"):
            work()

    return run
