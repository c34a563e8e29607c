"""`python -m bench.prior_data`: training objects generated and rendered per second, against plain PyTorch."""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table

from bench.timing import Case, measure_pair
from liftstudio import synthetic as objects
from liftstudio.data.cameras import Cameras, orbit_cameras
from liftstudio.data.orbits import sine
from liftstudio.synthetic import reference
from liftstudio.synthetic.draws import Draws
from liftstudio.training.data import DataConfig
from liftstudio.training.meshes import reference as mesh_reference
from liftstudio.training.meshes.rendering import draw_lighting
from liftstudio.training.meshes.rendering import render as render_mesh
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.training.meshes.variation import varied
from liftstudio.training.rigs import draw_rig

THREADS, FRAMES, SIZE, OBJECTS = 2, 21, 64, 16
VIEWS, POINTS = 8, 64 * 64 * 40  # of a mesh sample; number of points tested for occupancy

T = TypeVar("T")


def orbit() -> Cameras:
    """Return SV3D's orbit around the object, with the lens of prior training."""
    return orbit_cameras(*sine(FRAMES, 10.0, 20.0), 3.6, 33.8, SIZE, SIZE)


def batch(one: Callable[[T], object], items: Sequence[T]) -> Callable[[], object]:
    """Return a function that calls `one` on all items, THREADS at a time."""

    def run() -> object:
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(one, items))

    return run


def procedural(kind: objects.Kind) -> Case:
    """Return a case of new objects of a kind, rendered on an orbit."""
    cameras = orbit()
    seeds = [objects.split(index, kind, "train") for index in range(OBJECTS)]

    def pictures(render: Callable[..., object]) -> Callable[[int], object]:
        return lambda seed: render(objects.make_object(kind, seed), cameras)

    fast, slow = (batch(pictures(render), seeds) for render in (objects.render, reference.render))
    return Case(kind, f"{FRAMES} x {SIZE}^2", fast, slow, "plain PyTorch")


def meshes(folder: str) -> list[Case]:
    """Return cases of rendering meshes alone, against plain PyTorch, and of whole training samples with occupancy.

    Interiors of meshes are computed in the first, untimed round, as training gets them from the cache.
    """
    config = DataConfig(objects=folder, objects_share=1.0, resolution=SIZE)
    source = MeshObjects(config)
    points = 2 * torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(0)) - 1

    def pictures(render: Callable[..., object]) -> Callable[[int], object]:
        def one(number: int) -> object:
            generator = torch.Generator().manual_seed(number)
            pack, index = source.trained[number * len(source.trained) // OBJECTS]
            draws = Draws(generator)
            obj, lighting = varied(pack.mesh(index), draws), draw_lighting(draws)
            return render(obj, draw_rig(config.rig, VIEWS + 1, SIZE, generator).views, lighting)

        return one

    def sample(number: int) -> object:
        made = source.training(number, VIEWS, torch.Generator().manual_seed(number))
        assert made.solid is not None
        return made, made.solid.contains(points)

    numbers = range(OBJECTS)
    fast, slow = (batch(pictures(render), numbers) for render in (render_mesh, mesh_reference.render))
    size = f"{VIEWS + 1} x {SIZE}^2"
    return [
        Case("mesh", size, fast, slow, "plain PyTorch"),
        Case(f"mesh, {POINTS} points", size, batch(sample, numbers), slow, "plain PyTorch, rendering only"),
    ]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.prior_data", description=__doc__)
    parser.add_argument("--objects", metavar="FOLDER", help="also measure meshes from this folder (data.objects)")
    folder = parser.parse_args().objects
    torch.set_num_threads(1)  # parallelism comes from the thread pool
    table = Table(
        "objects", "views", "objects/s", "reference", "ratio", title=f"{THREADS} threads, best of several runs"
    )
    for case in [procedural("toy"), procedural("composite"), *(meshes(folder) if folder else [])]:
        fast, slow = measure_pair(case, repeats=4, warmups=1)
        table.add_row(case.op, case.size, f"{OBJECTS / fast:.0f}", f"{OBJECTS / slow:.0f}", f"{slow / fast:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
