"""Compare runs side by side: pictures, figures with their differences, options. Writes one HTML file."""

import argparse
from pathlib import Path

from liftstudio.core.assets import input_path, output_path
from liftstudio.core.logs import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `liftstudio compare`."""
    parser.add_argument(
        "runs", nargs="+", type=input_path, metavar="RUN", help="run folder; the others are compared with the first"
    )
    parser.add_argument(
        "--out", type=output_path, default=Path("compare.html"), metavar="FILE", help="default: compare.html"
    )


def run(options: argparse.Namespace) -> None:
    """Write the comparison.

    Raises:
        InputError: a folder is no run; see `write_comparison`.
    """
    from liftstudio.run.folder import existing_run_folder
    from liftstudio.studio.report.comparison import write_comparison

    folders = [existing_run_folder(path) for path in options.runs]
    log.info("comparison: %s", write_comparison(folders, options.out))
