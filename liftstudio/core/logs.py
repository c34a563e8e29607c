"""Logging of a run: messages, progress lines, log.csv, TensorBoard, Weights & Biases."""

import contextlib
import csv
import hashlib
import importlib.util
import io
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from liftstudio.core.errors import InputError
from liftstudio.core.events import WorkStep, tell
from liftstudio.core.files import atomic_write, blaming
from liftstudio.core.ranges import NonNegativeInt, PositiveInt
from liftstudio.core.stopping import stop_if_cancelled

log = logging.getLogger("liftstudio")

PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
SMOOTHING = 0.9  # decay of the moving average of the seconds per step
KEYS = ("total_step", "stage", "step")
MESSAGE_TIME = "%Y-%m-%d %H:%M:%S  "  # before every message in a file


@dataclass
class LogConfig:
    every: PositiveInt = 10  # steps between rows of log.csv and TensorBoard
    images_every: NonNegativeInt = 200  # steps between image grids in images/<stage>/; 0: none
    tensorboard: bool = True  # also write TensorBoard events to tb/
    wandb: str = ""  # project of Weights & Biases to log to as well; empty: none

    def __post_init__(self) -> None:
        if self.wandb and importlib.util.find_spec("wandb") is None:
            raise InputError("wandb: Weights & Biases is not installed; pip install 'liftstudio[wandb]'")


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            sys.stderr.write(f"{record.levelname.lower()}: {record.getMessage()}\n")
        else:
            sys.stdout.write(f"{record.getMessage()}\n")
            sys.stdout.flush()


def configure(verbose: bool) -> None:
    """Send our messages to stdout and our warnings to stderr; hide warnings of libraries unless `verbose`."""
    log.handlers = [_Handler()]
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.texts.append(record.getMessage())


class MessageFile(logging.Handler):
    """Keeps this thread's messages in a file, each with its time; before there is one, in memory."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.thread = threading.get_ident()
        self.path: Path | None = None
        self.waiting: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            self.keep(f"{level}{record.getMessage()}")

    def keep(self, text: str) -> None:
        """Add a message."""
        self.waiting.append(f"{time.strftime(MESSAGE_TIME)}{text}\n")
        self._write()

    def write_to(self, path: Path) -> None:
        """Append the messages to a file, those so far and those to come."""
        self.path = path
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError), self.path.open("a") as file:  # a full disk ends the run elsewhere
                file.writelines(self.waiting)
            self.waiting.clear()


@contextlib.contextmanager
def kept_messages() -> Iterator[MessageFile]:
    """Yield what keeps this thread's messages inside the block, which are shown as usual."""
    messages = MessageFile()
    log.addHandler(messages)
    try:
        yield messages
    finally:
        log.removeHandler(messages)


def read_messages(path: Path) -> list[str]:
    """Return the messages in such a file without their times, oldest first; none if there is no file."""
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return [line[len(time.strftime(MESSAGE_TIME)) :] for line in lines]


