"""liftstudio from Python: an image in, a textured mesh out, and all that happens in between as events.

Everything is done by the jobs of the command line (`studio.jobs`), so that a call leaves the same run folder.
"""

import json
import logging
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from liftstudio.core.arguments import checked
from liftstudio.core.assets import find_config, output_path
from liftstudio.core.cache import content_key
from liftstudio.core.devices import first_device
from liftstudio.core.errors import InputError
from liftstudio.core.events import StageStep, WorkStep, listening
from liftstudio.core.extensions import load_components
from liftstudio.core.files import atomic_path
from liftstudio.core.logs import log
from liftstudio.core.stopping import cancelled_by
from liftstudio.data.images import to_pillow
from liftstudio.priors.base import Prior
from liftstudio.priors.opening import open_prior
from liftstudio.run.config import load_run_config, load_without_input
from liftstudio.run.folder import RunFolder
from liftstudio.run.jobs import Job, Mode
from liftstudio.run.names import INPUTS
from liftstudio.run.run import check_inputs
from liftstudio.run.snapshots import look
from liftstudio.studio.jobs import work
from liftstudio.studio.results import Result

Picture = str | Path | Image.Image | NDArray[Any] | Tensor
Pictures = Picture | Mapping[str, Picture] | None


class CancelledError(Exception):
    """The work was stopped on request. `folder`: what `Pipeline.resume` continues from; None: nothing was kept yet."""

    def __init__(self, where: str, folder: Path | None) -> None:
        super().__init__(f"stopped {where}")
        self.folder = folder


@dataclass(frozen=True)
class Event:
    """What a run says while it goes on.

    stage:    "views", the name of an optimisation stage, "test" or "export"; empty: a message.
    text:     a message, or what is done now, in words.
    step:     number of steps done in this stage, of `total`; both 0 outside the optimisation stages.
    fraction: how much of this stage is done, 0 to 1.
    losses:   of this step, by name.
    eta_s:    seconds left in this stage; None: unknown.
    image:    a render of the object as it is now, if one was due.
    folder:   the run folder; None: there is none yet.
    result:   of the run; only the last event has it.
    """

    stage: str = ""
    text: str = ""
    step: int = 0
    total: int = 0
    fraction: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    eta_s: float | None = None
    image: Image.Image | None = None
    folder: Path | None = None
    result: Result | None = None


