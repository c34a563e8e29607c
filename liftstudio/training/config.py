"""Everything a training config may say."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from liftstudio.core.config import ComponentSpec
from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range, UnitFloat
from liftstudio.training.data import DataConfig
from liftstudio.training.optimizers import OptimizerConfig


@dataclass
class TrainingConfig:
    """Everything a training config may say."""

    task: Annotated[ComponentSpec, "prior-task"]  # network and loss
    data: DataConfig = field(default_factory=DataConfig)  # objects and cameras
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # step sizes
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # of the network's work; auto: the faster one here
    name: str = ""  # the run's folder in `runs_dir`; empty: the config file's name
    runs_dir: str = "runs/priors"  # where run folders are made
    start_from: str = ""  # weight file to go on from; empty: random weights
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0  # of the random weights
    first_batch: NonNegativeInt = 0  # number of the first batch; after `start_from`, the next one that was not seen
    batch_size: PositiveInt = 4  # objects per step and device
    steps: PositiveInt = 20000  # the budget
    minutes: NonNegativeFloat = 0.0  # the budget in wall time, over all sessions, if it ends before `steps`; 0: none
    average: UnitFloat = 0.999  # share of the averaged weights that a step keeps
    workers: NonNegativeInt = 1  # processes that make batches
    devices: PositiveInt = 1  # GPUs, or without one processes, that train together
    log_every: PositiveInt = 20  # steps between rows of the log
    save_every: PositiveInt = 200  # steps between checkpoints
    evaluate_every: PositiveInt = 500  # steps between figures, sheets and weight files
    evaluated: PositiveInt = 8  # unseen objects that are measured
