"""Show a run in a browser: the newest checkpoint from any side, its views, losses and snapshots."""

import argparse
import contextlib
import importlib.util

from liftstudio.core.assets import input_path
from liftstudio.core.errors import InputError
from liftstudio.core.logs import log

HOST, PORT = "127.0.0.1", 8080


def add_address(parser: argparse.ArgumentParser, prefix: str = "--") -> None:
    """Add the options for the address of the page."""
    parser.add_argument(f"{prefix}port", type=int, default=PORT, metavar="PORT", help=f"port of the page ({PORT})")
    parser.add_argument(
        f"{prefix}host",
        default=HOST,
        metavar="HOST",
        help=f"address of the page ({HOST}); at others anybody can see and steer the run",
    )


def check_viewer(port: int) -> None:
    """Check that the viewer can be started; nothing slow is imported.

    Raises:
        InputError: viser is missing, or there is no such port.
    """
    if importlib.util.find_spec("viser") is None:
        raise InputError("the viewer needs viser: pip install 'liftstudio[viewer]'")
    if not 0 < port < 65536:
        raise InputError(f"viewer: expected a port from 1 to 65535, got {port}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("run", type=input_path, metavar="RUN", help="run folder, finished or not")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="what renders (default: as the run's config)")
    add_address(parser)


def run(options: argparse.Namespace) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        InputError: see `check_viewer`, `open_run` and `Window`.
    """
    check_viewer(options.port)
    from liftstudio.studio.viewer.following import Follower, open_run
    from liftstudio.studio.viewer.window import Window

    opened = open_run(options.run, options.device)
    window = Window(options.host, options.port, steerable=False)
    log.info("viewer: Ctrl-C ends it")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            Follower(window, opened).serve()
    finally:
        window.close()
