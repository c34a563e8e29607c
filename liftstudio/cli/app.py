"""Open a page on which pictures become meshes, in a browser."""

import argparse
import importlib.util
import secrets
import socket
from pathlib import Path

from liftstudio.core.assets import output_path
from liftstudio.core.errors import InputError
from liftstudio.core.files import check_folder
from liftstudio.core.locking import check_free
from liftstudio.run.names import QUEUE

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where the run folders are (runs)")
    parser.add_argument(
        "--host", default=LOOPBACK[0], help="address to listen at; others than this machine need a token"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen at (7860)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="what the runs work on")
    parser.add_argument(
        "--token", default="", help="word that the page asks for; made and printed where another host needs one"
    )


def run(options: argparse.Namespace) -> None:
    """Serve the page until the process is interrupted; what may be wrong is found before the slow imports.

    Raises:
        InputError: gradio is missing, the port is taken, or the folder cannot be written or has a server already.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio: pip install 'liftstudio[app]'")
    if not 0 < options.port < 65536:
        raise InputError(f"--port: expected 1 to 65535, got {options.port}")
    runs_dir = output_path(options.runs_dir)
    check_folder("--runs-dir", runs_dir)
    check_free(runs_dir / QUEUE)
    token = options.token or ("" if options.host in LOOPBACK else secrets.token_urlsafe(16))
    with _listening(options.host, options.port) as listener:
        from liftstudio.studio.app.server import serve  # imports gradio and torch, which takes seconds

        serve(runs_dir, options.device, listener, options.host, token)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: the port is taken, or the address is not one of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror or error}; give another --port") from None
