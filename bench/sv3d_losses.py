"""What SV3D's losses are worth: `python -m bench.sv3d_losses FOLDER [--only ...] [key=value ...]`.

FOLDER holds captures with meshes. The stages of `sv3d-masked-sds` for priors without a volume, without score
distillation, are run with each variant of `VARIANTS`: on half of the true views of each capture, and on the views that
the prior `toys` makes of its first. Meshes are compared with the true one, their renders with the other true views.
Rows are appended to a JSON Lines file; existing ones are not measured again.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from bench import objects
from bench.captures import find_captures, name_of
from bench.runs import CONFIGS, Row, append_rows, in_own_process, mean_cells, read_rows
from bench.single_image_tasks import BUNDLED, Setting, Task, reconstruct
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.files import atomic_write
from liftstudio.views.posed_images import read_capture

COARSE, FINE = "system.stages.coarse", "system.stages.fine"
GUIDANCE = [f"{stage}.guidance.views" for stage in (COARSE, FINE)]
EVERYWHERE = {  # losses of the fine stage that the coarse one does not have
    f"{COARSE}.guidance.views.lambda_depth_smoothness": "0.1",
    f"{COARSE}.guidance.views.lambda_bilateral_normal": "0.05",
    f"{COARSE}.regularizers.lambda_albedo_smoothness": "0.005",
}
PRINTED_LIGHT = {f"{guidance}.illumination": "printed" for guidance in GUIDANCE}
PRINTED_BEND = {f"{guidance}.bilateral_normal": "printed" for guidance in GUIDANCE}
VARIANTS = {
    "default": {},
    "all losses in both stages": EVERYWHERE,
    "illumination as printed": PRINTED_LIGHT,
    "bilateral normal as printed": PRINTED_BEND,
    "all as printed": EVERYWHERE | PRINTED_LIGHT | PRINTED_BEND,
    "no illumination": {f"{guidance}.lambda_illumination": "0" for guidance in GUIDANCE},
    "no bilateral normal": {f"{FINE}.guidance.views.lambda_bilateral_normal": "0"},
    "no depth smoothness": {f"{FINE}.guidance.views.lambda_depth_smoothness": "0"},
    "no albedo smoothness": {f"{FINE}.regularizers.lambda_albedo_smoothness": "0"},
}
MEASURES = {"psnr": 2, "chamfer": 4, "iou": 3, "normal_consistency": 3}  # digits
TRUE, GENERATED = "true views", "views of toys"


def config_of(source: str) -> dict[str, Any]:
    """Return the packaged config without distillation; with true views, they are those of a capture `data.path`."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "sv3d-masked-sds.yaml").read_text())
    del config["system"]["stages"]["fine"]["guidance"]["unseen"], config["system"]["stages"]["surface"]
    if source == TRUE:
        for name in ("image", "images", "image_box", "prior"):
            del config[name]
        config |= {"data": {"path": "???"}}
        config["views"] = {"type": "posed-images", "path": "${data.path}", "held_out": []}
    return config


def measure(source: str, variant: str, capture: Path, overrides: list[str], folder: Path) -> Row:
    """Return the measures of one run."""
    file = folder / f"{source.replace(' ', '-')}.yaml"
    atomic_write(file, yaml.safe_dump(config_of(source)))
    changes = [f"{key}={value}" for key, value in VARIANTS[variant].items()] + overrides
    if source == TRUE:
        held_out = list(range(1, len(read_capture(capture).frames), 2))
        row = objects.reconstruct(capture, file, folder, [f"views.held_out={held_out}", *changes])
        row["psnr"] = row["psnr held out"]
    else:
        setting = Setting(str(file), (*changes, *(f"{key}={value}" for key, value in BUNDLED.items())))
        (row,) = in_own_process(reconstruct, Task("mesh", setting, capture), folder, folder / "strip")
    return {name: row[name] for name in MEASURES}


def table_of(rows: list[Row]) -> Table:
    """Return a Markdown table of mean and standard error over the objects, a line for each source and variant."""
    table = Table("", *MEASURES, box=box.MARKDOWN)
    for source in (TRUE, GENERATED):
        for variant in VARIANTS:
            chosen = [row for row in rows if (row["source"], row["variant"]) == (source, variant)]
            table.add_row(f"{source}, {variant}", *mean_cells(chosen, MEASURES))
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`.

    arguments: the command line (default: that of this process).
    """
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.sv3d_losses", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=input_path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", help="names of the objects to run; default: all")
    parser.add_argument("--results", type=output_path, default=Path("runs/sv3d_losses.jsonl"), help="file of rows")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    options = parser.parse_args([word for word in arguments if word not in overrides])
    for capture in find_captures(options.folder, options.only):
        for source in (TRUE, GENERATED):
            for variant in VARIANTS:
                key = {"source": source, "variant": variant, "object": name_of(capture), "overrides": overrides}
                if any(key.items() <= row.items() for row in read_rows(options.results)):
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    row = measure(source, variant, capture, overrides, Path(folder))
                append_rows(options.results, [{**key, **row}])
    rows = [row for row in read_rows(options.results) if row["overrides"] == overrides]
    Console(width=140).print(table_of(rows))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
