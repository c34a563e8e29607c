"""`python -m bench.plan CONFIG ... [key=value ...]`: planned against measured peaks of memory, on the CPU.

Each config is planned, and then its views are made and its stages run, both in processes of their own. The tensors of a
phase are counted as the plan counts them; the whole is the peak of the process so far, as the system reports it.
"""

import os
import sys
import tempfile

from rich.console import Console
from rich.table import Table

from bench.runs import config_path, in_own_process
from liftstudio.cli import command_line
from liftstudio.core import logs
from liftstudio.core.allocations import Allocations
from liftstudio.core.events import StageStep, WorkStep, listening
from liftstudio.core.extensions import load_components
from liftstudio.core.memory import memory_high_water_gb
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.plan import START, VIEWS, plan
from liftstudio.run.run import Run, load_inputs, make_fabric, make_folder

CONFIGS = ["sv3d-masked-sds", "syncdreamer-neus", "imagedream-toys", "reconstruct-views"]
QUIET = ["device=cpu", "log.images_every=0", "log.tensorboard=false"]

Peaks = dict[str, tuple[float, float]]  # phase -> GB of tensors, GB of the process so far


def _config(name: str, overrides: list[str]) -> RunConfig:
    logs.configure(verbose=False)
    load_components()
    return load_run_config(config_path(name), [*QUIET, *overrides])


def planned(name: str, overrides: list[str]) -> Peaks:
    """Return the planned peaks of a config's phases."""
    peaks: Peaks = {}
    most = 0.0
    for phase in plan(_config(name, overrides), "cpu"):
        most = max(most, phase.total / 1e9)
        peaks[phase.name] = (phase.total - phase.program) / 1e9, most
    return peaks


class Meter:
    """Peaks of a run, phase by phase; it listens to the run's events."""

    def __init__(self) -> None:
        self.counted, self.peaks = Allocations(), dict[str, tuple[float, float]]()

    def __call__(self, event: WorkStep | StageStep) -> None:
        if isinstance(event, StageStep):
            self.note(event.stage)

    def note(self, phase: str) -> None:
        """Take what was counted since the last note as that of a phase."""
        most, _ = self.peaks.get(phase, (0.0, 0.0))
        self.peaks[phase] = max(most, self.counted.peak / 1e9), memory_high_water_gb()["memory_gb"]
        self.counted.restart()


def measured(name: str, overrides: list[str]) -> Peaks:
    """Return the peaks of a config's phases in a run without test and export."""
    meter = Meter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIFTSTUDIO_CACHE"] = folder  # the views are made anew
        config = _config(name, [f"runs_dir={folder}", *overrides])
        with meter.counted, listening(meter):
            inputs = load_inputs(config, None)
            meter.note(VIEWS)
            run = Run(config, inputs, make_fabric("cpu", None))
            run.folder = make_folder(config, inputs, "")
            meter.note(START)
            with run.folder.lock():
                run.fit()
    return meter.peaks


def table_of(rows: dict[str, tuple[Peaks, Peaks]]) -> Table:
    """Return a table with a line for each phase of each config: planned, measured and their ratio."""
    table = Table("config", "phase")
    for title in ("tensors planned", "measured", "ratio", "process planned", "measured", "ratio"):
        table.add_column(title, justify="right")
    for name, (expected, found) in rows.items():
        for phase in expected:
            pairs = zip(expected[phase], found[phase], strict=True)
            cells = [cell for plan, real in pairs for cell in (f"{plan:.2f}", f"{real:.2f}", f"{plan / real:.2f}")]
            table.add_row(name, phase, *cells)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print one table; return an exit code with the meanings of `launch.py`."""
    return command_line.guard(_dispatch, arguments)


def _dispatch(arguments: list[str]) -> int:
    parser = command_line.Parser(prog="python -m bench.plan", description=__doc__)
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help=f"by default {' '.join(CONFIGS)}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    words = parser.parse_args(arguments).words
    overrides = [word for word in words if "=" in word]
    names = [word for word in words if word not in overrides] or CONFIGS
    rows = {name: tuple(in_own_process(work, name, overrides) for work in (planned, measured)) for name in names}
    Console(width=140).print(table_of(rows))
    return command_line.DONE


if __name__ == "__main__":
    sys.exit(main())
