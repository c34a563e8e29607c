"""Training tasks in miniature: the config of a trained prior, with overrides that make it tiny."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liftstudio.core.config import parse, read_config
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import ProceduralObjects, Sample


def config_of(path: Path, overrides: Sequence[str]) -> TrainingConfig:
    return parse(read_config(path, list(overrides)), TrainingConfig)


def task_of(config: TrainingConfig, seed: int) -> Any:
    torch.manual_seed(seed)
    return config.task.build(config.data, torch.float32)


def draw_samples(config: TrainingConfig, count: int, views: int, seed: int) -> list[Sample]:
    generator = torch.Generator().manual_seed(seed)
    objects = ProceduralObjects(config.data)
    return [objects.training(seed + number, views, generator) for number in range(count)]


def trained_parts(task: Any) -> set[str]:
    """Return the parts of the network that a loss has a gradient for."""
    return {name.partition(".")[0] for name, p in task.network.named_parameters() if p.grad is not None}


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `log.csv`."""
    with path.open() as file:
        return list(csv.DictReader(file))


def close(found: Tensor, wanted: Tensor) -> None:
    """Assert closeness up to float16 weights: 11 bits, through some 40 layers."""
    assert (found - wanted).abs().mean() < 0.01 * wanted.abs().mean()
