"""Optimisers: Muon for matrices, AdamW for the rest; learning-rate schedule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from liftstudio.core.ranges import NonNegativeFloat, NonNegativeInt, Range, UnitFloat
from liftstudio.training.muon import Muon


@dataclass
class OptimizerConfig:
    """Learning rates and their schedule."""

    muon_lr: NonNegativeFloat = 2e-3  # learning rate of matrices; updates have the size of AdamW's
    adamw_lr: NonNegativeFloat = 1e-3  # learning rate of all other parameters
    weight_decay: NonNegativeFloat = 0.01
    warmup: NonNegativeInt = 100  # steps over which the learning rate rises
    decay: UnitFloat = 0.3  # last share of the budget, over which the learning rate falls to 2 %
    clip: Annotated[float, Range(1e-6)] = 1.0  # maximum norm of all gradients together


def make_optimizers(named: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices that map features to features, and AdamW for vectors, small matrices and kernels."""
    parameters = [parameter for _, parameter in named if parameter.requires_grad]
    matrices = [p for p in parameters if p.ndim == 2 and min(p.shape) >= 16]
    chosen = {id(p) for p in matrices}
    others = [p for p in parameters if id(p) not in chosen]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, config.muon_lr, config.weight_decay))
    if others:
        made.append(torch.optim.AdamW(others, config.adamw_lr, betas=(0.9, 0.98), weight_decay=config.weight_decay))
    return made


def set_rate(optimizer: torch.optim.Optimizer, factor: float, config: OptimizerConfig) -> None:
    """Set the learning rate of an optimiser from `make_optimizers` to `factor` times its base value."""
    lr = config.muon_lr if isinstance(optimizer, Muon) else config.adamw_lr
    for group in optimizer.param_groups:
        group["lr"] = lr * factor


def rate(step: int, progress: float, config: OptimizerConfig) -> float:
    """Return the learning-rate factor at a step, with the share `progress` in [0, 1] of the budget spent."""
    rising = min(1.0, (step + 1) / max(config.warmup, 1))
    falling = min(1.0, (1 - progress) / config.decay) if config.decay else 1.0
    return rising * (0.02 + 0.98 * max(falling, 0.0))
