"""`python -m bench.ops [--device cpu|cuda] [--only NAME]`: benchmarks every op against its plain-PyTorch reference."""

import argparse
import importlib

import torch
from rich.console import Console
from rich.table import Table

from bench.timing import Case, measure_pair

OPS = (
    "hash_grid",
    "marching",
    "compositing",
    "rasterization",
    "antialiasing",
    "marching_tetrahedra",
    "spherical_gaussians",
    "barrier_distance",
    "least_area",
    "lifting",
)
COLUMNS = ("op", "size", "fast ms", "reference ms", "ratio", "target", "reached", "reference")


def table_row(case: Case) -> list[str]:
    """Measure one case and format it in the order of COLUMNS."""
    fast, reference = measure_pair(case)
    ratio, target = reference / fast, case.target_ratio
    verdict = ["-", "-"] if target is None else [f">= {target:g}", "yes" if ratio >= target else "NO"]
    return [
        case.op,
        case.size,
        f"{1e3 * fast:.2f}",
        f"{1e3 * reference:.2f}",
        f"{ratio:.1f}",
        *verdict,
        case.reference_name,
    ]


def main() -> None:
    """Print one table of the selected ops."""
    parser = argparse.ArgumentParser(prog="python -m bench.ops", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", choices=OPS, help="run one op instead of all")
    args = parser.parse_args()
    device = torch.device(args.device)
    threads = torch.get_num_threads()
    table = Table(*COLUMNS, title=f"torch {torch.__version__}, {device.type}, {threads} threads, best of several runs")
    for name in [args.only] if args.only else OPS:
        for case in importlib.import_module(f"bench.{name}").cases(device):
            table.add_row(*table_row(case))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
