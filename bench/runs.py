"""Runs of benchmarks: from start to end, in separate processes, recorded as rows."""

import csv
import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import trimesh

from bench.unseen import with_error
from liftstudio.core import assets
from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.data.cameras import Cameras
from liftstudio.renderers.textured import Pictures, render_trimesh
from liftstudio.run.config import RunConfig
from liftstudio.run.folder import RunFolder
from liftstudio.run.inputs import Inputs
from liftstudio.run.run import Run, make_fabric, make_folder

CONFIGS = assets.packaged("configs")
COST = {"views_s": 0, "test_s": 0, "export_s": 0, "all_s": 0, "memory_gb": 2}  # besides stages; column -> digits

Row = dict[str, Any]


def config_path(name: str) -> Path:
    """Return the config file of that name in configs/, or `name` itself if it ends in .yaml."""
    return input_path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"


def run_all(config: RunConfig, inputs: Inputs, command: str) -> Run:
    """Do what `launch.py --train` does, from given inputs; `command` is recorded in the run folder."""
    run = Run(config, inputs, make_fabric(config.device, None))
    run.folder = make_folder(config, inputs, command)
    with run.folder.lock():
        run.fit()
        run.test()
        run.export()
    return run


def cost_of(folder: RunFolder) -> Row:
    """Return seconds of each stage, test and export, and peak memory (GB) by the end of each stage and overall."""
    run = json.loads(folder.metrics.read_text())["run"]
    with folder.log_csv.open(newline="") as file:
        memory = {line["stage"]: float(line["memory_gb"]) for line in csv.DictReader(file) if line["memory_gb"]}
    return {
        **{f"{name}_s": stage["seconds"] for name, stage in run["stages"].items()},
        "test_s": run["test_seconds"],
        "export_s": run["export_seconds"],
        **{f"{name}_gb": most for name, most in memory.items()},
        "memory_gb": run["memory_gb"],
    }


def with_cost(columns: dict[str, int], rows: list[Row]) -> dict[str, int]:
    """Return the columns, those for time and memory of all stages in the rows, and COST; column -> digits."""
    stages = dict.fromkeys(name for row in rows for name in row if name.endswith(("_s", "_gb")) and name not in COST)
    return columns | {name: 2 if name.endswith("_gb") else 0 for name in stages} | COST


def cells(row: Row, columns: dict[str, int]) -> list[str]:
    """Return the values of a row as text; empty if missing."""
    return [f"{row[name]:.{digits}f}" if row.get(name) is not None else "" for name, digits in columns.items()]


def mean_cells(rows: list[Row], columns: dict[str, int]) -> list[str]:
    """Return mean and standard error over the rows that have a value."""
    known = ([row[name] for row in rows if row.get(name) is not None] for name in columns)
    return [with_error(each, digits) if each else "" for each, digits in zip(known, columns.values(), strict=True)]


def in_own_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of `work(*arguments)` from a new process, so that its memory is measured separately."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def read_rows(path: Path) -> list[Row]:
    """Read the rows of earlier calls; empty if there is no file.

    Raises:
        InputError: the file is not in JSON Lines format.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: the file is not in JSON Lines format ({error})") from None


def append_rows(path: Path, rows: list[Row]) -> None:
    """Append rows to the file atomically: if interrupted, it stays unchanged."""
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in [*read_rows(path), *rows]))


def render_glb(path: Path, cameras: Cameras) -> Pictures:
    """Render the base colour texture of a GLB, unlit."""
    return render_trimesh(trimesh.load(path, force="mesh", process=False), cameras)
