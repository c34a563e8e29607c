"""Muon compared with the plain Newton-Schulz iteration and with torch's own."""

from copy import deepcopy

import pytest
import torch
from helpers.seeds import fresh_seed
from torch import Tensor, nn

from liftstudio.training.muon import COEFFICIENTS, STEPS, Muon, orthogonalized

SEED = fresh_seed(__name__)


@pytest.fixture
def generator() -> torch.Generator:
    print(f"seed {SEED}")  # noqa: T201  shown when a test fails
    return torch.Generator().manual_seed(SEED)


def iterated(matrix: Tensor) -> Tensor:
    """Return the iteration on the whole matrix, in float64."""
    a, b, c = COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@pytest.mark.parametrize("shape", [(16, 16), (24, 200), (64, 65), (1, 30)])
@pytest.mark.parametrize("spread", [0.0, 3.0], ids=["even", "of unequal rows"])
def test_small_matrices_give_what_the_whole_matrix_gives(
    shape: tuple[int, int], spread: float, generator: torch.Generator
) -> None:
    scale = torch.rand(shape[0], 1, generator=generator) ** spread
    matrix = torch.randn(shape, generator=generator) * scale
    # float32 against float64: five steps multiply rounding by up to 3.44^10, that of A by its square's 1e-7
    torch.testing.assert_close(orthogonalized(matrix), iterated(matrix).float(), atol=2e-3, rtol=0)
    torch.testing.assert_close(orthogonalized(matrix.mT), iterated(matrix).float().mT, atol=2e-3, rtol=0)


def test_singular_values_come_near_one(generator: torch.Generator) -> None:
    values = torch.linalg.svdvals(orthogonalized(torch.randn(40, 100, generator=generator)))
    assert values.min() > 0.6 and values.max() < 1.3


def test_no_gradient_gives_no_direction() -> None:
    assert torch.equal(orthogonalized(torch.zeros(4, 9)), torch.zeros(4, 9))


def test_steps_are_those_of_torch(generator: torch.Generator) -> None:
    start, target = torch.randn(20, 50, generator=generator), torch.randn(20, 50, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    options = {"lr": 0.05, "weight_decay": 0.1}
    steps = [
        (ours, Muon([ours], **options)),
        (theirs, torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)),
    ]
    for parameter, optimizer in steps:
        for _ in range(4):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
    moved = (ours - start).norm()
    # torch iterates in bfloat16: each step's direction is off by a few per cent
    assert (ours - theirs).norm() < 0.1 * moved and moved > 0.5


def test_a_matrix_without_gradient_stays_and_the_state_resumes(generator: torch.Generator) -> None:
    first, second = nn.Parameter(torch.randn(8, 9, generator=generator)), nn.Parameter(torch.ones(3, 4))
    optimizer = Muon([first, second], lr=0.1, weight_decay=0.1)
    first.square().sum().backward()
    optimizer.step()
    assert torch.equal(second, torch.ones(3, 4))
    copy = nn.Parameter(first.detach().clone())
    resumed = Muon([copy, nn.Parameter(torch.ones(3, 4))], lr=0.1, weight_decay=0.1)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))  # as from a file
    for parameter, each in ((first, optimizer), (copy, resumed)):
        each.zero_grad()
        parameter.pow(4).sum().backward()
        each.step()
    assert torch.equal(first, copy)
