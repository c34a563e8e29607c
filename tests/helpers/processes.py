"""Functions and command lines in processes of their own, forked from one that has imported torch and Lightning once."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
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
        "liftstudio.studio.queue",
        "liftstudio.studio.report.page",
        "cv2",
        "imageio_ffmpeg",
        "lightning_fabric",
        "trimesh",
    ]
)


class Forked:
    """A function that a process of its own calls, in the current folder and with this environment.

    function: of a module, by whose name the process imports it.
    """

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        place = (Path.cwd(), dict(os.environ))
        self._process = _CONTEXT.Process(target=_call, args=(place, function, arguments))
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

    def exit_code(self) -> int:
        """Its exit code, once it has ended.

        Raises:
            TimeoutError: it has not after two minutes.
        """
        self._process.join(120)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError
        return self._process.exitcode

    def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self._process.kill()
        self._process.join()


class Launched(Forked):
    """A running command line.

    killed_in: "module:function"; the process is killed when it calls that function. Empty: it is not.
    knows: modules that are imported first, for the components in them.
    """

    def __init__(self, *arguments: str, killed_in: str = "", knows: tuple[str, ...] = ()) -> None:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            self._errors = Path(file.name)
        super().__init__(_main, arguments, self._errors, killed_in, knows)

    def wait(self) -> tuple[int, str]:
        """Its exit code and what it wrote to stderr, once it has ended; see `exit_code`."""
        code = self.exit_code()
        errors = self._errors.read_text()
        self._errors.unlink()
        return code, errors


def _call(place: tuple[Path, dict[str, str]], function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.chdir(place[0])
    os.environ |= place[1]
    function(*arguments)


def _main(arguments: tuple[str, ...], errors: Path, killed_in: str, knows: tuple[str, ...]) -> None:
    for module in knows:
        importlib.import_module(module)
    if killed_in:
        module, name = killed_in.split(":")
        setattr(importlib.import_module(module), name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    for number, path in ((1, Path(os.devnull)), (2, errors)):
        with path.open("w") as file:
            os.dup2(file.fileno(), number)
    raise SystemExit(command_line.main(list(arguments)))
