"""The runs of a folder: those of the queue, and those that the command line left there."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liftstudio.core.errors import InputError
from liftstudio.core.logs import read_messages
from liftstudio.run.folder import RunFolder
from liftstudio.studio.app.cut_outs import without_place
from liftstudio.studio.queue import Entry, Progress, Queue
from liftstudio.studio.report.charts import loss_samples
from liftstudio.studio.report.record import read_losses

SHOWN = 200  # newest runs that are listed


@dataclass(frozen=True)
class Seen:
    """A run as the page lists it.

    key:    "<name>/<tag>" of its folder, or the name of its job while it has none.
    state:  of its job; without one: "in work" by another process, "mesh", "views", "preview" or "unfinished".
    since:  when it was submitted or its folder was made, seconds since 1970.
    """

    key: str
    state: str
    since: float
    entry: Entry | None
    folder: RunFolder | None

    @property
    def title(self) -> str:
        """What the list says."""
        name = self.key if self.folder else f"{self.entry.config if self.entry else ''}, no folder"
        why = f": {self.error}" if self.error else ""
        return f"{name} · {self.state}{why} · {time.strftime('%d %b %H:%M', time.localtime(self.since))}"

    @property
    def error(self) -> str:
        """Why its job failed, in a line that names no place on the server; empty: it did not."""
        if self.entry is None:
            return ""
        given = self.entry.overrides
        pictures = [given.get("image"), *dict(given.get("images") or {}).values()]
        return functools.reduce(without_place, map(Path, filter(None, pictures)), self.entry.error)


def runs(queue: Queue) -> list[Seen]:
    """Return the runs in a queue's folder, newest first."""
    entries = queue.entries()
    of_folder = {_key(entry): entry for entry in entries if entry.folder}
    folders = [path.parent for path in queue.runs_dir.glob("*/*/config.yaml") if (path.parent / "checkpoints").is_dir()]
    seen = [_seen(folder, of_folder.get(_key_of(folder))) for folder in folders]
    seen += [Seen(entry.name, entry.state, entry.submitted, entry, None) for entry in entries if not entry.folder]
    return sorted(seen, key=lambda run: -run.since)[:SHOWN]


def find(queue: Queue, key: Any) -> Seen:
    """Return the run of a key; that of a job is found by the job's name as well. A browser may send anything as a key.

    Raises:
        InputError: there is none.
    """
    entry = next((entry for entry in queue.entries() if key in (entry.name, _key(entry))), None)
    if entry is not None:
        result = entry.result()
        if result is None:
            return Seen(entry.name, entry.state, entry.submitted, entry, None)
        return _seen(result.folder, entry)
    known = {run.key: run for run in runs(queue)}  # a key that a browser sent is only compared, never used as a path
    if not isinstance(key, str) or key not in known:
        raise InputError("there is no such run any more")
    return known[key]


def progress(queue: Queue, run: Seen) -> Progress:
    """Return what a run has said: to this process, or, where another one did it, to its folder."""
    said = queue.progress(run.entry.name) if run.entry else Progress()
    if said.version or run.folder is None:
        return said
    losses = {
        f"{stage}/{name}": [(int(step), value) for step, value in samples]
        for stage, rows in read_losses(run.folder.log_csv).items()
        for name, samples in loss_samples(rows).items()
    }
    return Progress(losses=losses, said=read_messages(run.folder.messages))


def _key(entry: Entry) -> str:
    return _key_of(Path(entry.folder)) if entry.folder else entry.name


def _key_of(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


def _seen(path: Path, entry: Entry | None) -> Seen:
    folder = RunFolder(path)
    since = entry.submitted if entry else folder.config.stat().st_mtime
    return Seen(_key_of(path), entry.state if entry else _state(folder), since, entry, folder)


def _state(folder: RunFolder) -> str:
    if folder.is_locked:
        return "in work"
    if folder.has_mesh:
        return "mesh"
    if any(folder.checkpoints.folder.glob("step-*")):
        return "unfinished"
    return "views" if folder.views.is_dir() else "preview"
