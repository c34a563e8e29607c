"""A run: the stages of its system in order, with logs and checkpoints, then test and export."""

import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from liftstudio import __version__
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.checkpoints import Checkpoint, check_same_config, random_states, seed_everything, set_random_states
from liftstudio.core.config import ComponentSpec, to_plain
from liftstudio.core.devices import choose_devices, first_device
from liftstudio.core.errors import InputError
from liftstudio.core.events import StageStep, WorkStep, tell
from liftstudio.core.files import atomic_write, check_folder, clear_temporaries
from liftstudio.core.logs import RunLog, StageProgress, TensorBoardLog, WandbLog, WorkProgress, log
from liftstudio.core.memory import is_out_of_memory, memory_advice, memory_high_water_gb
from liftstudio.core.registry import find
from liftstudio.core.stopping import StopRequest
from liftstudio.core.weights import is_hub_name
from liftstudio.data.environment import read_environment
from liftstudio.data.mesh_io import SUFFIXES
from liftstudio.data.reference_views import ReferenceViews
from liftstudio.export.pipeline import export_mesh
from liftstudio.export.placement import reported_placement
from liftstudio.lights.environment import Environment, save_light
from liftstudio.priors.base import Prior
from liftstudio.priors.opening import prior_class
from liftstudio.run.config import RunConfig, deciding_options
from liftstudio.run.edits import Edit, read_edits, write_edits
from liftstudio.run.evaluation import (
    check_test,
    compare_exported,
    compare_renders,
    evaluate,
    load_judges,
    load_truth_of,
    save_turntable,
    turntable_cameras,
)
from liftstudio.run.folder import RunFolder, create_run_folder
from liftstudio.run.inputs import Inputs
from liftstudio.run.preview import save_preview
from liftstudio.run.snapshots import save_snapshot
from liftstudio.systems.base import System
from liftstudio.views.saving import save_views

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from liftstudio.run.truth import Truth


CLIPPED = 1.5  # irradiance from which much of a relit surface loses its shading
NO_VOLUME = "--preview: these views come with no volume; a prior that has one is asset://priors/objects"


class Interrupted(KeyboardInterrupt):
    """The run stopped on request at `where` (in words); its folder contains what is needed to resume it."""

    def __init__(self, where: str) -> None:
        super().__init__(f"stopped {where}")
        self.where = where


def make_fabric(device: str, gpus: list[int] | None) -> "Fabric":
    """Return a Lightning Fabric on the requested devices; with several devices it starts a process for each.

    Raises:
        InputError: see `choose_devices`.
    """
    accelerator, devices = choose_devices(device, gpus)
    with _known_by_version("torchmetrics"):
        from lightning_fabric import Fabric

    several = isinstance(devices, list) and len(devices) > 1
    fabric = Fabric(accelerator=accelerator, devices=devices, strategy="ddp" if several else "auto")
    fabric.launch()
    return fabric


@contextmanager
def _known_by_version(package: str) -> Iterator[None]:
    """Let modules that are imported inside ask for the version of an installed package without importing it.

    Lightning Fabric imports torchmetrics, and with it transformers, only to compare its version; that takes seconds.
    """
    if package in sys.modules:
        yield
        return
    named = ModuleType(package)
    named.__version__ = version(package)  # type: ignore[attr-defined]
    sys.modules[package] = named
    try:
        yield
    finally:
        del sys.modules[package]


def check_inputs(config: RunConfig, mode: str) -> None:
    """Check what can be told at once about the options and files of a run that begins later; nothing is downloaded.

    mode: of its job: "train", "views" or "preview".

    Raises:
        InputError: see `load_inputs`, `make_views` and `make_preview`; what files hold is mostly looked at only there.
    """
    _check_options(config)
    views = config.views if mode == "train" else _views_of(config, f"--{mode}")
    if views is not None:
        with views.naming():
            views.build(device=torch.device("cpu")).check()
    prior = _prior_of(views)
    if prior is not None and is_hub_name(prior.options.weights):
        return
    _check_system(config)
    if mode == "preview":
        _check_volume(views)


