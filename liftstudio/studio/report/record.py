"""What a run folder says in words and numbers, read as far as it goes: a run may be half done, a file damaged."""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liftstudio.core.config import read_config
from liftstudio.core.errors import InputError
from liftstudio.core.logs import read_log
from liftstudio.run.folder import RunFolder

Rows = list[dict[str, float]]


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it.

    config:   the resolved config; empty if it cannot be read.
    metrics:  as in metrics.json; empty if there are none yet, or they cannot be read.
    log:      stage -> logged steps, each with its values by name: "step", "loss", ...
    commands: the command lines so far, each with its time, oldest first.
    notes:    what could not be read, and why.
    """

    folder: RunFolder
    config: dict[str, Any]
    metrics: dict[str, Any]
    log: dict[str, Rows]
    commands: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The last two parts of the folder's path, which are the run's name and tag."""
        return "/".join(self.folder.path.resolve().parts[-2:])

    @property
    def measured(self) -> dict[str, Any]:
        """What the run measured of itself: times, memory, versions."""
        return mapping(self.metrics, "run")

    @property
    def is_exported(self) -> bool:
        """Whether the run has reached its end and left a mesh."""
        return "export" in self.metrics and self.folder.has_mesh

    @property
    def repeating(self) -> str:
        """The command that does the same again, in a new folder."""
        started = "train" if self.log else "views" if self.folder.views.is_dir() else "preview"
        return f"liftstudio --config {shlex.quote(str(self.folder.config))} --{started}"

    @property
    def continuing(self) -> str:
        """The command that brings a run to its end that has not reached it."""
        return f"liftstudio --config {shlex.quote(str(self.folder.config))} --resume"


def read_record(folder: RunFolder) -> Record:
    """Return the record of a run folder; faulty files are named in its notes."""
    notes = list[str]()
    config, metrics = dict[str, Any](), dict[str, Any]()
    try:
        config = read_config(folder.config, [])
    except InputError as error:
        notes.append(str(error))
    try:
        metrics = _read_json(folder.metrics)
    except (OSError, ValueError) as error:
        notes.append(f"{folder.metrics.name}: not readable ({error}); figures are missing")
    return Record(folder, config, metrics, read_losses(folder.log_csv), _read_lines(folder.path / "command.txt"), notes)


def mapping(data: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping at a path of keys; empty if there is none."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def number(value: Any) -> float | None:
    """Return a finite number as it is, anything else as None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if is_number else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data = json.loads(path.read_text())
    if not isinstance(data, dict):
        raise ValueError("expected a JSON object")
    return data


def read_losses(path: Path) -> dict[str, Rows]:
    """Return the rows of a log.csv by stage."""
    log = dict[str, Rows]()
    for row in read_log(path):
        values = {name: value for name, text in row.items() if (value := _parsed(text)) is not None}
        if "step" in values and row.get("stage"):
            log.setdefault(row["stage"], []).append(values)
    return log


def _parsed(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def _read_lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
