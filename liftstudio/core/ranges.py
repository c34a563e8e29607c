"""Allowed ranges of options, as part of their types: `Annotated[int, Range(2, 1000)]`."""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule


@dataclass(frozen=True)
class Range:
    """The values that a number, or a schedule at every step, may have.

    `low` and `high` are inclusive bounds, `above` and `below` exclusive ones. `multiple_of` allows only positive
    multiples of a number. `or_zero` allows 0 as well, where it stands for a default or for none.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    multiple_of: int = 0
    or_zero: bool = False

    def __contains__(self, value: float) -> bool:
        if value == 0 and self.or_zero:
            return True
        if self.multiple_of and (value < self.multiple_of or value % self.multiple_of):
            return False
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        text = self._of(f"a multiple of {self.multiple_of}") if self.multiple_of else self._ends()
        return f"{text}, or 0" if self.or_zero else text

    def describe(self, noun: str) -> str:
        """Return the range in words: "a whole number from 2 to 1000" for the noun "a whole number"."""
        text = self._of(f"a multiple of {self.multiple_of}" if self.multiple_of else noun)
        return f"{text}, or 0" if self.or_zero else text

    def check(self, path: str, value: "float | Schedule") -> None:
        """Check that the number, or every value of the schedule, lies in the range.

        Raises:
            InputError: it does not; names the option's path, the range and the first value outside.
        """
        for each in [v for _, v in value.points] if isinstance(value, Schedule) else [value]:
            if each not in self:
                raise InputError(f"{path}: expected {self}, got {_number(each)}")

    def _of(self, noun: str) -> str:
        ends = self._ends()
        if ends.endswith(" or more"):
            return f"{noun} >= {ends.removesuffix(' or more')}"
        if ends.endswith(" or less"):
            return f"{noun} <= {ends.removesuffix(' or less')}"
        return f"{noun} {'from ' if ' to ' in ends else ''}{ends}".rstrip()

    def _ends(self) -> str:
        low = f"above {_number(self.above)}" if self.above > -math.inf else _number(self.low)
        high = f"below {_number(self.below)}" if self.below < math.inf else _number(self.high)
        if low == "-inf":
            return "" if high == "inf" else high if self.below < math.inf else f"{high} or less"
        if high == "inf":
            return low if self.above > -math.inf else f"{low} or more"
        return f"{low} to {high}"


@dataclass(frozen=True)
class MinLength:
    """The least number of items of a list or tuple: `Annotated[list[float], MinLength(1)]`."""

    least: int

    def describe(self, noun: str) -> str:
        """Return the constraint in words: "a list of text (1 or more of them)" for the noun "a list of text"."""
        return f"{noun} ({self.least} or more of them)"

    def check(self, path: str, values: Sequence[object]) -> None:
        """Raise an InputError that names the option's path if there are fewer items."""
        if len(values) < self.least:
            raise InputError(f"{path}: expected at least {self.least} values, got {len(values)}")


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
NonNegativeFloat = Annotated[float, Range(0)]
UnitFloat = Annotated[float, Range(0, 1)]


def check_ranges(value: Any, wanted: Any, path: str = "") -> None:
    """Check every number and list in `value` against the `Range` or `MinLength` of its type.

    Args:
        value: a value of the type `wanted`; parts of another type are skipped.
        wanted: a type with annotations, or a dataclass whose fields have such types.
        path: dotted path of the value.

    Raises:
        InputError: a value is out of range; names the path of the first one.
    """
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Annotated:
        check_ranges(value, arguments[0], path)
        for found in arguments[1:]:
            if isinstance(found, Range) and isinstance(value, int | float | Schedule):
                found.check(path, value)
            if isinstance(found, MinLength) and isinstance(value, list | tuple):
                found.check(path, value)
    elif origin in (typing.Union, types.UnionType):
        for member in arguments:
            check_ranges(value, member, path)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            check_ranges(item, arguments[1], f"{path}.{key}")
    elif origin in (list, tuple) and isinstance(value, list | tuple):
        item_types = [arguments[0]] * len(value) if Ellipsis in arguments or origin is list else arguments
        for i, (item, item_type) in enumerate(zip(value, item_types, strict=False)):
            check_ranges(item, item_type, f"{path}[{i}]")
    elif dataclasses.is_dataclass(wanted) and isinstance(value, typing.cast(type, wanted)):
        hints = typing.get_type_hints(wanted, include_extras=True)
        for field in dataclasses.fields(wanted):
            check_ranges(getattr(value, field.name), hints[field.name], f"{path}.{field.name}" if path else field.name)


def _number(value: float) -> str:
    return str(value).removesuffix(".0")
