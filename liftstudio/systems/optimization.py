"""The optimiser of a stage: Adam with scheduled learning rates per parameter group."""

import difflib
from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import nn

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import NonNegativeFloat, Range
from liftstudio.core.schedules import Schedule

Beta = Annotated[float, Range(0, 0.999999)]


@dataclass
class GroupConfig:
    """Options of the parameters under a dotted path."""

    lr: Schedule  # learning rate: a number or a schedule over the stage's steps


@dataclass
class OptimizerConfig:
    """Adam (Kingma and Ba 2015)."""

    lr: Schedule = field(default_factory=lambda: Schedule.constant(0.01))  # learning rate of parameters in no group
    betas: tuple[Beta, Beta] = (0.9, 0.99)  # decay of the running means of gradient and squared gradient
    eps: NonNegativeFloat = 1e-15  # added to the root of the mean square
    gradient_clip: NonNegativeFloat = 0.0  # largest norm of all gradients together; 0: no clipping
    groups: dict[str, GroupConfig] = field(
        default_factory=dict
    )  # dotted path in the scene -> options of its parameters


class ScheduledAdam:
    """Adam whose learning rates follow schedules.

    Raises:
        InputError: there are no parameters under the path of a group.
    """

    def __init__(self, config: OptimizerConfig, module: nn.Module) -> None:
        self.config = config
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.parameters = list(named.values())
        members: dict[str, list[nn.Parameter]] = {path: [] for path in ["", *config.groups]}
        for name, parameter in named.items():
            members[_longest_prefix(name, list(config.groups))].append(parameter)
        for path in config.groups:
            if not members[path]:
                raise InputError(_unknown_group(path, module))
        self.paths = [path for path, ps in members.items() if ps]
        groups = [{"params": ps} for ps in members.values() if ps]
        self.adam = torch.optim.Adam(groups, lr=1.0, betas=config.betas, eps=config.eps, fused=True)

    def options(self, path: str) -> OptimizerConfig | GroupConfig:
        """Return the options with the learning rate of a group; an empty path: of the parameters in no group."""
        return self.config.groups[path] if path else self.config

    def step(self, step: int) -> None:
        """Update the parameters with the learning rates at `step`, then clear their gradients."""
        for group, path in zip(self.adam.param_groups, self.paths, strict=True):
            group["lr"] = self.options(path).lr(step)
        if self.config.gradient_clip > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def _longest_prefix(name: str, paths: list[str]) -> str:
    matching = [path for path in paths if name == path or name.startswith(path + ".")]
    return max(matching, key=len, default="")


def _unknown_group(path: str, module: nn.Module) -> str:
    known = [n for n, child in module.named_modules() if n and any(p.requires_grad for p in child.parameters())]
    known += [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"optimizer.groups: no parameters under '{path}'; {hint}"
