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
from liftstudio.core.logs import RunLog, StageProgress, log
from liftstudio.core.stopping import StopRequest
from liftstudio.data.images import save_image
from liftstudio.priors.precision import compute_dtype
from liftstudio.training.captures import Captures
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import ProceduralObjects, SampleSource, TrainingBatches
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.training.optimizers import make_optimizers, rate, set_rate
from liftstudio.training.rigs import counts
from liftstudio.training.task import PriorTask

for library in ("pytorch_lightning", "lightning_fabric"):
    logging.getLogger(library).setLevel(logging.ERROR)  # no advice, no lists of devices and processes

CHECKPOINT = "checkpoint.pt"
HORIZON = 10  # steps that the average of the weights looks back at first; then a tenth of all steps so far
PROGRESS_SECONDS = 30.0  # between progress lines where there is no terminal


class Stopped(KeyboardInterrupt):
    """Training stopped on request; its folder holds what it needs to go on."""


class Training(lightning.LightningModule):
    """Steps of a task's network, with averaged weights, a budget in steps or minutes, and sample sheets."""

    def __init__(self, config: TrainingConfig, task: PriorTask, source: SampleSource, folder: Path) -> None:
        super().__init__()
        self.config, self.task, self.source, self.folder = config, task, source, folder
        self.automatic_optimization = False
        self.network = task.network
        self.averaged = AveragedModel(task.network, multi_avg_fn=self._average)
        self.averaged.requires_grad_(False)
        self.optimizer_states: list[Any] = []  # of the checkpoint
        self.seconds = 0.0  # of training before this session
        self.begun = time.perf_counter()
        self.stop = StopRequest()

    def _average(self, old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
        keep = min(self.config.average, (1 + int(count)) / (HORIZON + int(count)))
        torch._foreach_lerp_(list(old), list(new), 1 - keep)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """See `make_optimizers`."""
        return make_optimizers(self.network.named_parameters(), self.config.optimizer)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The batches that are left, every process its own."""
        config, task = self.config, self.task
        batches = TrainingBatches(self.source, config.data.rig, config.batch_size, task.extra_views, task.prepare)
        first, last = (config.first_batch + steps * config.devices for steps in (self.steps_done, config.steps))
        numbers = range(first + self.global_rank, last, config.devices)
        return DataLoader(
            Subset(batches, numbers), batch_size=None, num_workers=config.workers, worker_init_fn=_start_worker
        )

    @property
    def progress(self) -> float:
        """Share of the budget that is used up, in [0, 1]."""
        by_steps = self.steps_done / self.config.steps
        by_time = self.spent / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def spent(self) -> float:
        """Seconds of training, over all sessions."""
        return self.seconds + time.perf_counter() - self.begun

    def _steps_in_reach(self, done: int) -> int:
        """At which step the budget ends, at the present pace."""
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
        """Lightning's wrappers of those that `configure_optimizers` made."""
        made: Any = self.optimizers()  # a single one is not in a list
        return made if isinstance(made, list) else [made]

    def on_train_start(self) -> None:
        """Optimisers exist only now, and only now are Lightning's own signal handlers set and can be replaced."""
        for optimizer, state in zip(self._optimizers, self.optimizer_states, strict=False):
            optimizer.optimizer.load_state_dict(state)
        self.begun = time.perf_counter()
        self.stop.__enter__()
        if self.trainer.is_global_zero:
            self.run_log = RunLog(self.folder / "log.csv", self.folder / "tb", self.steps_done)
            self.shown = StageProgress("train", self.steps_done, self.config.steps, every=PROGRESS_SECONDS)
            self.shown.__enter__()

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        """One update of network and averaged weights; a batch that is not finite is passed over."""
        # By time every process has its own progress, and a signal may have reached one of them: the first decides.
        progress, is_stopping = self.trainer.strategy.broadcast((self.progress, self.stop.requested))
        losses = self.task.losses(batch)
        factor = rate(self.steps_done, progress, self.config.optimizer)
        norm = self._update(torch.stack(list(losses.values())).sum(), factor)
        self.trainer.should_stop = is_stopping or progress >= 1
        if self.trainer.is_global_zero:
            values = {name: loss.item() for name, loss in losses.items()}
            self._report(values, {"rate": factor, "norm": norm, "progress": progress})

    def _update(self, loss: Tensor, factor: float) -> float:
        """One step down the gradient, with step sizes times `factor`; returns the gradient's norm before clipping."""
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
        """Show, log, save and measure what is due after a step."""
        done = self.steps_done
        self.shown.total = self._steps_in_reach(done)
        self.shown.update(done, losses)
        if done % self.config.log_every == 0:
            self.run_log.write("train", done, done, {**losses, **more})
        if self.trainer.should_stop or done == self.config.steps:
            return  # what is due now comes at the end
        if done % self.config.save_every == 0:
            self.save()
        if done % self.config.evaluate_every == 0:
            self.evaluate()

    def on_train_end(self) -> None:
        """The last checkpoint; if nobody asked to stop, the last figures as well."""
        if self.trainer.is_global_zero:
            if not self.stop.requested:
                self.evaluate()
            self.save()
            self.shown.__exit__()
            self.run_log.close()
        self.stop.__exit__()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Figures to the log, a sheet to sheets/, the averaged weights to the folder."""
        done = self.steps_done
        self.task.save(self.averaged.module, self.folder / self.task.weights_name)
        samples = [self.source.unseen(number) for number in range(self.config.evaluated)]
        found = self.task.evaluate(self.averaged.module, samples)
        save_image(self.folder / "sheets" / f"{done:07d}.png", found.sheet)
        figures = "  ".join(f"{name} {value:.3f}" for name, value in found.figures.items())
        log.info("unseen objects after %d steps, %.0f %% of the budget: %s", done, 100 * self.progress, figures)
        self.run_log.write("unseen", done, done, found.figures)

    def save(self) -> None:
        """Write what `restore` needs to go on."""
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.optimizer.state_dict() for optimizer in self._optimizers],
            "seconds": self.spent,
        }
        write_verified(self.folder / CHECKPOINT, state)

    def restore(self) -> None:
        """Go on from what `save` wrote.

        Raises:
            InputError: the file is torn, or of another network.
        """
        state = read_verified(self.folder / CHECKPOINT)
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
        except (RuntimeError, KeyError):
            problem = "holds another network than the config describes; use another name"
            raise InputError(f"{self.folder / CHECKPOINT}: {problem}") from None
        self.seconds, self.optimizer_states = state["seconds"], state["optimizers"]


def train(config: TrainingConfig, folder: Path) -> None:
    """Train into `folder`, from the beginning or from where it stopped.

    Written are config.yaml, checkpoint.pt, log.csv, tb/, sheets/, and the averaged weights as `PriorTask.save` does.

    Raises:
        InputError: options, captures, meshes or initial weights are wrong.
        Stopped: on SIGINT or SIGTERM.
    """
    accelerator = _accelerator(config.devices)
    training = _prepare(config, folder, torch.device(accelerator))
    if training.progress >= 1:
        log.info("%s: trained for %d steps; raise steps or minutes to go on", folder, training.steps_done)
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
    except SystemExit:  # what Lightning makes of a KeyboardInterrupt
        raise Stopped("stopped at once; the same command goes on from the last checkpoint") from None
    if trainer.is_global_zero:
        if training.stop.requested:
            raise Stopped(f"stopped after {training.steps_done} steps; the same command goes on from there")
        log.info("trained: %s", folder / training.task.weights_name)


def _prepare(config: TrainingConfig, folder: Path, device: torch.device) -> Training:
    """Network and data, at the checkpoint if there is one."""
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
    """Where the samples of a config come from."""
    if config.data.captures:
        return Captures(config.data, counts(config.data.rig)[1] + extra_views + 1)
    return MeshObjects(config.data) if config.data.objects else ProceduralObjects(config.data)


def _accelerator(devices: int) -> str:
    """What to train on: all of CUDA that is asked for, else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    if devices > torch.cuda.device_count():
        raise InputError(f"devices: this machine has {torch.cuda.device_count()} CUDA devices, got {devices}")
    return "cuda"


def _strategy(devices: int, task: PriorTask) -> str:
    """Lightning's name of how the devices work together."""
    several = "ddp_find_unused_parameters_true" if task.has_phases else "ddp"
    return several if devices > 1 else "auto"


def _start_worker(_: int) -> None:
    """One thread each; a signal to all processes is the trainer's to answer."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
