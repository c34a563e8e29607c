"""Open a page on which pictures become meshes, in a browser."""

import argparse
import secrets
from pathlib import Path

from liftstudio.core.assets import output_path
from liftstudio.core.errors import InputError

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
    """Serve the page until the process is interrupted.

    Raises:
        InputError: gradio is missing, the port is taken, or another process works on the same folder.
    """
    try:
        import gradio  # noqa: F401
    except ImportError:
        raise InputError("the page needs gradio: pip install 'liftstudio[app]'") from None
    if not 0 < options.port < 65536:
        raise InputError(f"--port: expected 1 to 65535, got {options.port}")
    from liftstudio.studio.app.server import serve  # imports gradio and torch, which takes seconds

    token = options.token or ("" if options.host in LOOPBACK else secrets.token_urlsafe(16))
    serve(output_path(options.runs_dir), options.device, options.host, options.port, token)
