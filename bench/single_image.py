"""One image of a real object to novel views and a mesh: `python -m bench.single_image FOLDER [options] [key=value]`.

FOLDER is a capture or holds captures: transforms.json, images and, for shape metrics, a mesh. One view is the input;
the others and the mesh are the ground truth. The input image is not recentred; elevation, distance and field of view of
its camera are given, and its azimuth is 0. The benchmark measures

- the views of the config's prior at the cameras of the capture: `one evaluation` at the highest noise level, and
  `sampled` like the views of the config; each at the prior's resolution, against area-downsampled ground truth, and at
  256 pixels, resized as in a run;
- the exported `mesh` of the whole run: its shaded renders at the cameras of the capture, its shape by the protocol of
  SyncDreamer and HarmonyView, without rescaling (see `liftstudio.metrics.meshes`), time and memory;
- with `--baselines`: the input view `repeated`; the silhouette inflated to a rounded body (`inflate`); the `mean` of
  the other captures, views and shape; the same config with the bundled prior (`toys`).

With `--sides` the run is given further views of the capture, labelled by the sides they are from. Images are compared
over white; means exclude the input views. LPIPS, CLIP, contextual distances by VGG and E_flow are measured if the
config names weights: test.lpips_weights=..., test.clip_weights, test.contextual_weights, test.raft_weights. Rows are
appended to a JSON Lines file, one per object, method and resolution. Existing rows are not measured again, so an
interrupted benchmark can be resumed.
"""

import liftstudio  # isort: skip  # noqa: F401  before torch: it sets how OpenMP threads wait

import argparse
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.captures import digest_of, find_captures
from bench.published import TABLES
from bench.runs import Row, append_rows, read_rows
from bench.single_image_tables import published_tables, save_sheet, tables
from bench.single_image_tasks import BASELINES, Setting, Task
from liftstudio.cli import command_line
from liftstudio.core import registry
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Measure what has no rows yet and print the tables; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m bench.single_image",
        usage="python -m bench.single_image FOLDER [options] [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=input_path)
    add("--config", default=Setting.config, help="name of a file in configs/, or a .yaml file")
    add("--only", nargs="+", help="names of the objects to run; default: all")
    add("--view", default="", help="file name of the input view, for example 000.png; default: the first")
    add("--sides", nargs="+", default=[], help="also give the views from there: back, left, ... of the input view")
    add("--estimate-elevation", action="store_true", help="let the config estimate the elevation instead of giving it")
    add("--views-only", action="store_true", help="measure only the views of the prior, without a run")
    add("--baselines", nargs="+", choices=BASELINES, default=[], help="baselines, and the bundled prior")
    add("--scale-by-box", action="store_true", help="scale shapes to the longest side of the true bounding box")
    add("--table", choices=TABLES, action="append", default=[], help="also print that paper's table, with its results")
    add("--sheet", type=output_path, help="PNG: input and true views, above the results of each method")
    add("--results", type=output_path, help="file of rows, read and extended; default: runs/single_image/CONFIG.jsonl")
    add("--keep", type=output_path, help="folder that keeps the runs, with sheets, videos and meshes")
    add("--debug", action="store_true", help="show the traceback of an error")
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in arguments if word not in overrides])
    given = options.view, options.estimate_elevation, tuple(options.sides)
    options.setting = Setting(options.config, tuple(overrides), *given)
    options.results = options.results or Path("runs/single_image") / f"{Path(options.config).stem}.jsonl"
    return options


def plan(options: argparse.Namespace) -> list[Task]:
    """Return the tasks of all objects, each once.

    Raises:
        InputError: there are no captures, or the config or a baseline does not work with them.
    """
    captures = find_captures(options.folder, options.only)
    setting: Setting = options.setting
    setting.check()
    settings = [setting]
    if "toys" in options.baselines and (bundled := setting.bundled()).weights != setting.weights:
        settings.append(bundled)
    kinds = ["views"] if options.views_only else ["views", "mesh"]
    every = find_captures(options.folder, None) if "mean" in options.baselines else captures
    meshes = {capture: setting.read(capture).truth.mesh is not None for capture in every}  # fails if one is faulty
    tasks = []
    for capture in captures:
        others = tuple(other for other in every if other != capture)
        if "mean" in options.baselines and not any(meshes[other] for other in others):
            raise InputError(f"--baselines mean: {options.folder} has no other capture with a mesh")
        tasks += [Task(kind, each, capture) for each in settings for kind in kinds]
        for kind in options.baselines:
            if kind != "toys":
                tasks.append(Task(kind, setting, capture, others if kind == "mean" else ()))
    return tasks


def _dispatch(arguments: list[str]) -> int:
    options = _parse(arguments)
    registry.load_methods()
    tasks, judges = plan(options), options.setting.judges()
    digest = functools.cache(digest_of)
    keys = [task.key(digest) for task in tasks]
    rows, shown, failures = read_rows(options.results), list[Row](), list[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        os.environ.setdefault("LIFTSTUDIO_CACHE", str(folder / "cache"))  # a fresh cache, so that `views_s` is measured
        for task, key in zip(tasks, keys, strict=True):
            found = [row for row in rows if key.items() <= row.items()]
            if not found:
                strips = options.results.with_suffix("") / f"{key['object']}-{key['digest'][:12]}"
                try:
                    found = [{**key, **row} for row in task.measure(judges, folder, strips)]
                except InputError as error:  # for example, all views are empty; continue with the other objects
                    failures.append(f"{key['object']}, {task.kind}: {error}")
                else:
                    append_rows(options.results, found)
            shown += [{**row, "method": task.method(row)} for row in found]
            if not options.keep:
                shutil.rmtree(folder / "runs", ignore_errors=True)
    show(shown, options)
    if failures:
        raise InputError(f"not measured: {'; '.join(failures)}")
    return command_line.DONE


def show(rows: list[Row], options: argparse.Namespace) -> None:
    """Print the requested tables, and write the sheet."""
    console = Console(width=300)
    for table in tables(rows, by_box=options.scale_by_box):
        console.print(table)
    for name in options.table:
        for table in published_tables(rows, TABLES[name], by_box=options.scale_by_box):
            console.print(table)
    if options.sheet:
        save_sheet(options.sheet, options.setting, find_captures(options.folder, options.only), rows)


if __name__ == "__main__":
    sys.exit(main())
