"""The viewer of a run from its folder: finished, or written by another process."""

from pathlib import Path
from typing import Literal

from liftstudio.core.errors import InputError
from liftstudio.run.config import load_run_config
from liftstudio.run.folder import RunFolder, existing_run_folder
from liftstudio.run.inputs import Inputs
from liftstudio.run.run import Run, make_fabric
from liftstudio.studio.viewer.history import Log
from liftstudio.studio.viewer.panel import Every, time_left
from liftstudio.studio.viewer.session import Session
from liftstudio.studio.viewer.window import Window

LOOK_S = 1.0  # between looks for a newer checkpoint


def open_run(path: Path, device: Literal["auto", "cpu", "cuda"] | None = None) -> Run:
    """Return the run in a folder, of which nothing is written; `restore` loads its checkpoint.

    device: to render on; None: that of the config.

    Raises:
        InputError: it is no run folder, or has no checkpoint and no process works on one.
    """
    folder = existing_run_folder(path)
    config = load_run_config(folder.config, [f"device={device}"] if device else [])
    if not folder.inputs.is_file() or not (folder.checkpoints.paths() or folder.is_locked):
        raise InputError(f"{folder.path}: the run has no checkpoint yet; continue it with --resume")
    run = Run(config, Inputs.restore(folder.inputs), make_fabric(config.device, None))
    run.folder = folder
    return run


class Follower:
    """Shows the newest checkpoint of a run, and looks for newer ones while a browser shows the page."""

    def __init__(self, window: Window, run: Run) -> None:
        self.window, self.run, self.session = window, run, Session(window)
        self.look = Every(LOOK_S)
        self.path: Path | None = None  # of the checkpoint that is shown

    def serve(self) -> None:
        """Serve browsers until the process is interrupted."""
        while True:
            if not self.update():
                self.window.wait(LOOK_S)

    def update(self) -> bool:
        """Bring the browsers up to date; return whether a picture is still to be rendered."""
        if not self.window.clients():
            return False
        if self.look.due():
            self._load_newest()
            self._say()
        saved = self.run.saved
        return saved is not None and self.session.show(self.run, (saved.stage, saved.step), patience=0.0)

    def _load_newest(self) -> None:
        newest = next(iter(self.run.folder.checkpoints.paths()), None)
        if newest in (None, self.path):
            return
        self.run.saved, _ = self.run.folder.checkpoints.newest()
        self.run.restore()
        self.path = newest

    def _say(self) -> None:
        saved, folder, panel = self.run.saved, self.run.folder, self.window.panel
        if saved is None:
            panel.say("Waiting for the first checkpoint.", 0.0)
            return
        total = self.run.system.stages[saved.stage]
        text = f"**{saved.stage}** step {saved.step} of {total}, the newest checkpoint"
        if folder.is_locked:
            text += f"  \n{_going_on(folder, self.run.system.stages)}"
        failure = self.session.failure and f"  \n{self.session.failure}"
        panel.say(text + failure, saved.step / total)


def _going_on(folder: RunFolder, stages: dict[str, int]) -> str:
    """Return where the process is that writes into a run's folder."""
    log = Log.read(folder.log_csv)
    if not log.rows:
        return "a process works on it"
    stage, step = log.rows[-1]["stage"], int(log.rows[-1]["step"])
    return f"a process works on it: {stage}, step {step}{time_left(log.seconds_left(stage, step, stages[stage]))}"