@contextlib.contextmanager
def warnings_only() -> Iterator[None]:
    """Hide messages below warnings inside the block, for example while many captures are read."""
    level = log.level
    log.setLevel("WARNING")
    try:
        yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Yield a list that collects the texts of this thread's warnings inside the block, which are shown as usual."""
    keeper = _Keeper()
    log.addHandler(keeper)
    try:
        yield keeper.texts
    finally:
        log.removeHandler(keeper)


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log.csv as texts by column, oldest first; none if there is no file.

    Incomplete rows, as a killed run leaves them, are left out.
    """
    if not path.is_file():
        return []
    with path.open(newline="", errors="replace") as file:
        return [row for row in csv.DictReader(file) if None not in row and None not in row.values()]


class CsvLog:
    """log.csv: a row for every logged step, a column for every value that was ever logged."""

    def __init__(self, path: Path, total_step: int = 0) -> None:
        """Continue `path`, if it exists, after step `total_step`; later and incomplete rows are deleted."""
        self.path = path
        rows = read_log(path)
        self.columns = list(rows[0] if rows else KEYS)
        self._rewrite([row for row in rows if int(row["total_step"]) <= total_step])

    def write(self, row: dict[str, Any]) -> None:
        """Append a row; a new name adds a column."""
        new = [name for name in row if name not in self.columns]
        if new:
            self.columns += new
            self._rewrite(read_log(self.path))
        with blaming(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.path, text.getvalue())


class TensorBoardLog:
    """TensorBoard events of one run, in a folder."""

    def __init__(self, folder: Path, total_step: int) -> None:
        """Continue after step `total_step`; later events are left out of the graphs."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=total_step + 1)

    def write(self, values: dict[str, float], total_step: int) -> None:
        """Log the values of a step by name."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, total_step)

    def close(self) -> None:
        """Flush what was written."""
        self.writer.close()


class WandbLog:
    """A run at Weights & Biases, or offline in the run folder if WANDB_MODE says so; continued under the same id."""

    def __init__(self, project: str, folder: Path) -> None:
        """Start or continue the run of a run folder."""
        import wandb

        name = "/".join(folder.absolute().parts[-2:])
        key = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self.run = wandb.init(project=project, name=name, id=key, dir=str(folder), resume="allow")

    def write(self, values: dict[str, float], total_step: int) -> None:
        """Log the values of a step by name."""
        self.run.log(values, step=total_step)

    def close(self) -> None:
        """Flush what was written."""
        self.run.finish()


class RunLog:
    """log.csv of one run, and where else its values go."""

    def __init__(self, csv_path: Path, total_step: int, others: Sequence[TensorBoardLog | WandbLog] = ()) -> None:
        """Continue after step `total_step`."""
        self.csv, self.others = CsvLog(csv_path, total_step), others

    def write(self, stage: str, step: int, total_step: int, values: dict[str, float]) -> None:
        """Log the values of a step: number `step` of its stage, `total_step` over all stages (both 1-based)."""
        self.csv.write({"total_step": total_step, "stage": stage, "step": step, **values})
        for other in self.others:
            other.write({f"{stage}/{name}": value for name, value in values.items()}, total_step)

    def close(self) -> None:
        """Flush and close the other logs."""
        for other in self.others:
            other.close()


def duration(seconds: float) -> str:
    """Return a time in words: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class StageProgress:
    """Progress line of a stage: step, losses, seconds per step, time left; live on a terminal, else every few seconds.

    total: number of steps; may be changed while running.
    """

    def __init__(self, stage: str, done: int, total: int, *, quiet: bool = False, every: float = PLAIN_SECONDS) -> None:
        """Start at step `done` of `total`; `every`: seconds between the lines where there is no terminal."""
        self.stage, self.total, self.quiet, self.every = stage, total, quiet, every
        self.seconds: float | None = None  # per step, a moving average
        self.last = time.perf_counter()
        self.printed = self.last
        self.live: Progress | None = None
        if not quiet and sys.stdout.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[line]}", markup=False))
            self.live = Progress(*columns, console=Console(), transient=False)
            self.task = self.live.add_task(stage, total=total, completed=done, line="")

    def __enter__(self) -> "StageProgress":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, done: int, losses: dict[str, float]) -> None:
        """Show the progress after `done` steps, with the losses of the last one."""
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        self.seconds = spent if self.seconds is None else SMOOTHING * self.seconds + (1 - SMOOTHING) * spent
        if self.live is not None:
            self.live.update(self.task, completed=done, total=self.total, line=self._line(done, losses))
        elif not self.quiet and (now - self.printed >= self.every or done == self.total):
            self.printed = now
            log.info("%s %s", self.stage, self._line(done, losses))

    def _line(self, done: int, losses: dict[str, float]) -> str:
        seconds = self.seconds or 0.0
        left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self.total - done)))
        values = "  ".join(f"{name} {value:.4g}" for name, value in losses.items())
        return f"{done}/{self.total}  {values}  {seconds:.3f} s/step  ETA {left}"


class WorkProgress:
    """Progress of a long job, called as `progress(step, fraction)`: a bar on a terminal, else a line for each step."""

    def __init__(self, title: str) -> None:
        self.title, self.step = title, ""
        self.live: Progress | None = None
        if sys.stdout.isatty():
            self.live = Progress(TextColumn("{task.description}"), BarColumn(20), console=Console(), transient=True)
            self.task = self.live.add_task(title, total=1.0)

    def __enter__(self) -> "WorkProgress":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def __call__(self, step: str, fraction: float) -> None:
        stop_if_cancelled()
        tell(WorkStep(self.title, step, fraction))
        if self.live is not None:
            self.live.update(self.task, description=f"{self.title}: {step}", completed=fraction)
        elif step != self.step:
            log.info("%s: %s", self.title, step)
        self.step = step