def load_inputs(config: RunConfig, gpus: list[int] | None) -> Inputs:
    """Check all external files of a run and return its inputs; called before processes for other devices are started.

    Raises:
        InputError: see `choose_devices`, `check_test`, `check_truth`, `check_folder`, `System.check`,
            `Inputs.load`.
    """
    device = first_device(config.device, gpus)
    _check_options(config)
    _check_system(config)
    with memory_advice(config, "views"):
        return Inputs.load(config.views, device)


def _check_options(config: RunConfig) -> None:
    check_test(config.test)
    check_truth(config)
    check_folder("runs_dir", output_path(config.runs_dir))


def _check_system(config: RunConfig) -> None:
    find(config.system.type, "system").check(config.system.options, has_volume=_prior_has_volume(config.views))


def check_truth(config: RunConfig) -> None:
    """Check that the ground truth, and the networks for the comparison with it, can be loaded.

    Raises:
        InputError: one of them is missing or invalid.
    """
    from liftstudio.metrics.flow import check_raft_size
    from liftstudio.metrics.novel_views import PIXELS

    truth = load_truth_of(config.truth, config.views)
    if truth is not None and truth.views is not None:
        load_judges(config.test, None, torch.device("cpu"))
        if config.test.raft_weights:
            side = min(truth.views.cameras.width, PIXELS)
            check_raft_size(side, side)


def noun_of(config: RunConfig) -> str | None:
    """Return what the object is called: prompt, text, the stem of the picture's file, or the truth's folder.

    The first of these names that contains letters counts (000 does not); None if there is none.
    """
    names = (config.prompt or config.text, Path(config.picture).stem, input_path(config.truth.views).name)
    return next((name for name in names if any(letter.isalpha() for letter in name)), None)


def make_folder(config: RunConfig, inputs: Inputs | None, command: str) -> RunFolder:
    """Create the folder of a run; inputs: None if the run is to load them itself."""
    runs_dir = output_path(config.runs_dir)
    folder = create_run_folder(runs_dir, config.name, config.tag, to_plain(config), inputs, command)
    if config.text:
        shutil.copytree(input_path(config.picture).parent, folder.made_inputs)
    log.info("run folder: %s", folder.path)
    return folder


def make_views(config: RunConfig, command: str, gpus: list[int] | None) -> RunFolder:
    """Create a run folder with the reference views and the preview only, from which `--resume` can continue.

    Raises:
        InputError: the config has no views, or see `load_inputs`.
    """
    _views_of(config, "--views")
    inputs = load_inputs(config, gpus)
    folder = make_folder(config, inputs, command)
    assert inputs.views is not None
    with folder.lock():
        save_views(folder.views, inputs.views)
        log.info("views: %s", folder.views)
        _preview(folder, inputs.views)
    return folder


def make_preview(config: RunConfig, command: str, gpus: list[int] | None) -> RunFolder:
    """Create a run folder with the preview only, from which `--resume` can continue.

    The views are not enhanced, which saves time, and not kept: `--resume` makes them anew.

    Raises:
        InputError: the config has no views, their prior has no volume, or see `load_inputs`.
    """
    views = _views_of(config, "--preview")
    _check_volume(views)
    plain = replace(views, options=replace(views.options, enhance=None))
    found = load_inputs(replace(config, views=plain), gpus).views
    assert found is not None
    if found.inside is None:
        raise InputError(NO_VOLUME)
    if not found.has_volume:
        raise InputError("--preview: the volume of the prior is empty; is the picture cut out well?")
    folder = make_folder(config, None, command)
    with folder.lock():
        _preview(folder, found)
    return folder


def _views_of(config: RunConfig, flag: str) -> ComponentSpec:
    if config.views is None:
        raise InputError(f"views: missing; {flag} needs a 'views:' block in the config")
    return config.views


def _check_volume(views: ComponentSpec | None) -> None:
    if not _prior_has_volume(views):
        raise InputError(NO_VOLUME)


def _prior_has_volume(views: ComponentSpec | None) -> bool:
    """Return whether the views come from a prior that says what is inside the object; it may find nothing there."""
    prior = _prior_of(views)
    return prior is not None and prior_class(prior).inside is not Prior.inside