class Pipeline:
    """A config with its prior, which stays loaded from one image to the next."""

    @checked
    def __init__(self, config: str | Path, overrides: Mapping[str, Any] | None = None) -> None:
        """Check the config; nothing is loaded yet. See `from_config`."""
        load_components()
        self.path, self.overrides = find_config(Path(config)), dict(overrides or {})
        self._stop = threading.Event()
        self._prior: Prior | None = None
        self.config = load_without_input(self.path, as_words(self.overrides))

    @classmethod
    @checked
    def from_config(
        cls, config: str | Path = "sv3d-masked-sds", *, device: str = "", overrides: Mapping[str, Any] | None = None
    ) -> "Pipeline":
        """Return the pipeline of a config.

        Args:
            config: a YAML file, or the name of a packaged config.
            device: "cpu" or "cuda"; empty: as the config says.
            overrides: options of the config by their dotted keys: {"views.elevation_deg": 10}.

        Raises:
            InputError: there is no such config, or an option is unknown or has a bad value.
        """
        return cls(config, {**(overrides or {}), **({"device": device} if device else {})})

    @property
    def prior(self) -> Prior:
        """The prior of the config, loaded once.

        Raises:
            InputError: the config has none, or its weights are missing or damaged.
        """
        if self._prior is None:
            if self.config.prior is None:
                raise InputError(f"{self.path}: the config has no prior")
            self._prior = open_prior(self.config.prior, first_device(self.config.device, None))
        return self._prior

    @checked
    def __call__(self, image: Pictures = None, **options: Any) -> Result:
        """Return the result of the whole run from an image: views, all stages, test and export.

        Args:
            image: a file, a Pillow image, an array or tensor [H, W, 3 or 4] (uint8, or floats in [0, 1]); or several of
                one object by label, {"front": ..., "back": ...}; None: the config's own.
            options: `overrides` for this image alone, and `preview_every_s`, see `stream`.

        Raises:
            InputError: the image or an option is faulty.
            CancelledError: `stop` was called; a checkpoint is kept.
        """
        return _last(self.stream(image, **options))

    @checked
    def views(self, image: Pictures = None, **options: Any) -> Result:
        """Return a result with the reference views alone; `resume` goes on from there. See `__call__`."""
        return _last(self.stream(image, mode="views", **options))

    @checked
    def preview(self, image: Pictures = None, **options: Any) -> Result:
        """Return a result whose mesh is the volume of the prior, in seconds; `resume` goes on. See `__call__`."""
        return _last(self.stream(image, mode="preview", **options))

    @checked
    def resume(self, folder: str | Path, **options: Any) -> Result:
        """Return the result of a run in a folder, continued from its newest checkpoint. See `__call__`."""
        return _last(self.stream_job(Job("resume", Path(folder)), **options))

    @checked
    def stream(
        self,
        image: Pictures = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        mode: Mode = "train",
        preview_every_s: float | None = None,
    ) -> Iterator[Event]:
        """Yield the events of a run from an image; the last has the result.

        Closing the iterator, as leaving a loop over it does, stops the run as `stop` does, without the exception.

        Args:
            image: see `__call__`.
            overrides: options for this image alone.
            mode: "train", "views" or "preview".
            preview_every_s: seconds between events with an `image`; None: none has one.

        Raises:
            InputError, CancelledError: see `__call__`.
        """
        own = {**self.overrides, **(overrides or {})}
        names = image_overrides(image, output_path(str(own.get("runs_dir", self.config.runs_dir))))
        return self.stream_job(self.job(mode, {**own, **names}), preview_every_s=preview_every_s)

    def check(self, overrides: Mapping[str, Any], mode: Mode) -> None:
        """Check the job of a new run, as far as it can be told at once.

        Raises:
            InputError: a bad or missing option, or see `check_inputs`.
        """
        check_inputs(load_run_config(self.path, as_words(overrides)), mode)

    def job(self, mode: Mode, overrides: Mapping[str, Any], note: str = "") -> Job:
        """Return the job of a new run; note: added to the command that its folder keeps."""
        words = as_words(overrides)
        command = f"liftstudio --config {self.path} --{mode} {shlex.join(words)}{note and f'  # {note}'}"
        return Job(mode, self.path, tuple(words), command=command)

    def stream_job(
        self, job: Job, *, stop: threading.Event | None = None, preview_every_s: float | None = None
    ) -> Iterator[Event]:
        """Yield the events of any job; see `stream`. stop: set by another thread, it stops the job, as `stop` does."""
        self._stop = stop or threading.Event()
        for event in stream(job, self._stop, preview_every_s):
            if event.stage == "views" and self._prior is None:
                _ = self.prior  # the job has just loaded it; held here, it stays loaded
            yield event

    def stop(self) -> None:
        """Stop the run that goes on, from another thread: it writes a checkpoint and raises `CancelledError`."""
        self._stop.set()


