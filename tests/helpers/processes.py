"""Command lines in processes of their own, forked from one that has imported torch and Lightning once."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import pytest

from helpers.paths import ROOT
from liftstudio.cli import command_line

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "liftstudio.run.run",
        "liftstudio.systems.coarse_to_fine",
        "liftstudio.geometry.instant_ngp",
        "liftstudio.geometry.dmtet",
        "liftstudio.renderers.volume",
        "liftstudio.renderers.surface",
        "liftstudio.export.pipeline",
        "liftstudio.metrics.novel_views",
        "liftstudio.views.colmap",
        "liftstudio.views.posed_images",
        "cv2",
        "imageio_ffmpeg",
        "lightning_fabric",
        "trimesh",
    ]
)


class Launched:
    """A running command line.

    killed_in: "module:function"; the process is killed when it calls that function. Empty: it is not.
    """

    def __init__(self, *arguments: str, killed_in: str = "") -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._errors = Path(file.name)
        self._process = _CONTEXT.Process(target=_main, args=(list(arguments), Path.cwd(), self._errors, killed_in))
        with pytest.MonkeyPatch.context() as patch:  # the first call starts the process that forks
            patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
            forkserver.ensure_running()
        self._process.start()

    def ended(self) -> bool:
        return not self._process.is_alive()

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self._process.pid, number)

    def wait(self) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr, once it has ended.

        Raises:
            TimeoutError: it has not after two minutes.
        """
        self._process.join(120)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError
        errors = self._errors.read_text()
        self._errors.unlink()
        return self._process.exitcode, errors


def _main(arguments: list[str], folder: Path, errors: Path, killed_in: str) -> None:
    os.chdir(folder)
    if killed_in:
        module, name = killed_in.split(":")
        setattr(importlib.import_module(module), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    for number, path in ((1, Path(os.devnull)), (2, errors)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    raise SystemExit(command_line.main(arguments))
