"""What a run folder keeps of the steps so far: the losses and the image grids."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liftstudio.core.logs import KEYS, read_log
from liftstudio.run.folder import RunFolder

POINTS = 1000  # of a curve, at most


@dataclass(frozen=True)
class Log:
    """The logged steps of a run.

    rows: name of a column -> its text, oldest first.
    """

    rows: list[dict[str, str]]

    @classmethod
    def read(cls, path: Path) -> "Log":
        """Return the complete rows of a log.csv; none if there is no file."""
        return cls(read_log(path))

    def losses(self) -> tuple[str, ...]:
        """Return the names of all logged losses and figures."""
        return tuple(name for name in (self.rows[-1] if self.rows else ()) if name not in KEYS)

    def curve(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values of one by step, counted over all stages; both [N], N <= POINTS."""
        points = [(float(row["total_step"]), float(row[name])) for row in self.rows if row.get(name)]
        kept = points[:: -(-len(points) // POINTS)] if points else []
        steps, values = np.array(kept).reshape(-1, 2).T
        return steps, values

    def seconds_left(self, stage: str, done: int, total: int) -> float:
        """Return how long the rest of a stage will take after `done` steps; NaN: nobody knows."""
        times = [float(row["seconds_per_step"]) for row in self.rows[-10:] if row["stage"] == stage]
        return (total - done) * sum(times) / len(times) if times else math.nan


def snapshots(folder: RunFolder, stages: Iterable[str]) -> list[Path]:
    """Return the image grids of a run, in the order of its stages and steps."""
    return [path for stage in stages for path in sorted(folder.images(stage).glob("[0-9]*.png"))]
