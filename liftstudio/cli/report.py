"""Write the report of a run anew: report.html in its folder."""

import argparse

from liftstudio.core.assets import input_path
from liftstudio.core.logs import log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `liftstudio report`."""
    parser.add_argument("run", type=input_path, metavar="RUN", help="run folder, finished or not")


def run(options: argparse.Namespace) -> None:
    """Write the report.

    Raises:
        InputError: it is no run folder.
    """
    from liftstudio.run.folder import existing_run_folder
    from liftstudio.studio.report.page import write_report

    log.info("report: %s", write_report(existing_run_folder(options.run)))
