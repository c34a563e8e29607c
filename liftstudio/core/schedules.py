"""Values that change over the steps of a stage."""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from liftstudio.core.errors import InputError


def check_milestones(name: str, values: Sequence[object], milestones: list[int]) -> None:
    """Check that `<name>_milestones` ascend and are one fewer than the values of `<name>`.

    Raises:
        InputError: they are not; names the option.
    """
    if len(values) != len(milestones) + 1:
        raise InputError(f"{name}_milestones: expected one step fewer than there are {name}s")
    if sorted(milestones) != milestones:
        raise InputError(f"{name}_milestones: expected ascending steps, got {milestones}")


def phase(milestones: list[int], step: int) -> int:
    """Return how many of the milestones (steps at which a value changes) have been reached at `step`."""
    return sum(step >= milestone for milestone in milestones)


@dataclass(frozen=True)
class Schedule:
    """A piecewise linear function of the stage's step, constant before its first and after its last point.

    In YAML: a number, `[start_step, v0, v1, end_step]`, or pairs `[[step, value], ...]` with ascending steps.
    """

    points: tuple[tuple[float, float], ...]

    @classmethod
    def constant(cls, value: float) -> "Schedule":
        """Return a schedule with the same value at every step."""
        return cls(((0.0, float(value)),))

    @classmethod
    def parse(cls, value: object) -> "Schedule":
        """Return the schedule that a value from a config describes.

        Raises:
            InputError: not one of the three forms, steps that do not ascend, or values that are not finite.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            return cls._checked([(0.0, value)])
        if isinstance(value, list) and len(value) == 4 and not any(isinstance(v, list) for v in value):
            start, first, last, end = value
            return cls._checked([(start, first), (end, last)])
        if isinstance(value, list) and value and all(isinstance(v, list) and len(v) == 2 for v in value):
            return cls._checked([(step, v) for step, v in value])
        raise InputError(f"expected a number, [start_step, v0, v1, end_step] or [[step, value], ...], got {value!r}")

    @classmethod
    def _checked(cls, points: list[tuple[object, object]]) -> "Schedule":
        numbers = [v for point in points for v in point]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in numbers):
            raise InputError(f"expected finite numbers only in a schedule, got {points!r}")
        schedule = cls(tuple((float(step), float(value)) for step, value in points))  # type: ignore[arg-type]
        steps = [step for step, _ in schedule.points]
        if steps[0] < 0 or any(b <= a for a, b in itertools.pairwise(steps)):
            raise InputError(f"expected ascending steps of 0 or more in a schedule, got {steps}")
        return schedule

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        after = bisect.bisect_right([s for s, _ in self.points], step)
        if after == 0 or after == len(self.points):
            return self.points[min(after, len(self.points) - 1)][1]
        (s0, v0), (s1, v1) = self.points[after - 1], self.points[after]
        return v0 + (v1 - v0) * (step - s0) / (s1 - s0)

    def is_zero(self) -> bool:
        """Return whether the value is 0 at every step."""
        return all(value == 0 for _, value in self.points)

    def to_config(self) -> object:
        """Return this schedule as plain data for YAML."""
        return self.points[0][1] if len(self.points) == 1 else [list(point) for point in self.points]

    def __str__(self) -> str:
        return str(self.to_config())


OFF, ON = Schedule.constant(0.0), Schedule.constant(1.0)
