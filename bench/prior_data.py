"""`python -m bench.prior_data`: objects made and rendered per second for training, against plain PyTorch."""

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from rich.console import Console
from rich.table import Table

from bench.timing import Case, measure_pair
from liftstudio.cameras import Cameras, orbit_cameras
from liftstudio.orbits import sine
from liftstudio.priors.training import objects
from liftstudio.priors.training.objects import reference

THREADS, FRAMES, SIZE, OBJECTS = 2, 21, 64, 16


def orbit() -> Cameras:
    """The orbit of SV3D around the object, seen as the priors are trained."""
    return orbit_cameras(*sine(FRAMES, 10.0, 20.0), 3.6, 33.8, SIZE, SIZE)


def batch(kind: objects.Kind, render: Callable[..., object]) -> Callable[[], object]:
    """Makes and renders OBJECTS new objects, THREADS at a time."""
    cameras = orbit()
    seeds = [objects.split(index, kind, "train") for index in range(OBJECTS)]

    def one(seed: int) -> object:
        return render(objects.make_object(kind, seed), cameras)

    def run() -> object:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, seeds))

    return run


def cases() -> list[Case]:
    """Both kinds of objects."""
    kinds: tuple[objects.Kind, ...] = ("toy", "composite")
    return [
        Case(kind, f"{FRAMES} x {SIZE}^2", batch(kind, objects.render), batch(kind, reference.render), "plain PyTorch")
        for kind in kinds
    ]


def main() -> None:
    """Print one table."""
    argparse.ArgumentParser(prog="python -m bench.prior_data", description=__doc__).parse_args()
    torch.set_num_threads(1)  # the threads are those of the pool
    table = Table(
        "objects", "views", "objects/s", "reference", "ratio", title=f"{THREADS} threads, best of several runs"
    )
    for case in cases():
        fast, slow = measure_pair(case, repeats=4, warmups=1)
        table.add_row(case.op, case.size, f"{OBJECTS / fast:.0f}", f"{OBJECTS / slow:.0f}", f"{slow / fast:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
