"""A queue of jobs, done one after the other and kept in files, so that it survives the process that works on it."""

import dataclasses
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.locking import exclusive
from liftstudio.core.logs import log
from liftstudio.run.folder import existing_run_folder
from liftstudio.run.jobs import Job, Mode
from liftstudio.run.names import QUEUE
from liftstudio.studio.pipeline import CancelledError, Event, Pictures, Pipeline, image_overrides
from liftstudio.studio.results import Result

State = Literal["waiting", "running", "stopped", "done", "failed"]
ENTRIES = "[0-9]*.json"  # their files; those that are being written begin with a point


@dataclass(frozen=True)
class Entry:
    """A job of the queue, as its file holds it.

    name:      of its file, unique.
    config:    a packaged name or a YAML file; overrides: options by dotted key.
    mode:      what is to be done next: "views", "preview", "train", or "resume" of `folder`.
    folder:    its run folder; empty: there is none yet.
    error:     why it failed, in a line.
    submitted: when, seconds since 1970.
    """

    name: str
    config: str
    overrides: dict[str, Any]
    mode: Mode
    state: State = "waiting"
    folder: str = ""
    error: str = ""
    submitted: float = field(default_factory=time.time)

    @property
    def is_open(self) -> bool:
        """Whether it waits or is being done."""
        return self.state in ("waiting", "running")

    def result(self) -> Result | None:
        """Return what its run folder holds; None: there is none, or it was deleted."""
        try:
            return Result.of(self.folder) if self.folder else None
        except InputError:
            return None


@dataclass
class Progress:
    """What the entry that is being done has said last; kept in memory alone.

    event:   of a step. image: the newest render. losses: of every step so far, by stage and name.
    said:    its messages. version: grows with every change, so that a page knows when to look again.
    """

    event: Event = field(default_factory=Event)
    image: Image.Image | None = None
    losses: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    version: int = 0

    def hear(self, event: Event) -> None:
        """Take up an event."""
        self.image = event.image or self.image
        if event.stage:
            self.event = event
        elif event.text:
            self.said.append(event.text)
        for name, value in event.losses.items():
            self.losses.setdefault(f"{event.stage}/{name}", []).append((event.step, value))
        self.version += 1


