"""What is particular about training one prior."""

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
    """figures: name -> number, for the log. sheet: [H, W, 3] picture in [0, 1]."""

    figures: dict[str, float]
    sheet: Tensor


class PriorTask(Component):
    """A network, what it is fed, and its loss; the loop is the same for all (`priors.training.loop`)."""

    kind: ClassVar[str] = "prior-task"

    weights_name: ClassVar[str] = "weights.safetensors"  # of the file or folder that `save` writes, in the run's folder
    network: nn.Module
    extra_views: int = 0  # views of a sample beyond those that the rig's `views` count
    has_phases: bool = False  # some steps train only a part of the network

    @abstractmethod
    def __init__(self, config: "PriorTask.Config", data: DataConfig, dtype: torch.dtype) -> None:
        """Build the network with random weights, in float32 on the CPU; draws from torch's global generator.

        dtype: what the network shall compute in where that does no harm; its weights stay float32.

        Raises:
            InputError: options that contradict each other or the data's.
        """

    @abstractmethod
    def load(self, weights: str) -> None:
        """Go on from a weight file of this prior.

        Raises:
            InputError: the file is missing, or of another prior or size.
        """

    @abstractmethod
    def prepare(self, samples: list[Sample], generator: torch.Generator) -> dict[str, Tensor]:
        """A batch, made in a worker process: everything `losses` needs, noise included.

        Whether shape and depths of the samples are known is the same in all batches (see `Sample`).
        """

    @abstractmethod
    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named scalar losses, to be summed."""

    @abstractmethod
    def evaluate(self, network: nn.Module, samples: list[Sample]) -> Evaluation:
        """Measure `network` (the averaged weights) on unseen objects."""

    @abstractmethod
    def save(self, network: nn.Module, path: Path) -> None:
        """Write the weights as float16 safetensors that the prior loads: one file, or a folder of several."""
