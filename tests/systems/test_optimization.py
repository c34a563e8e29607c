"""The optimiser: groups by dotted path, schedules, clipping."""

import pytest
import torch
from torch import nn

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule
from liftstudio.systems.optimization import GroupConfig, OptimizerConfig, ScheduledAdam


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.geometry = nn.ParameterDict({name: nn.Parameter(torch.zeros(2)) for name in ("sdf", "table", "tables")})
        self.light = nn.Linear(2, 1)
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        for parameter in self.light.parameters():
            nn.init.zeros_(parameter)


def group(lr: object) -> GroupConfig:
    return GroupConfig(Schedule.parse(lr))


def make(tree: Tree, groups: dict[str, GroupConfig], lr: object = 0.5, **options: float) -> ScheduledAdam:
    return ScheduledAdam(OptimizerConfig(lr=Schedule.parse(lr), groups=groups, **options), tree)  # type: ignore[arg-type]


def step(optimizer: ScheduledAdam, tree: Tree, number: int) -> dict[str, float]:
    """Take one step with gradient 1, which moves each element by its learning rate; return the change."""
    before = {name: p.detach().clone() for name, p in tree.named_parameters()}
    for parameter in optimizer.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(number)
    assert all(p.grad is None for p in tree.parameters())
    return {name: (before[name] - p.detach()).mean().item() for name, p in tree.named_parameters()}


def test_the_longest_path_wins_and_others_get_the_default() -> None:
    tree = Tree()
    optimizer = make(tree, {"geometry": group(0.1), "geometry.table": group(0.2), "light.bias": group(0.3)})
    moved = step(optimizer, tree, 0)
    wanted = {
        "geometry.sdf": 0.1,
        "geometry.table": 0.2,
        "geometry.tables": 0.1,  # its name starts with "table", but it is another parameter
        "light.weight": 0.5,
        "light.bias": 0.3,
        "frozen": 0.0,
    }
    assert moved == pytest.approx(wanted, rel=1e-5)


def test_no_parameter_left_for_the_default() -> None:
    tree = Tree()
    moved = step(make(tree, {"geometry": group(0.1), "light": group(0.2)}), tree, 0)
    assert moved["light.weight"] == pytest.approx(0.2)


def test_schedules_move_the_learning_rates() -> None:
    tree = Tree()
    optimizer = make(tree, {"light": group([0, 0.1, 0.2, 10])}, lr=[5, 1.0, 0.0, 6])
    for number, default, light in ((0, 1.0, 0.1), (5, 1.0, 0.15), (6, 0.0, 0.16), (10, 0.0, 0.2), (99, 0.0, 0.2)):
        moved = step(optimizer, tree, number)
        assert moved["geometry.sdf"] == pytest.approx(default, rel=1e-5)
        assert moved["light.bias"] == pytest.approx(light, rel=1e-5)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("geometry.sdff", "did you mean 'geometry.sdf'?"),
        ("lights", "did you mean 'light'?"),
        ("frozen", "known: "),
        ("qqqq", "known: "),
    ],
)
def test_a_group_without_parameters(path: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"no parameters under '{path}'") as error:
        make(Tree(), {path: group(0.1)})
    assert hint in str(error.value)


def test_gradients_are_clipped_together() -> None:
    """Adam ignores a constant factor on the gradients, so compare its first moment."""
    tree = Tree()
    optimizer = make(tree, {}, gradient_clip=0.5)
    step(optimizer, tree, 0)
    means = [optimizer.adam.state[p]["exp_avg"] / (1 - 0.9) for p in optimizer.parameters]
    assert torch.cat([m.flatten() for m in means]).norm().item() == pytest.approx(0.5, rel=1e-4)