class Queue:
    """Jobs in the order in which they were submitted, one at a time."""

    def __init__(self, runs_dir: Path, device: str = "auto", *, preview_every_s: float = 2.0) -> None:
        """Take up the queue in a folder: what was being done when its last process ended is continued first.

        Raises:
            InputError: another process works on this queue, or the folder cannot be written.
        """
        self.runs_dir, self.device, self.preview_every_s = runs_dir, device, preview_every_s
        self.folder = runs_dir / QUEUE
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = exclusive(self.folder)
        self._lock.__enter__()
        self._changed = threading.Condition()
        self._entries = {entry.name: entry for entry in map(_read, sorted(self.folder.glob(ENTRIES))) if entry}
        for entry in self._entries.values():
            if entry.state == "running":
                self._keep(_again(entry))
        self._progress: dict[str, Progress] = {}
        self._stops: dict[str, threading.Event] = {}
        self._pipeline: Pipeline | None = None  # the last one, whose prior stays loaded for the next job
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="liftstudio queue", daemon=True)
        self._worker.start()

    def submit(
        self, config: str, images: Pictures, overrides: Mapping[str, Any] | None = None, mode: Mode = "train"
    ) -> Entry:
        """Add a job and return it; what can be told at once is checked now, the rest when its turn comes.

        Raises:
            InputError: an unknown config, a bad option, or a missing file; see `Pipeline.check`.
        """
        given = {**(overrides or {}), "runs_dir": str(self.runs_dir), "device": self.device}
        given |= image_overrides(images, self.runs_dir)
        Pipeline(config).check(given, mode)
        return self._keep(Entry(_new_name(), config, given, mode))

    def resume(self, name: str) -> Entry:
        """Let an entry that ended before its run did, or that made views alone, go on.

        Raises:
            InputError: there is no such entry, or it is being done.
        """
        entry = self.entry(name)
        if entry.is_open:
            raise InputError("the job is in the queue already")
        return self._keep(_again(dataclasses.replace(entry, error="")))

    def resume_run(self, folder: Path) -> Entry:
        """Let the run in a folder go on, whoever started it.

        Raises:
            InputError: it is no run folder, or its job is in the queue already.
        """
        own = next((entry for entry in self.entries() if entry.folder and Path(entry.folder) == folder), None)
        if own is not None:
            return self.resume(own.name)
        config = existing_run_folder(folder).config
        overrides = {"runs_dir": str(self.runs_dir), "device": self.device}
        return self._keep(Entry(_new_name(), str(config), overrides, "resume", folder=str(folder)))

    def stop(self, name: str) -> None:
        """Stop an entry: one that is being done writes a checkpoint first."""
        with self._changed:
            entry = self.entry(name)
            if entry.state == "waiting":
                self._keep(dataclasses.replace(entry, state="stopped"))
            elif name in self._stops:
                self._stops[name].set()

    def entry(self, name: str) -> Entry:
        """Return the entry of that name.

        Raises:
            InputError: there is none.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise InputError(f"there is no job '{name}'") from None

    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which they were submitted."""
        with self._changed:
            return [self._entries[name] for name in sorted(self._entries)]

    def progress(self, name: str) -> Progress:
        """Return what an entry has said while this process worked on it."""
        return self._progress.get(name, Progress())

    def ahead(self, name: str) -> int:
        """Return how many jobs are done before this one."""
        return sum(entry.is_open and entry.name < name for entry in self.entries())

    def wait(self, until: Callable[["Queue"], bool], timeout_s: float) -> bool:
        """Wait until a condition of the entries holds; return whether it does."""
        with self._changed:
            return self._changed.wait_for(lambda: until(self), timeout_s)

    def close(self) -> None:
        """Stop the job that is being done, after a checkpoint; the next process that opens the queue continues it."""
        with self._changed:
            self._closing = True
            for stop in self._stops.values():
                stop.set()
            self._changed.notify_all()
        self._worker.join()
        self._lock.__exit__(None, None, None)

    def _keep(self, entry: Entry) -> Entry:
        with self._changed:
            atomic_write(self.folder / f"{entry.name}.json", json.dumps(dataclasses.asdict(entry), indent=2) + "\n")
            self._entries[entry.name] = entry
            self._changed.notify_all()
        return entry

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            self._do(entry)

    def _next(self) -> Entry | None:
        """Wait for an entry and return it; None: the queue is closed."""
        with self._changed:
            while not self._closing:
                waiting = [entry for entry in self.entries() if entry.state == "waiting"]
                if waiting:
                    self._stops[waiting[0].name] = threading.Event()
                    return self._keep(dataclasses.replace(waiting[0], state="running"))
                self._changed.wait()
        return None

    def _do(self, entry: Entry) -> None:
        progress = self._progress[entry.name] = Progress()
        stop = self._stops[entry.name]
        try:
            pipeline, job = _job_of(entry)
            for event in pipeline.stream_job(job, stop=stop, preview_every_s=self.preview_every_s):
                self._pipeline = pipeline
                progress.hear(event)
                if event.folder is not None and not entry.folder:
                    entry = self._keep(dataclasses.replace(entry, folder=str(event.folder)))
            self._end(entry, "done")
        except CancelledError:
            # A closed queue is continued where it is opened next.
            self._end(entry, "running" if self._closing else "stopped")
        except InputError as error:
            self._end(entry, "failed", str(error))
        except Exception as error:  # a bug, or out of memory: the next job may do better
            log.exception("job %s", entry.name)
            self._end(entry, "failed", f"{type(error).__name__}: {error}")

    def _end(self, entry: Entry, state: State, error: str = "") -> None:
        with self._changed:
            del self._stops[entry.name]
            self._keep(dataclasses.replace(entry, state=state, error=error))


def _new_name() -> str:
    """Return a name that sorts behind all earlier ones."""
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}"


def _job_of(entry: Entry) -> tuple[Pipeline, Job]:
    pipeline = Pipeline(entry.config, entry.overrides)
    if entry.mode == "resume":
        return pipeline, Job("resume", Path(entry.folder), command="liftstudio, resumed")
    return pipeline, pipeline.job(entry.mode, entry.overrides, note=entry.name)


def _again(entry: Entry) -> Entry:
    """Return an entry that is to go on: in its run folder, if it has one, else from the start."""
    entry = dataclasses.replace(entry, folder=entry.folder or _noted_folder(entry))
    return dataclasses.replace(entry, state="waiting", mode="resume" if entry.result() else entry.mode)


def _noted_folder(entry: Entry) -> str:
    """Return the run folder whose command names an entry; empty: there is none.

    The entry's own file does not name it if the process was killed just after the folder was made.
    """
    for command in Path(entry.overrides["runs_dir"]).glob("*/*/command.txt"):
        if entry.name in command.read_text():
            return str(command.parent)
    return ""


def _read(path: Path) -> Entry | None:
    """Return the entry in a file; None, with a warning, if it is damaged."""
    try:
        return Entry(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: not an entry of the queue, left out (%s)", path, error)
        return None
