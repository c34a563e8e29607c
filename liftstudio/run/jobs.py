"""Jobs: all that can be asked of a run, by whatever interface. A bad config does not wait for the import of torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from liftstudio.core.logs import log
from liftstudio.run.config import RunConfig, load_run_config
from liftstudio.run.made_inputs import with_made_inputs

if TYPE_CHECKING:
    from liftstudio.run.folder import RunFolder
    from liftstudio.run.run import Run

Mode = Literal["train", "preview", "views", "resume", "validate", "test", "export", "relight"]
NEW_RUN = ("train", "preview", "views")  # modes that start from any config; the others need a run


@dataclass(frozen=True)
class Job:
    """One of the modes, for one config.

    config:    a config file; for the modes that need a run, its folder or the config.yaml there.
    overrides: key=value, see `load_run_config`.
    gpus:      CUDA devices to use; None: those of the config.
    command:   how the job can be repeated, noted in the run folder.
    light:     environment map of "relight", Radiance HDR. exposure: the map is brightened by so many stops.
    """

    mode: Mode
    config: Path
    overrides: tuple[str, ...] = ()
    gpus: tuple[int, ...] | None = None
    command: str = ""
    light: Path | None = None
    exposure: float = 0.0


def run_job(job: Job, on_folder: Callable[["RunFolder"], None] = lambda folder: None) -> "RunFolder":
    """Do a job and return its run folder.

    on_folder: called with the run folder as soon as there is one, and the job is to change it.

    Raises:
        InputError: see `load_run_config`, `with_made_inputs`, `existing_run_folder`, `Run.start` and `Run.reopen`.
        KeyboardInterrupt: the job was stopped; `Interrupted` if a checkpoint was written then.
    """
    folder = None if job.mode in NEW_RUN else _reopened(job.config)
    overrides, gpus = list(job.overrides), _as_list(job.gpus)
    if folder is None:
        overrides = with_made_inputs(job.config, overrides, gpus)
    config = load_run_config(folder.config if folder else job.config, overrides)
    _warn_of_repeated(job.overrides)
    if folder is not None:
        return _work_on(folder, config, job, on_folder)

    from liftstudio.run.run import Run, make_preview, make_views  # slow to import, so a bad config is reported first

    if job.mode != "train":
        make = make_views if job.mode == "views" else make_preview
        folder = make(config, job.command, gpus)
        on_folder(folder)
        return folder
    run = Run.start(config, job.command, gpus)
    with run.folder.lock():
        on_folder(run.folder)
        _steps(run, job)
    return run.folder


def _work_on(folder: "RunFolder", config: RunConfig, job: Job, on_folder: Callable[["RunFolder"], None]) -> "RunFolder":
    from liftstudio.run.run import Run

    with folder.lock():
        run = Run.reopen(config, folder, job.command, _as_list(job.gpus), finished=job.mode != "resume")
        on_folder(folder)  # now that it is not refused
        _steps(run, job)
    return folder


def _warn_of_repeated(overrides: tuple[str, ...]) -> None:
    last = {override.partition("=")[0]: override for override in overrides}
    for override in overrides:
        if override != (kept := last[override.partition("=")[0]]):
            log.warning("%s has no effect, since %s comes after it", override, kept)


def _as_list(gpus: tuple[int, ...] | None) -> list[int] | None:
    return None if gpus is None else list(gpus)


def _reopened(config: Path) -> "RunFolder":
    from liftstudio.run.folder import existing_run_folder

    return existing_run_folder(config)


def _steps(run: "Run", job: Job) -> None:
    mode = job.mode
    if mode in ("train", "resume"):
        run.fit()
    else:
        run.restore()
    if not run.fabric.is_global_zero:
        return
    if mode == "validate":
        run.validate()
    if mode in ("train", "resume", "test"):
        run.test()
    if mode in ("train", "resume", "export"):
        run.export()
    if mode == "relight":
        assert job.light is not None, "a job to relight names the light"
        run.relight(job.light, job.exposure)