@checked
def lift(
    image: Pictures = None,
    *,
    config: str | Path = "sv3d-masked-sds",
    overrides: Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Result:
    """Return the textured mesh of an image, and all else that its run made.

    Args:
        image: see `Pipeline.__call__`.
        config: a YAML file, or the name of a packaged config.
        overrides: options of the config by their dotted keys: {"views.elevation_deg": 10}.
        on_event: called with each `Event` of the run.

    Raises:
        InputError: the image, the config or an option is faulty.
    """
    for event in Pipeline(config, overrides).stream(image):
        if on_event is not None:
            on_event(event)
        if event.result is not None:
            return event.result
    raise AssertionError("the last event has the result")


def stream(job: Job, stop: threading.Event, preview_every_s: float | None = None) -> Iterator[Event]:
    """Yield the events of a job, which is done in a thread of its own; see `Pipeline.stream`.

    stop: ends the job at its next safe point once it is set.
    """
    events: queue.Queue[Event | BaseException] = queue.Queue()
    worker = threading.Thread(target=_do, args=(job, stop, preview_every_s, events.put), name=f"liftstudio {job.mode}")
    worker.start()
    try:
        while True:
            event = events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.result is not None:
                return
    finally:
        stop.set()
        worker.join()


def _do(
    job: Job, stop: threading.Event, preview_every_s: float | None, put: Callable[[Event | BaseException], None]
) -> None:
    """Do a job in this thread; `put` its events, last its result or the exception that ended it."""
    folders = list[RunFolder]()
    teller = _Teller(put, folders, preview_every_s)
    log.addHandler(teller)
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
    try:
        with listening(teller.hear), cancelled_by(stop):
            folder = work(job, folders.append)
        put(Event(folder=folder.path, result=Result(folder)))
    except KeyboardInterrupt as error:
        put(CancelledError(getattr(error, "where", "at once"), folders[0].path if folders else None))
    except BaseException as error:
        put(error)
    finally:
        log.removeHandler(teller)


class _Teller(logging.Handler):
    """Turns what a job says, in whatever way, into events."""

    def __init__(
        self, put: Callable[[Event | BaseException], None], folders: list[RunFolder], preview_every_s: float | None
    ) -> None:
        super().__init__(logging.INFO)
        self.put, self.folders, self.every_s = put, folders, preview_every_s
        self.thread, self.pictured = threading.get_ident(), 0.0

    @property
    def folder(self) -> Path | None:
        return self.folders[0].path if self.folders else None

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.put(Event(text=record.getMessage(), folder=self.folder))

    def hear(self, event: WorkStep | StageStep) -> None:
        if isinstance(event, WorkStep):
            self.put(Event(event.title, event.step, fraction=event.fraction, folder=self.folder))
            return
        now, image = time.perf_counter(), None
        if self.every_s is not None and now - self.pictured >= self.every_s:
            self.pictured, image = now, to_pillow(look(event.run.system, event.run.inputs.views))
        self.put(
            Event(
                event.stage,
                step=event.step,
                total=event.total,
                fraction=event.step / event.total,
                losses=event.losses,
                eta_s=event.seconds_left,
                image=image,
                folder=self.folder,
            )
        )


def as_words(overrides: Mapping[str, Any]) -> list[str]:
    """Return options by their dotted keys as the command line takes them: key=value."""
    texts = (value if isinstance(value, str) else json.dumps(value, default=str) for value in overrides.values())
    return [f"{key}={text}" for key, text in zip(overrides, texts, strict=True)]


def image_overrides(image: Pictures, runs_dir: Path) -> dict[str, Any]:
    """Return the options that name an image, or several by label; pixels are written to a file in `runs_dir` first.

    Raises:
        InputError: pixels of a wrong shape or type.
    """
    if image is None:
        return {}
    if isinstance(image, Mapping):
        return {"images": {label: _file_of(one, runs_dir) for label, one in image.items()}}
    return {"image": _file_of(image, runs_dir)}


def _file_of(image: Picture, runs_dir: Path) -> str:
    if isinstance(image, str | Path):
        return str(image)
    picture = as_picture(image)
    digest = content_key({"mode": picture.mode, "size": picture.size, "pixels": picture.tobytes().hex()})
    path = runs_dir / INPUTS / f"{digest[:16]}.png"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            picture.save(temporary)
    return str(path)


def as_picture(image: Image.Image | NDArray[Any] | Tensor) -> Image.Image:
    """Return pixels as a Pillow image of 8 bits: RGB, or RGBA with alpha.

    Raises:
        InputError: an array that is not [H, W, 3 or 4] of uint8, or of floats in [0, 1].
    """
    if isinstance(image, Image.Image):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = image.detach().cpu() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if pixels.ndim != 3 or pixels.shape[-1] not in (3, 4):
        raise InputError(f"image: expected an array [height, width, 3 or 4], got {tuple(pixels.shape)}")
    if pixels.dtype == torch.uint8:
        pixels = pixels.float() / 255
    if not pixels.is_floating_point() or not ((pixels >= 0) & (pixels <= 1)).all():
        raise InputError("image: expected values of uint8, or floats from 0 to 1")
    return to_pillow(pixels)


def _last(events: Iterator[Event]) -> Result:
    for event in events:
        if event.result is not None:
            return event.result
    raise AssertionError("the last event has the result")
