"""The options of a training config."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from liftstudio.core.config import ComponentSpec
from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, UnitFloat
from liftstudio.training.data import DataConfig
from liftstudio.training.optimizers import OptimizerConfig


@dataclass
class TrainingConfig:
    """The options of a training config."""

    task: Annotated[ComponentSpec, "prior-task"]  # network and loss
    data: DataConfig = field(default_factory=DataConfig)  # objects and cameras
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # learning rates
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the computation; auto: the faster one here
    name: str = ""  # the run's folder in `runs_dir`; empty: the config file's name
    runs_dir: str = "runs/priors"  # where run folders are made
    start_from: str = ""  # weight file to start from; empty: random weights
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0  # of the random initial weights
    first_batch: NonNegativeInt = 0  # index of the first batch; with `start_from`, the first one not seen yet
    batch_size: PositiveInt = 4  # objects per step and device
    steps: PositiveInt = 20000  # budget in optimiser steps
    minutes: NonNegativeFloat = 0.0  # wall-time budget over all sessions, if spent before `steps`; 0: none
    average: UnitFloat = 0.999  # decay of the moving average of the weights, per step
    workers: NonNegativeInt = 1  # processes that prepare batches
    devices: PositiveInt = 1  # GPUs, or processes if there is no GPU, that train together
    log_every: PositiveInt = 20  # steps between rows of the log
    save_every: PositiveInt = 200  # steps between checkpoints
    evaluate_every: PositiveInt = 500  # steps between evaluations; each writes metrics, a sheet and weights
    evaluated: PositiveInt = 8  # number of unseen objects in an evaluation
