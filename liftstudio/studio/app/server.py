"""The server of the page."""

import os
import shutil
import socket
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp

from liftstudio.core.logs import log
from liftstudio.run.names import INPUTS
from liftstudio.studio.app import run_files, scenes, uploads
from liftstudio.studio.app.guard import Guard
from liftstudio.studio.app.page import STYLE, Page
from liftstudio.studio.queue import Queue

CLOSE_S = 2  # seconds that open pages get when the server stops
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # of the visitor's system
ANY_HOST = ("0.0.0.0", "::")


def serve(runs_dir: Path, device: str, listener: socket.socket, host: str, token: str) -> None:
    """Serve the page of the queue in a folder until the process is interrupted; then the running job is kept.

    listener: where visitors arrive, at `host`. token: that they must know; empty: none.

    Raises:
        InputError: another process works on the same queue.
    """
    queue = Queue(runs_dir, device)
    try:
        application = app(queue, () if token else (host, "localhost", "127.0.0.1"), token)
        config = uvicorn.Config(application, log_level="critical", timeout_graceful_shutdown=CLOSE_S)
        _say(host, listener.getsockname()[1], token, runs_dir)
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        queue.close()


def app(queue: Queue, hosts: tuple[str, ...] = (), token: str = "") -> ASGIApp:
    """Return the application: the page of a queue, the files of its runs, and the guard before both.

    hosts, token: see `Guard`. The queue's lock keeps other servers out, so gradio's files of an earlier one go.
    """
    scratch = (queue.runs_dir / uploads.SCRATCH).absolute()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    references = (*queue.runs_dir.glob("*/*/config.yaml"), *queue.folder.glob("*.json"))
    if count := uploads.delete_unused(queue.runs_dir / INPUTS, references):
        log.info("uploads: deleted %d older than a day that no run uses", count)
    os.environ |= {
        "GRADIO_TEMP_DIR": str(scratch),
        "GRADIO_EXAMPLES_CACHE": str(scratch),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    served = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @served.get(f"{run_files.ROUTE}/{{name:path}}")
    def run_file(name: str) -> Response:
        return run_files.respond(queue.runs_dir, name)

    @served.get(f"{scenes.ROUTE}/{{name:path}}")
    def scene(name: str) -> Response:
        return scenes.respond(queue.runs_dir, name)

    blocks = Page(queue).blocks
    # Gradio checks the files that visitors name only where these are set, which mounting leaves to `launch`.
    blocks.has_launched = blocks.is_running = True
    gr.mount_gradio_app(
        served,
        blocks,
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,  # of gradio's own; the page says what is wrong
        allowed_paths=[str(scratch)],  # a file may be named just .png
        pwa=False,
        enable_monitoring=False,
        max_file_size=uploads.MAX_BYTES,
        theme=gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", **FONTS),
        css_paths=STYLE,
    )
    return Guard(served, token, hosts, uploads.MAX_BYTES)


def _say(host: str, port: int, token: str, runs_dir: Path) -> None:
    shown = socket.gethostname() if host in ANY_HOST else f"[{host}]" if ":" in host else host
    log.info("page: http://%s:%d/  (runs are kept in %s; Ctrl-C stops)", shown, port, runs_dir)
    if token:
        log.info("token: %s", token)
