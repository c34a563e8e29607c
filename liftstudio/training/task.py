"""The part of training that is specific to one prior."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from liftstudio.core.registry import Component
from liftstudio.training.data import DataConfig, Sample


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation. metrics: values by name, for the log. sheet: [H, W, 3] contact sheet in [0, 1]."""

    metrics: dict[str, float]
    sheet: Tensor


class PriorTask(Component):
    """A network, its inputs and its losses; all tasks share one loop (`training.loop`)."""

    kind: ClassVar[str] = "prior-task"

    weights_name: ClassVar[str] = "weights.safetensors"  # file or folder that `save` writes, in the run folder
    network: nn.Module
    extra_views: int = 0  # views of a sample in addition to the rig's `views`
    has_phases: bool = False  # whether some steps train only a part of the network

    @abstractmethod
    def __init__(self, config: "PriorTask.Config", data: DataConfig, dtype: torch.dtype) -> None:
        """Build the network with random weights, in float32 on the CPU; draws from torch's global generator.

        dtype: what the network computes in where precision allows; its weights stay float32.

        Raises:
            InputError: options contradict each other or those of the data.
        """

    @abstractmethod
    def load(self, weights: str) -> None:
        """Load a weight file of this prior, to train on from it.

        Raises:
            InputError: the file is missing, or belongs to another prior or network size.
        """

    @abstractmethod
    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """Return a batch, made in a worker process: all inputs of `losses`, noise included.

        Shapes are known in all batches or in none, and likewise depths (see `Sample`).
        """

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return scalar losses by name; the loop sums them."""

    @abstractmethod
    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Evaluate `network` (the averaged weights) on unseen objects."""

    @abstractmethod
    def save(self, network: nn.Module, path: Path) -> None:
        """Write the weights as float16 safetensors for the prior to load: one file, or a folder of several."""