def _prior_of(views: ComponentSpec | None) -> ComponentSpec | None:
    return getattr(views.options, "prior", None) if views is not None else None


def _preview(folder: RunFolder, views: ReferenceViews) -> None:
    """Write the preview, if the views have a volume."""
    if views.has_volume:
        save_preview(folder.path, views)
        log.info("preview: %s", folder.preview)
    elif views.inside is not None:
        log.warning("preview: none, since the volume of the prior is empty; is the picture cut out well?")


class Run:
    """A system with its run folder: fits the stages, tests, exports."""

    folder: RunFolder
    stage: str  # the current stage
    done: int  # number of its steps that are done
    stop: StopRequest  # while the stages are optimised

    def __init__(self, config: RunConfig, inputs: Inputs, fabric: "Fabric") -> None:
        """Build the system, which checks its input here, before the long work.

        Raises:
            InputError: the system or one of its parts rejects its options or the views.
        """
        self.config, self.inputs, self.fabric = config, inputs, fabric
        self.elapsed: dict[str, float] = {}  # stage -> wall seconds
        self.finishing: dict[str, float] = {}  # test_seconds, export_seconds
        self.saved: Checkpoint | None = None
        self.edits: list[Edit] = []  # in the order in which they were made
        seed_everything(config.seed)
        make_deterministic(fabric.device)
        with memory_advice(config, "system", side=self._side()):
            self.system: System = config.system.build(
                views=inputs.views, device=fabric.device, seed=config.seed, fabric=fabric
            )

    @classmethod
    def start(cls, config: RunConfig, command: str, gpus: list[int] | None) -> "Run":
        """Return a new run; its folder is created once all inputs have been checked."""
        run = cls(config, load_inputs(config, gpus), make_fabric(config.device, gpus))
        made: Any = make_folder(config, run.inputs, command) if run.fabric.is_global_zero else None
        run.folder = run.fabric.broadcast(made)
        return run

    @classmethod
    def reopen(
        cls, config: RunConfig, folder: RunFolder, command: str, gpus: list[int] | None, *, finished: bool
    ) -> "Run":
        """Return an existing run at its newest valid checkpoint, or at its beginning if it has none yet.

        The caller holds the lock of its folder.

        finished: the run is to be tested or exported as it is, which requires a checkpoint.

        Raises:
            InputError: options that determine the result were changed, or no checkpoint is usable.
        """
        choose_devices(config.device, gpus)
        check_test(config.test)
        saved, refused = folder.checkpoints.newest()
        for reason in refused:
            log.warning("%s; using the one before", reason)
        if saved is None and finished:
            raise InputError(f"{folder.path}: the run has no checkpoint yet; continue it with --resume")
        if saved is not None:
            check_same_config(saved.config, deciding_options(config), folder.path)
            if saved.versions != versions():
                log.warning("saved with %s, now %s: results may differ in the last digits", saved.versions, versions())
        inputs = Inputs.restore(folder.inputs) if folder.inputs.exists() else load_inputs(config, gpus)
        edits = read_edits(folder.edits)
        run = cls(config, inputs, make_fabric(config.device, gpus))
        run.folder, run.saved, run.elapsed = folder, saved, dict(saved.elapsed) if saved else {}
        run.edits = edits
        if run.fabric.is_global_zero:
            clear_temporaries(folder.path)
            folder.note_command(command)
        return run

    def fit(self) -> None:
        """Optimise all stages, from the start or from the checkpoint.

        Raises:
            Interrupted: on SIGINT or SIGTERM, after a checkpoint was written.
            InputError: a loss is not finite.
        """
        stages = list(self.system.stages)
        first = stages.index(self.saved.stage) if self.saved else 0
        before = self.saved.total_step if self.saved else 0
        self.log = self._open_log(before) if self.fabric.is_global_zero else None
        if self.fabric.is_global_zero:
            self._save_generated_views()
            self._note_elevation()
        try:
            with StopRequest() as self.stop:
                for stage in stages[first:]:
                    with memory_advice(self.config, f"system.stages.{stage}", side=self._side()):
                        self._fit_stage(stage)
                if self.stop.requested:  # while the last checkpoint was written
                    raise Interrupted("after the last stage")
        finally:
            if self.log is not None:
                self.log.close()
        self._note_metrics({})

    def _open_log(self, total_step: int) -> RunLog:
        options, others = self.config.log, list[TensorBoardLog | WandbLog]()
        if options.tensorboard:
            others.append(TensorBoardLog(self.folder.tensorboard, total_step))
        if options.wandb:
            others.append(WandbLog(options.wandb, self.folder.path))
        return RunLog(self.folder.log_csv, total_step, others)

    def _save_generated_views(self) -> None:
        """Write views and preview to the run folder if a prior generated them; the user's own views need no copy."""
        views = self.inputs.views
        if views is None:
            return
        is_generated = views.input_view is not None or bool(views.held_out.all())
        if is_generated and not (self.folder.views / "transforms.json").exists():
            save_views(self.folder.views, views)
        if not self.folder.preview.exists():
            _preview(self.folder, views)

    def _note_elevation(self) -> None:
        """Write the estimate of the input view's elevation to metrics.json, if there is one."""
        estimate = None if self.inputs.views is None else self.inputs.views.elevation_estimate
        if estimate is not None:
            elevation_deg, error_deg = estimate
            by_hand = f"views.elevation_deg={elevation_deg:g}"
            self._note_metrics(
                {"elevation": {"estimated_deg": elevation_deg, "expected_error_deg": error_deg, "by_hand": by_hand}}
            )

    def _fit_stage(self, stage: str) -> None:
        before, entered = self.elapsed.get(stage, 0.0), time.perf_counter()
        done, total = self._enter(stage), self.system.stages[stage]
        due = [edit for edit in sorted(self.edits, key=lambda edit: edit.step) if edit.stage == stage]
        due = self._repeat(due, done)
        with StageProgress(stage, done, total, quiet=not self.fabric.is_global_zero) as progress:
            while done < total:
                begin = time.perf_counter()
                losses = self._step(stage, done)
                self.done = done = done + 1
                now = time.perf_counter()
                self.elapsed[stage] = before + now - entered
                check_finite(losses, stage, done)
                progress.update(done, losses)
                stopping = (
                    self.fabric.broadcast(self.stop.requested) if self.fabric.world_size > 1 else self.stop.requested
                )
                self._record(stage, done, losses, now - begin, save=stopping)
                due = self._repeat(due, done)
                told = time.perf_counter()
                tell(StageStep(stage, done, total, losses, progress.seconds or 0.0, self))
                pause = time.perf_counter() - told  # of a listener that let the run wait; it is no time of the stage
                entered, progress.last = entered + pause, progress.last + pause
                if stopping:
                    raise Interrupted(f"at step {done} of stage {stage}")

    def _step(self, stage: str, done: int) -> dict[str, float]:
        """Do a step; if memory runs out, first write a checkpoint of the state before it."""
        try:
            return self.system.step(done)
        except Exception as error:
            if is_out_of_memory(error) and self.log is not None:
                traceback.clear_frames(error.__traceback__)  # they hold the memory
                self.save_checkpoint(stage, done)
                log.warning("out of memory at step %d of stage %s; the run can be resumed from there", done, stage)
            raise

    def _enter(self, stage: str) -> int:
        """Make `stage` the current one and return how many of its steps are done."""
        # A stage starts from the same random state whether or not the run was interrupted before it.
        seed_everything(self.config.seed + 1 + list(self.system.stages).index(stage))
        self.stage, self.done = stage, 0
        if self.saved is None or self.saved.stage != stage:
            self.system.enter(stage)
            return 0
        self.system.enter(stage, self.saved.system)
        set_random_states(self.saved.random)
        self.done = self.saved.step
        return self.done

    def _repeat(self, edits: list[Edit], done: int) -> list[Edit]:
        """Make the changes of an earlier life of the run that are due after `done` steps; return those to come."""
        for edit in edits:
            if edit.step <= done:
                try:
                    self.system.change(edit.option, edit.schedule, edit.step)
                except InputError as error:
                    raise InputError(f"{self.folder.edits}: {edit}: {error}") from None
        return [edit for edit in edits if edit.step > done]

    def edit(self, option: str, value: object) -> None:
        """Change an option of the current stage from its next step on, in a way that a resume repeats.

        Args:
            option: one of `System.schedules`.
            value: a schedule as in a config.

        Raises:
            InputError: no such option, no schedule, or see `System.change`.
        """
        edit = Edit(self.stage, self.done, option, value)
        self.system.change(option, edit.schedule, self.done)
        self.edits.append(edit)
        write_edits(self.folder.edits, self.edits)
        log.info("%s", edit)

    def _record(self, stage: str, done: int, losses: dict[str, float], seconds: float, *, save: bool) -> None:
        if self.log is None:
            return
        options, last = self.config.log, done == self.system.stages[stage]
        if done % options.every == 0 or last:
            values = {**losses, "seconds_per_step": round(seconds, 4), **memory_high_water_gb()}
            self.log.write(stage, done, self._total_step(stage, done), values)
        if options.images_every and (done % options.images_every == 0 or last):
            self.snapshot(stage, done)
        if save or last or done % self.config.checkpoint.every == 0:
            self.save_checkpoint(stage, done)

    def save_checkpoint(self, stage: str, done: int) -> None:
        """Write a checkpoint after `done` steps of `stage`."""
        self.folder.checkpoints.save(
            Checkpoint(
                stage=stage,
                step=done,
                total_step=self._total_step(stage, done),
                system=self.system.state(),
                config=deciding_options(self.config),
                elapsed=self.elapsed,
                random=random_states(),
                versions=versions(),
            )
        )

    def snapshot(self, stage: str, done: int) -> None:
        """Write an image grid of the scene to images/<stage>/."""
        save_snapshot(self.folder.images(stage) / f"{done:06d}.png", self.system, self.inputs.views)

    def restore(self) -> None:
        """Load the checkpoint into the system, for a test or an export without fitting."""
        assert self.saved is not None
        self._enter(self.saved.stage)

    def validate(self) -> None:
        """Write an image grid of the checkpoint."""
        assert self.saved is not None
        self.snapshot(self.saved.stage, self.saved.step)
        log.info("validate: %s", self.folder.images(self.saved.stage))

    def test(self) -> None:
        """Write turntable, stills, contact sheet and metrics to test/ and metrics.json."""
        with self._finish("test"):
            metrics = evaluate(self.system, self.inputs.views, self.folder.test, self.config.test)
            truth = self._truth()
            if truth is not None and truth.views is not None:
                noun = noun_of(self.config)
                compared = compare_renders(self.system, truth.views, self.config.test, noun, self.fabric.device)
                self._note_metrics({"novel_views": compared})
        self._note_metrics({"test": metrics})
        log.info("test: %s, %s", self.folder.test, self.folder.metrics)

    def _truth(self) -> "Truth | None":
        """Return the ground truth that the config gives; None, with a warning, if it cannot be read any more."""
        try:
            return load_truth_of(self.config.truth, self.config.views)
        except InputError as error:
            log.warning("truth: %s; the result is not compared", error)
            return None

    def export(self) -> None:
        """Write mesh files and the fitted light to export/, and their report to metrics.json."""
        with self._finish("export"), WorkProgress("export") as progress:
            surface = self.system.surface()
            light = save_light(self.folder.export, self.system.light)
            report = export_mesh(
                surface.mesh,
                surface.albedo,
                self.folder.export,
                self.config.export,
                shaded=surface.shaded,
                progress=progress,
            )
        self._note_metrics({"export": report})
        files = [self.folder.export / name for name in report["files"]]
        log.info("export: %s", ", ".join(map(str, files + light)))
        self._measure(report)

    def relight(self, file: Path, exposure: float) -> None:
        """Write a turntable under an environment map to relit/<its name>.mp4; exposure: brighten the map by 2^exposure.

        Raises:
            InputError: the map is not readable, or the system has no light.
        """
        light = Environment(read_environment(file) * 2.0**exposure)
        if light.brightest > CLIPPED:
            advice = exposure - math.ceil(math.log2(light.brightest))
            log.warning("--light: up to %.1f times too bright; try --exposure=%g", light.brightest, advice)
        self.system.relight(light)
        video = self.folder.relit / f"{file.stem}.mp4"
        save_turntable(video, self.system, turntable_cameras(self.inputs.views, self.config.test), self.config.test)
        log.info("relight: %s", video)

    def _measure(self, report: dict[str, Any]) -> None:
        """Compare the exported mesh with the true surface, where it is known."""
        truth, surface = self._truth(), self.inputs.truth_mesh
        if surface is None and (truth is None or truth.mesh is None):
            return
        name = next((name for name in self.config.export.formats if f".{name}" in SUFFIXES), None)
        if name is None:
            log.warning("truth: only %s files can be read back; the mesh is not compared", ", ".join(SUFFIXES))
            return
        exported, placement = self.folder.export / f"mesh.{name}", reported_placement(report, name)
        if truth is not None and truth.mesh is not None:
            self._note_metrics({"mesh": compare_exported(exported, truth, placement)})
        elif surface is not None and surface.is_file():
            from liftstudio.data.mesh_io import read_mesh
            from liftstudio.run.truth import truth_of_capture

            truth = truth_of_capture(read_mesh(surface, torch.float64), self.inputs.data_from_world)
            self._note_metrics({"mesh": compare_exported(exported, truth, placement)})
        elif surface is not None:
            log.warning("%s: the true surface does not exist any more; the mesh is not compared", surface)

    @contextmanager
    def _finish(self, phase: str) -> Iterator[None]:
        """Time a phase after the stages, and add advice to its out-of-memory errors."""
        begin = time.perf_counter()
        tell(WorkStep(phase, "", 0.0))
        stage = f"system.stages.{self.stage}"
        with memory_advice(self.config, phase, f"{stage}.geometry" if phase == "export" else f"{stage}.renderer"):
            yield
        self.finishing[f"{phase}_seconds"] = round(time.perf_counter() - begin, 3)

    def _side(self) -> int:
        """Return the pixels along the longer side of the reference views; 0 if there are none."""
        views = self.inputs.views
        return 0 if views is None else max(views.cameras.height, views.cameras.width)

    def _total_step(self, stage: str, done: int) -> int:
        names = list(self.system.stages)
        return sum(self.system.stages[name] for name in names[: names.index(stage)]) + done

    def _summary(self) -> dict[str, Any]:
        stages = {
            name: {"steps": steps, "seconds": round(self.elapsed.get(name, 0.0), 3)}
            for name, steps in self.system.stages.items()
        }
        machine = {"device": str(self.fabric.device), "versions": versions(), **memory_high_water_gb()}
        return {"stages": stages, **self.finishing, **machine}

    def _note_metrics(self, part: dict[str, Any]) -> None:
        """Merge `part` into metrics.json and update the run's own figures there."""
        path = self.folder.metrics
        known = json.loads(path.read_text()) if path.exists() else {}
        run = {**known.get("run", {}), **self._summary()}
        atomic_write(path, json.dumps({**known, "run": run, **part}, indent=2) + "\n")


def make_deterministic(device: torch.device) -> None:
    """On the CPU, avoid the few torch kernels whose sums depend on the order of threads."""
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a slow debugging aid


def check_finite(losses: dict[str, float], stage: str, step: int) -> None:
    """Check that all losses are finite.

    Raises:
        InputError: a loss is not; names the stage, the step and the losses.
    """
    bad = [name for name, value in losses.items() if value - value != 0]  # true for NaN and infinities
    if bad:
        raise InputError(
            f"stage {stage}, step {step}: {', '.join(bad)} not finite; the last checkpoint is kept; "
            f"lower system.stages.{stage}.optimizer.lr, or the weights of the losses in system.stages.{stage}"
        )


def versions() -> dict[str, str]:
    """Return the versions, and the number of threads, on which the exact result depends."""
    return {"liftstudio": __version__, "torch": str(torch.__version__), "threads": str(torch.get_num_threads())}
