"""One training loop for all priors, on Lightning's Trainer."""

import logging
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Subset

from liftstudio.core.checkpoints import read_verified, seed_everything, write_verified
from liftstudio.core.config import to_plain, write_config
from liftstudio.core.errors import InputError
from liftstudio.core.files import atomic_write
from liftstudio.core.locking import exclusive
from liftstudio.core.logs import RunLog, StageProgress, TensorBoardLog, log
from liftstudio.core.stopping import StopRequest
from liftstudio.data.images import save_image
from liftstudio.priors.precision import compute_dtype
from liftstudio.training.captures import Captures
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import Pool, ProceduralObjects, SampleSource, TrainingBatches
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.training.optimizers import make_optimizers, rate, set_rate
from liftstudio.training.rigs import counts
from liftstudio.training.task import PriorTask

for library in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(library).setLevel(logging.ERROR)  # hide its tips and its lists of devices

CHECKPOINT = "checkpoint.pt"
HORIZON = 10  # the weight average starts with the decay (1 + n) / (HORIZON + n) at step n, until `average` is reached
PROGRESS_SECONDS = 30.0  # between progress lines when not on a terminal


class Stopped(KeyboardInterrupt):
    """Training stopped on request; its folder holds what is needed to resume."""


class Training(lightning.LightningModule):
    """Lightning module that trains a task's network: weight averaging, budget in steps or minutes, sample sheets."""

    def __init__(self, config: TrainingConfig, task: PriorTask, source: SampleSource, folder: Path) -> None:
        super().__init__()
        self.config, self.task, self.source, self.folder = config, task, source, folder
        self.automatic_optimization = False
        self.network = task.network
        self.averaged = AveragedModel(task.network, multi_avg_fn=self._average)
        self.averaged.requires_grad_(False)
        self.optimizer_states: list[Any] = []  # from the checkpoint
        self.seconds = 0.0  # training time before this session
        self.begun = time.perf_counter()
        self.stop = StopRequest()

    def _average(self, old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(self.config.average, (1 + int(count)) / (HORIZON + int(count)))
        torch._foreach_lerp_(list(old), list(new), 1 - keep)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """See `make_optimizers`."""
        return make_optimizers(self.network.named_parameters(), self.config.optimizer)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return the remaining batches of this process."""
        config, task = self.config, self.task
        batches = TrainingBatches(self.source, config.data.rig, config.batch_size, task.extra_views, task.prepare)
        first, last = (config.first_batch + steps * config.devices for steps in (self.steps_done, config.steps))
        numbers = range(first + self.global_rank, last, config.devices)
        return DataLoader(
            Subset(batches, numbers), batch_size=None, num_workers=config.workers, worker_init_fn=_start_worker
        )

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        by_steps = self.steps_done / self.config.steps
        by_time = self.spent / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def spent(self) -> float:
        """Training time in seconds, over all sessions."""
        return self.seconds + time.perf_counter() - self.begun

    def _steps_in_reach(self, done: int) -> int:
        """Return the step at which the budget ends, at the current pace."""
        steps, pace = self.config.steps, self.shown.seconds
        if not (self.config.minutes and pace):
            return steps
        return min(steps, done + round(max(60 * self.config.minutes - self.spent, 0) / pace))

    @property
    def steps_done(self) -> int:
        """Training steps so far, over all sessions."""
        return int(self.averaged.n_averaged)

    @property
    def _optimizers(self) -> list[Any]:
        """Lightning's wrappers around the optimisers of `configure_optimizers`."""
        made: Any = self.optimizers()  # a single optimiser is not in a list
        return made if isinstance(made, list) else [made]

    def on_train_start(self) -> None:
        """Restore optimiser states and replace Lightning's signal handlers: neither exists earlier."""
        for optimizer, state in zip(self._optimizers, self.optimizer_states, strict=False):
            optimizer.optimizer.load_state_dict(state)
        self.begun = time.perf_counter()
        self.stop.__enter__()
        if self.trainer.is_global_zero:
            self.run_log = RunLog(
                self.folder / "log.csv", self.steps_done, [TensorBoardLog(self.folder / "tb", self.steps_done)]
            )
            self.shown = StageProgress("train", self.steps_done, self.config.steps, every=PROGRESS_SECONDS)
            self.shown.__enter__()

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        """Update the network and the averaged weights; skip batches whose gradient is not finite."""
        # With a time budget, progress differs by process, and a signal may reach only one of them: rank 0 decides.
        progress, is_stopping = self.trainer.strategy.broadcast((self.progress, self.stop.requested))
        losses = self.task.losses(batch)
        factor = rate(self.steps_done, progress, self.config.optimizer)
        norm = self._update(torch.stack(list(losses.values())).sum(), factor)
        self.trainer.should_stop = is_stopping or progress >= 1
        if self.trainer.is_global_zero:
            values = {name: loss.item() for name, loss in losses.items()}
            self._report(values, {"rate": factor, "norm": norm, "progress": progress})

    def _update(self, loss: Tensor, factor: float) -> float:
        """Take one optimiser step with learning rates scaled by `factor`; return the gradient norm before clipping."""
        options = self.config.optimizer
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), options.clip))
        if math.isfinite(norm):
            for optimizer in self._optimizers:
                set_rate(optimizer.optimizer, factor, options)
                optimizer.step()
        self.averaged.update_parameters(self.network)
        return norm

    def _report(self, losses: dict[str, float], more: dict[str, float]) -> None:
        """Update progress; log, save and evaluate if due after this step."""
        done = self.steps_done
        self.shown.total = self._steps_in_reach(done)
        self.shown.update(done, losses)
        if done % self.config.log_every == 0:
            self.run_log.write("train", done, done, {**losses, **more})
        if self.trainer.should_stop or done == self.config.steps:
            return  # `on_train_end` saves and evaluates
        if done % self.config.save_every == 0:
            self.save()
        if done % self.config.evaluate_every == 0:
            self.evaluate()

    def on_train_end(self) -> None:
        """Write the final checkpoint; evaluate first, unless training was interrupted."""
        if self.trainer.is_global_zero:
            if not self.stop.requested:
                self.evaluate()
            self.save()
            self.shown.__exit__()
            self.run_log.close()
        self.stop.__exit__()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Write metrics to the log, a sheet to sheets/ and the averaged weights to the run folder."""
        done = self.steps_done
        self.task.save(self.averaged.module, self.folder / self.task.weights_name)
        samples = [self.source.unseen(number) for number in range(self.config.evaluated)]
        found = self.task.evaluate(self.averaged.module, samples)
        save_image(self.folder / "sheets" / f"{done:07d}.png", found.sheet)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in found.metrics.items())
        log.info("unseen objects after %d steps, %.0f %% of the budget: %s", done, 100 * self.progress, figures)
        self.run_log.write("unseen", done, done, found.metrics)

    def save(self) -> None:
        """Write a checkpoint for `restore`."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.optimizer.state_dict() for optimizer in self._optimizers],
            "seconds": self.spent,
        }
        write_verified(self.folder / CHECKPOINT, state)

    def restore(self) -> None:
        """Load the checkpoint that `save` wrote.

        Raises:
            InputError: the file is corrupt, or belongs to another network.
        """
        state = read_verified(self.folder / CHECKPOINT)
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
        except (RuntimeError, KeyError):
            problem = "holds a different network from the one in the config; use another name"
            raise InputError(f"{self.folder / CHECKPOINT}: {problem}") from None
        self.seconds, self.optimizer_states = state["seconds"], state["optimizers"]


