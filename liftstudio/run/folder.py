"""The folder of a run: runs/<name>/<tag>/."""

import contextlib
import itertools
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liftstudio.core.checkpoints import Checkpoints
from liftstudio.core.config import write_config
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write, blaming
from liftstudio.core.locking import exclusive, is_locked
from liftstudio.run.inputs import Inputs
from liftstudio.run.names import slug


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The file of the resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def inputs(self) -> Path:
        """The file of the run's inputs."""
        return self.path / "checkpoints" / "inputs.ckpt"

    @property
    def made_inputs(self) -> Path:
        """The folder of the pictures that were made from a text, with the one that is used."""
        return self.path / "inputs"

    @property
    def views(self) -> Path:
        """The folder of generated reference views."""
        return self.path / "views"

    @property
    def preview(self) -> Path:
        """The file of the mesh that the prior's volume shows."""
        return self.path / "preview.glb"

    @property
    def log_csv(self) -> Path:
        """The table of all logged losses, by step."""
        return self.path / "log.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard events."""
        return self.path / "tb"

    @property
    def messages(self) -> Path:
        """The file of all that the jobs on this run said."""
        return self.path / "messages.txt"

    @property
    def edits(self) -> Path:
        """The file of all changes that were made while the run went on."""
        return self.path / "edits.json"

    @property
    def test(self) -> Path:
        """The folder of the test stage's videos and images."""
        return self.path / "test"

    @property
    def relit(self) -> Path:
        """The folder of turntables under other lights."""
        return self.path / "relit"

    @property
    def export(self) -> Path:
        """The folder of the mesh files."""
        return self.path / "export"

    @property
    def has_mesh(self) -> bool:
        """Whether a mesh was exported."""
        return any(self.export.glob("mesh.*"))

    @property
    def metrics(self) -> Path:
        """The file of all metrics."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    def images(self, stage: str) -> Path:
        """Return the folder of a stage's image grids."""
        return self.path / "images" / stage

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other process may write into the folder; see `exclusive`."""
        return exclusive(self.path)

    @property
    def is_locked(self) -> bool:
        """Whether a process writes into the folder; see `core.locking.is_locked`."""
        return is_locked(self.path)

    def note_command(self, command: str) -> None:
        """Append a command line, with the current time, to command.txt."""
        path = self.path / "command.txt"
        with blaming(path), path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {command}\n")


def create_run_folder(
    runs_dir: Path, name: str, tag: str, config: dict[str, Any], inputs: Inputs | None, command: str
) -> RunFolder:
    """Create a run folder with config, inputs and command line; a number is added to a tag that is taken.

    Nothing is left behind on failure.

    Raises:
        InputError: the folder cannot be created or written.
    """
    parent = runs_dir / slug(name)
    path = None
    try:
        path = _make_unique(parent, slug(tag))
        folder = RunFolder(path)
        atomic_write(folder.config, write_config(config))
        folder.inputs.parent.mkdir()
        if inputs is not None:
            inputs.save(folder.inputs)
        folder.note_command(command)
    except OSError as error:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        for empty in (parent, runs_dir):
            with contextlib.suppress(OSError):  # not empty, or no permission
                empty.rmdir()
        raise InputError(f"cannot write the run folder {parent / slug(tag)}: {error.strerror or error}") from None
    return folder


def existing_run_folder(config: Path) -> RunFolder:
    """Return the run folder that a config file belongs to, or that is given itself.

    Raises:
        InputError: `config` is not in a run folder.
    """
    path = config if config.is_dir() else config.parent
    if not (path / "config.yaml").is_file() or not (path / "checkpoints").is_dir():
        raise InputError(f"{config}: expected the config.yaml of a run folder (runs/<name>/<tag>/config.yaml)")
    return RunFolder(path)


def _make_unique(parent: Path, tag: str) -> Path:
    for number in itertools.count(1):
        path = parent / (tag if number == 1 else f"{tag}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("itertools.count ended")
