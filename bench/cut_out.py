"""Cutting objects out of photograph-like pictures: `python -m bench.cut_out FOLDER [--count N] [--sheet FILE]`.

FOLDER holds captures of objects with RGBA images, each in a folder of its own. They are composed over seeded,
procedural backgrounds, one kind after the other, and cut out again as a run from one picture does. The table has the
IoU of masks, how sure the mask is, and the mean error of alpha in a band along the outline.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.captures import find_captures, name_of
from bench.photographs import BACKGROUNDS, Photograph, photograph
from liftstudio.cli import command_line
from liftstudio.core.assets import input_path, output_path
from liftstudio.data.images import grid, load_image, resize_area, save_image
from liftstudio.metrics.novel_views import silhouette_iou
from liftstudio.views.alpha_mattes import matte
from liftstudio.views.foreground import find_object
from liftstudio.views.posed_images import read_capture

COUNT, GOOD = 12, 0.9  # photographs; IoU of a good mask
PER_ROW = 6  # images of the sheet
SEED = 7001  # of the first photograph


def composed(captures: list[Path], count: int) -> dict[str, Photograph]:
    """Return `count` photographs by name: objects and backgrounds in turn, each time from another side."""
    made = {}
    for index in range(count):
        capture = captures[index % len(captures)]
        frames = read_capture(capture).frames
        rgb, alpha = load_image(frames[5 * index % len(frames)].image)
        assert alpha is not None
        background = list(BACKGROUNDS)[index % len(BACKGROUNDS)]
        made[f"{name_of(capture)}, {background}"] = photograph(rgb, alpha, background, SEED + index)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (default: that of this process); return an exit code with the meanings of `launch.py`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(
        prog="python -m bench.cut_out", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=input_path)
    parser.add_argument("--only", nargs="+", help="names of the objects; default: all")
    parser.add_argument("--count", type=int, default=COUNT, help="number of photographs; default: %(default)s")
    parser.add_argument(
        "--sheet",
        type=output_path,
        default=Path(tempfile.gettempdir()) / "liftstudio-cut-out.png",
        help="picture of photographs and cut-outs; default: %(default)s",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    photographs = composed(find_captures(options.folder, options.only), options.count)
    table = Table("photograph", "mask IoU", "certainty", "doubt", "alpha error", "seconds")
    good = 0
    shown: list[torch.Tensor] = []
    for name, taken in photographs.items():
        begin = time.perf_counter()
        found = find_object(taken.rgb)
        if found is None:
            table.add_row(name, "-", "-", "nothing found", "-", f"{time.perf_counter() - begin:.1f}")
            continue
        rgb, alpha = matte(taken.rgb, found.mask)
        seconds = time.perf_counter() - begin
        share, band = float(silhouette_iou(alpha[None], taken.alpha[None])), _outline(taken.alpha)
        error = (alpha - taken.alpha).abs()[band].mean()
        good += share >= GOOD
        table.add_row(name, f"{share:.3f}", f"{found.certainty:.2f}", found.doubt(), f"{error:.3f}", f"{seconds:.1f}")
        shown += [resize_area(part, 240, 320) for part in (taken.rgb, rgb * alpha + 1 - alpha)]
    Console(width=140).print(table, f"IoU of {GOOD} or more: {good} of {len(photographs)}")
    save_image(options.sheet, grid([shown[s : s + PER_ROW] for s in range(0, len(shown), PER_ROW)]))
    Console(width=140).print(f"sheet: {options.sheet}")
    return command_line.DONE


def _outline(alpha: torch.Tensor, radius: int = 3) -> torch.Tensor:
    """Return [H, W, 1]: the pixels within `radius` of the outline of a mask."""
    solid = (alpha > 0.5).float().permute(2, 0, 1)
    wide = torch.nn.functional.max_pool2d(solid, 2 * radius + 1, 1, radius)
    narrow = 1 - torch.nn.functional.max_pool2d(1 - solid, 2 * radius + 1, 1, radius)
    return (wide > narrow).permute(1, 2, 0)


if __name__ == "__main__":
    sys.exit(main())