def train(config: TrainingConfig, folder: Path) -> None:
    """Train in `folder`, from the start or from its checkpoint.

    Writes config.yaml, checkpoint.pt, log.csv, tb/, sheets/, and the averaged weights (`PriorTask.save`).

    Raises:
        InputError: options, captures, meshes or initial weights are invalid, or another process trains in `folder`.
        Stopped: on SIGINT or SIGTERM.
    """
    with exclusive(folder):
        _train(config, folder)


def _train(config: TrainingConfig, folder: Path) -> None:
    accelerator = _accelerator(config.devices)
    training = _prepare(config, folder, torch.device(accelerator))
    if training.progress >= 1:
        log.info("%s: trained for %d steps; raise steps or minutes to continue", folder, training.steps_done)
        return
    trainer = lightning.Trainer(
        accelerator=accelerator,
        devices=config.devices,
        strategy=_strategy(config.devices, training.task),
        default_root_dir=folder,
        use_distributed_sampler=False,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    if trainer.is_global_zero:
        atomic_write(folder / "config.yaml", write_config(to_plain(config)))
        log.info("training: %s, on %s", folder, accelerator)
    try:
        trainer.fit(training)
    except SystemExit:  # Lightning turns a KeyboardInterrupt into this
        raise Stopped("stopped at once; the same command resumes from the last checkpoint") from None
    if trainer.is_global_zero:
        if training.stop.requested:
            raise Stopped(f"stopped after {training.steps_done} steps; the same command resumes from there")
        log.info("trained: %s", folder / training.task.weights_name)


def _prepare(config: TrainingConfig, folder: Path, device: torch.device) -> Training:
    """Build network and data, and restore the checkpoint if there is one."""
    seed_everything(config.seed)
    task: PriorTask = config.task.build(config.data, compute_dtype(config.precision, device))
    is_resumed = (folder / CHECKPOINT).exists()
    if config.start_from and not is_resumed:
        task.load(config.start_from)
    training = Training(config, task, open_source(config, task.extra_views), folder)
    if is_resumed:
        training.restore()
    return training


def open_source(config: TrainingConfig, extra_views: int) -> SampleSource:
    """Return the source of samples that a config selects."""
    data = config.data
    if data.captures:
        return Captures(data, counts(data.rig)[1] + extra_views + 1)
    source = MeshObjects(data) if data.objects else ProceduralObjects(data)
    return Pool(source, data.pool) if data.pool else source


def _accelerator(devices: int) -> str:
    """Return "cuda" where CUDA is available, else "cpu".

    Raises:
        InputError: CUDA is available, but with fewer devices.
    """
    if not torch.cuda.is_available():
        return "cpu"
    if devices > torch.cuda.device_count():
        raise InputError(f"devices: this machine has {torch.cuda.device_count()} CUDA devices, got {devices}")
    return "cuda"


def _strategy(devices: int, task: PriorTask) -> str:
    """Return the name of Lightning's strategy for this number of devices."""
    several = "ddp_find_unused_parameters_true" if task.has_phases else "ddp"
    return several if devices > 1 else "auto"


def _start_worker(_: int) -> None:
    """Use one thread, and leave signals to the trainer process."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
