"""`python -m bench.cuda [PART ...]`: what this machine's GPU does with liftstudio, in parts of a few minutes.

Every part runs in a process of its own, for a bounded time, and appends rows to a file as it finds them. A part that
has rows there is not repeated, so an interrupted benchmark goes on; a part that fails leaves its error as a row, and
the next one follows.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench import ops
from bench.timing import Case, measure, measure_pair
from liftstudio.cli import command_line
from liftstudio.core import registry
from liftstudio.core.assets import packaged
from liftstudio.core.config import parse, read_config
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.ops.backends import CUDA_LIBRARIES, choose, is_installed, use_backend

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"environment": 60, "tests": 180, "kernels": 120, "demo": 180, "prior": 120}  # part -> time it may take
BATCH_SIZES = {"cuda": (8, 32, 128), "cpu": (2,)}
OBJECTS = 8  # that a batch is made of; a larger one repeats them
# A CPU shows only that the parts work: little of each.
TESTS_ON_CPU = "tests/cuda/test_ops_on_cuda.py"
OPS_ON_CPU = ("spherical_gaussians",)
DEMO_ON_CPU = [
    "views.orbit.frames=3",
    "system.stages.surface.steps=2",
    "system.stages.surface.geometry.resolution=16",
    "test.frames=1",
    "test.size=16",
    "test.stills=0",
    "export.texture_size=64",
]


def environment(device: torch.device, objects: str) -> Iterator[Row]:
    """Find the machine, and the backend of each op on it."""
    row: Row = {"torch": str(torch.__version__), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        row |= {"device": found.name, "memory GB": round(found.total_memory / 1e9, 1), "cuda": torch.version.cuda}
    libraries = sorted({library for library in CUDA_LIBRARIES.values() if library})
    row |= {library: "installed" if is_installed(library) else "missing" for library in ("warp", *libraries)}
    yield row
    yield {op: choose(op, device.type).backend for op in CUDA_LIBRARIES}


def tests(device: torch.device, objects: str) -> Iterator[Row]:
    """Run the tests marked `cuda`; on the CPU, those of the ops."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider"]
    where = "tests" if device.type == "cuda" else TESTS_ON_CPU
    done = subprocess.run(
        [*command, where], cwd=ROOT, env={**os.environ, "LIFTSTUDIO_TEST_DEVICE": device.type}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["no output"]
    yield {"result": lines[-1].strip("= ")}
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield {"failed": line[:300]}


def kernels(device: torch.device, objects: str) -> Iterator[Row]:
    """Time every op against its reference and, where its CUDA library is installed, both with and without it."""
    is_small = device.type == "cpu"
    for name in OPS_ON_CPU if is_small else ops.OPS:
        for case in import_module(f"bench.{name}").cases(device):
            yield _kernel(name, case, repeats=1 if is_small else 7)


def _kernel(name: str, case: Case, repeats: int) -> Row:
    fast, reference = measure_pair(case, repeats, warmups=1)
    row = {"op": case.op, "size": case.size, "ms": 1e3 * fast, "reference ms": 1e3 * reference}
    library = CUDA_LIBRARIES.get(name)
    if library and is_installed(library):
        with use_backend("warp"):  # the case itself takes the library
            row |= {"library": library, "warp ms": 1e3 * measure(case.fast, repeats)}
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def demo(device: torch.device, objects: str) -> Iterator[Row]:
    """Lift the demo's picture: seconds of each stage, peak memory."""
    options = [f"device={device.type}", "tag=bench-cuda", "log.tensorboard=false", "log.images_every=0"]
    options += DEMO_ON_CPU if device.type == "cpu" else []
    code = command_line.main(["--config", "sv3d-masked-sds", "--train", *options])
    if code != command_line.DONE:
        raise RuntimeError(f"the demo ended with exit code {code}")
    newest = max(Path("runs/sv3d-masked-sds").glob("bench-cuda*/metrics.json"), key=lambda path: path.stat().st_mtime)
    run = json.loads(newest.read_text())["run"]
    for name, stage in run["stages"].items():
        yield {"stage": name, **stage}
    yield {key: value for key, value in run.items() if key.endswith(("seconds", "memory_gb"))}


def prior(device: torch.device, objects: str) -> Iterator[Row]:
    """Time training steps of the bundled prior, loss to update, at several batch sizes."""
    from liftstudio.priors.precision import compute_dtype
    from liftstudio.training.config import TrainingConfig
    from liftstudio.training.data import TrainingBatches
    from liftstudio.training.loop import open_source
    from liftstudio.training.optimizers import make_optimizers

    config = parse(read_config(packaged("configs") / "priors" / "objects.yaml", ["data.objects=null"]), TrainingConfig)
    config = replace(config, data=replace(config.data, objects=objects))
    task = config.task.build(config.data, compute_dtype(config.precision, device))
    task.network.to(device)
    optimizers = make_optimizers(task.network.named_parameters(), config.optimizer)
    sizes = BATCH_SIZES[device.type]
    made = min(OBJECTS, *sizes)
    source = open_source(config, task.extra_views)
    few = TrainingBatches(source, config.data.rig, made, task.extra_views, task.prepare)[0]
    for size in sizes:
        times = math.ceil(size / made)
        batch = {name: value.to(device).repeat(times, *[1] * (value.dim() - 1)) for name, value in few.items()}

        def step(batch: dict[str, torch.Tensor] = batch) -> None:
            for optimizer in optimizers:
                optimizer.zero_grad()
            torch.stack(list(task.losses(batch).values())).sum().backward()
            for optimizer in optimizers:
                optimizer.step()

        seconds = measure(step, repeats=1 if device.type == "cpu" else 5, warmups=1)
        row: Row = {"batch size": size, "steps/s": round(1 / seconds, 2), "objects/s": round(size / seconds, 1)}
        if device.type == "cuda":
            row["memory GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        yield row


PARTS: dict[str, Callable[[torch.device, str], Iterator[Row]]] = {
    part.__name__: part for part in (environment, tests, kernels, demo, prior)
}


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file, without a last line that was cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def run_part(part: str, options: argparse.Namespace) -> None:
    """Run a part in a process of its own, for at most its time; note what stopped it, if anything did."""
    seconds = options.seconds or SECONDS[part]
    command = [sys.executable, "-m", "bench.cuda", part, "--inside", "--device", options.device]
    command += ["--rows", str(options.rows), *(["--objects", options.objects] if options.objects else [])]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        errors = process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
        process.communicate()
        _append(options.rows, {"part": part, "device": options.device, "error": f"stopped after {seconds} s"})
        return
    if process.returncode:
        last = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        _append(options.rows, {"part": part, "device": options.device, "error": last[:300]})


def table_of(rows: list[Row]) -> Table:
    """Return a table with a line for each row."""
    table = Table("part", "found")
    for row in rows:
        found = {key: value for key, value in row.items() if key not in ("part", "device")}
        table.add_row(row["part"], "  ".join(f"{key} {value}" for key, value in found.items()))
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a little of each part")
    parser.add_argument("--seconds", type=int, default=0, help=f"that a part may take; by default {SECONDS}")
    parser.add_argument("--again", action="store_true", help="repeat parts that have rows")
    parser.add_argument("--rows", type=Path, default=Path("runs/bench-cuda.jsonl"), help="the file of rows")
    parser.add_argument("--objects", default="", help="packs of meshes for `prior`; by default procedural objects")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process of one part
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            raise InputError(f"{part}: no such part; expected {', '.join(PARTS)}")
    if options.seconds < 0:
        raise InputError("--seconds: expected 1 or more")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("this machine has no CUDA device; `--device cpu` tries a little of every part")
    return options


def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    device, parts = torch.device(options.device), options.parts or list(PARTS)
    if options.inside:
        registry.load_methods()
        (part,) = parts
        for row in PARTS[part](device, options.objects):
            _append(options.rows, {"part": part, "device": options.device, **row})
        return command_line.DONE
    if options.again:
        kept = [row for row in read_rows(options.rows) if row["device"] != options.device or row["part"] not in parts]
        atomic_write(options.rows, "".join(json.dumps(row) + "\n" for row in kept))
    known = {row["part"] for row in read_rows(options.rows) if row["device"] == options.device}
    for part in parts:
        if part in known:
            Console(stderr=True).print(f"{part}: has rows in {options.rows}; --again repeats it")
            continue
        run_part(part, options)
    rows = [row for row in read_rows(options.rows) if row["device"] == options.device and row["part"] in parts]
    Console(width=160).print(table_of(rows))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
