"""Reconstruction quality on a folder of objects with known meshes: `python -m bench.objects FOLDER [key=value ...]`.

FOLDER holds one capture per object (transforms.json, images, mesh). Each object is a separate run with the config
`reconstruct-views`, or the one given by `--config`; overrides (any words with `=`) apply to all runs. Metrics that a
run does not have, for example without held-out views or without a mesh, stay empty.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.captures import find_captures, name_of
from bench.runs import Row
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reconstruct-views.yaml"
COLUMNS = ("chamfer", "iou", "f_score_0.01", "normal_consistency", "psnr train", "psnr held out", "ssim held out")
GROUPS = {"training": "train", "held_out": "held out"}  # split of a run's views -> its name in the columns


def reconstruct(capture: Path, config: Path, runs_dir: Path, overrides: list[str]) -> Row:
    """Run one object; return its row: the metrics of its run, and its seconds."""
    begin = time.perf_counter()
    name = name_of(capture)
    own = [f"data.path={capture}", f"runs_dir={runs_dir}", f"name={config.stem}", f"tag={name}"]
    code = command_line.main(["--config", str(config), "--train", *overrides, *own])
    if code != command_line.DONE:
        raise SystemExit(code)
    newest = max((runs_dir / config.stem).glob(f"{name}*/metrics.json"), key=lambda path: path.stat().st_mtime)
    return {**row_of(json.loads(newest.read_text())), "seconds": time.perf_counter() - begin}


def row_of(metrics: dict[str, Any]) -> Row:
    """Return the row of a run's metrics.json."""
    images = {
        f"{measure} {name}": value
        for group, name in GROUPS.items()
        for measure, value in metrics["test"].get(group, {}).items()
    }
    return {name: value for name, value in (metrics.get("mesh", {}) | images).items() if value is not None}


def table_of(rows: dict[str, Row]) -> Table:
    """Return a table with one line per object, and the means over the objects that have a value."""
    digits = dict.fromkeys(COLUMNS, 4) | {"seconds": 0}
    table = Table("object", *digits)
    known = {column: [row[column] for row in rows.values() if column in row] for column in digits}
    mean = {column: sum(values) / len(values) for column, values in known.items() if values}
    for name, row in [*rows.items(), ("mean", mean)]:
        cells = (f"{row[column]:.{places}f}" if column in row else "" for column, places in digits.items())
        table.add_row(name, *cells)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: that of this process); return an exit code with the meanings of `launch.py`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.objects",
        usage="python -m bench.objects FOLDER [options] [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=input_path)
    parser.add_argument("--only", nargs="+", help="names of the objects to run; default: all")
    parser.add_argument(
        "--config", type=input_path, default=CONFIG, help="config that takes data.path; default: %(default)s"
    )
    parser.add_argument("--runs-dir", type=output_path, default=Path(tempfile.gettempdir()) / "liftstudio-objects")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in arguments if word not in overrides])
    rows: dict[str, Row] = {}
    for capture in find_captures(options.folder, options.only):
        rows[name_of(capture)] = reconstruct(capture, options.config, options.runs_dir, overrides)
        Console(width=140).print(table_of(rows))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
