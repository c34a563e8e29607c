"""Reconstruction quality on a folder of objects with known meshes: `python -m bench.objects FOLDER [key=value ...]`.

FOLDER holds one capture per object (transforms.json, images, mesh). Every object is a run of its own with the config
`reconstruct-views`, or another by `--config`; the overrides behind the folder apply to all of them.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from liftstudio.cli import main as launch

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "reconstruct-views.yaml"
COLUMNS = ("chamfer", "iou", "f_score_0.01", "normal_consistency", "psnr train", "psnr held out", "ssim held out")


def reconstruct(capture: Path, config: Path, runs_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """Run one object; returns the columns of its row, with seconds and peak memory."""
    begin = time.perf_counter()
    arguments = ["--config", str(config), "--train", f"data.path={capture}", f"runs_dir={runs_dir}"]
    code = launch([*arguments, f"tag={capture.name}", *overrides])
    if code != 0:
        raise SystemExit(code)
    newest = max((runs_dir / config.stem).glob(f"{capture.name}*/metrics.json"), key=lambda path: path.stat().st_mtime)
    metrics = json.loads(newest.read_text())
    images = metrics["test"]
    row = dict(metrics["mesh"])
    row["psnr train"] = images["training"]["psnr"]
    row["psnr held out"], row["ssim held out"] = images["held_out"]["psnr"], images["held_out"]["ssim"]
    return {**row, "seconds": time.perf_counter() - begin}


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """One line per object, and the mean."""
    table = Table("object", *COLUMNS, "seconds")
    mean = {c: sum(row[c] for row in rows.values()) / len(rows) for c in (*COLUMNS, "seconds")}
    for name, row in [*rows.items(), ("mean", mean)]:
        table.add_row(name, *(f"{row[c]:.4f}" for c in COLUMNS), f"{row['seconds']:.0f}")
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", help="names of objects; default: all")
    parser.add_argument("--config", type=Path, default=CONFIG, help="that takes data.path; default: %(default)s")
    parser.add_argument("--runs-dir", type=Path, default=Path(tempfile.gettempdir()) / "liftstudio-objects")
    options, overrides = parser.parse_known_args()
    captures = sorted(path.parent for path in options.folder.glob("*/transforms.json"))
    rows: dict[str, dict[str, Any]] = {}
    for capture in captures:
        if not options.only or capture.name in options.only:
            rows[capture.name] = reconstruct(capture, options.config, options.runs_dir, overrides)
            print_table(rows)


if __name__ == "__main__":
    main()
