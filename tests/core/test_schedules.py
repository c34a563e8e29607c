"""Schedules: values, notations, and rejected ones."""

import pytest

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule


def test_constant() -> None:
    schedule = Schedule.parse(2)
    assert [schedule(step) for step in (0, 10, 10**6)] == [2.0, 2.0, 2.0]


def test_linear_is_constant_outside_its_range() -> None:
    schedule = Schedule.parse([100, 1.0, 3.0, 200])
    assert [schedule(step) for step in (0, 100, 150, 200, 10**6)] == [1.0, 1.0, 2.0, 3.0, 3.0]


def test_piecewise_pairs() -> None:
    schedule = Schedule.parse([[0, 0.0], [10, 1.0], [20, 0.5]])
    assert [schedule(step) for step in (0, 5, 10, 15, 20, 99)] == [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]


def test_a_single_pair_is_a_constant() -> None:
    assert Schedule.parse([[5, 0.25]])(0) == Schedule.parse([[5, 0.25]])(100) == 0.25


@pytest.mark.parametrize("value", [3.5, [0, 1, 2, 10], [[0, 1], [5, 2], [6, 0]]])
def test_schedules_are_read_back_as_written(value: object) -> None:
    schedule = Schedule.parse(value)
    assert Schedule.parse(schedule.to_config()) == schedule


@pytest.mark.parametrize(
    "value",
    [
        "much",
        True,
        None,
        [],
        [1, 2, 3],
        [0, 1, 2, "x"],
        [100, 1, 2, 50],
        [100, 1, 2, 100],
        [-1, 0, 1, 10],
        [0, float("nan"), 1, 10],
        float("inf"),
        [[0, 1], [0, 2]],
        [[5, 1], [0, 2]],
        [[0, 1, 2]],
        [[0, 1], 5],
        {"start": 0},
    ],
)
def test_impossible_schedules_are_refused(value: object) -> None:
    with pytest.raises(InputError):
        Schedule.parse(value)
