"""Training tasks in miniature: the config of a prior that is trained, with overrides that make it tiny."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

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
