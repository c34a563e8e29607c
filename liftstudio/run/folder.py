"""Where a run keeps its files: runs/<name>/<tag>/."""

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
from liftstudio.run.inputs import Inputs
from liftstudio.run.names import slug


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints kept."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def inputs(self) -> Path:
        """The reference views the run works from."""
        return self.path / "checkpoints" / "inputs.ckpt"

    @property
    def views(self) -> Path:
        """The folder of the reference views, where a prior made them."""
        return self.path / "views"

    @property
    def log_csv(self) -> Path:
        """Every logged loss, by step."""
        return self.path / "log.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events."""
        return self.path / "tb"

    @property
    def test(self) -> Path:
        """The folder of the test stage's videos and images."""
        return self.path / "test"

    @property
    def export(self) -> Path:
        """The folder of the mesh files."""
        return self.path / "export"

    @property
    def metrics(self) -> Path:
        """What was measured."""
        return self.path / "metrics.json"

    def images(self, stage: str) -> Path:
        """The folder of a stage's image grids."""
        return self.path / "images" / stage

    def note_command(self, command: str) -> None:
        """Append a command line with its time to command.txt."""
        path = self.path / "command.txt"
        with blaming(path), path.open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {command}\n")


def create_run_folder(
    runs_dir: Path, name: str, tag: str, config: dict[str, Any], inputs: Inputs, command: str
) -> RunFolder:
    """A new folder with the run's config, inputs and command; a tag that is taken gets a number. All of it, or nothing.

    Raises:
        InputError: the folder cannot be made or written.
    """
    parent = runs_dir / slug(name)
    path = None
    try:
        path = _make_unique(parent, slug(tag))
        folder = RunFolder(path)
        atomic_write(folder.config, write_config(config))
        inputs.save(folder.inputs)
        folder.note_command(command)
    except OSError as error:
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        for empty in (parent, runs_dir):
            with contextlib.suppress(OSError):  # not empty, or not ours to remove
                empty.rmdir()
        raise InputError(f"cannot write the run folder {parent / slug(tag)}: {error.strerror or error}") from None
    return folder


def existing_run_folder(config: Path) -> RunFolder:
    """The run folder that a config file (or the folder itself) belongs to.

    Raises:
        InputError: it is not in a run folder.
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
