"""Write a turntable of a finished run under another light: liftstudio relight RUN --light FILE.hdr."""

import argparse
import math

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.run.jobs import Job
from liftstudio.studio.jobs import work

MOST_STOPS = 20.0  # of --exposure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("folder", type=input_path, metavar="RUN", help="the run's folder")
    parser.add_argument("--light", type=input_path, metavar="FILE", required=True, help="environment map, Radiance HDR")
    parser.add_argument("--exposure", type=_stops, default=0.0, metavar="STOPS", help="brighten it: times 2^STOPS")


def run(options: argparse.Namespace) -> None:
    """Write relit/FILE.mp4 in the run's folder.

    Raises:
        InputError: there is no such file, or it is no run folder; see `Run.relight`.
    """
    if not options.light.is_file():
        raise InputError(f"--light: {options.light}: no such file")
    command = f"liftstudio relight {options.folder} --light {options.light} --exposure {options.exposure:g}"
    work(Job("relight", options.folder, command=command, light=options.light, exposure=options.exposure))


def _stops(text: str) -> float:
    try:
        stops = float(text)
    except ValueError:
        stops = math.nan
    if not abs(stops) <= MOST_STOPS:
        raise argparse.ArgumentTypeError(f"expected stops from -{MOST_STOPS:g} to {MOST_STOPS:g}, got '{text}'")
    return stops
