"""Sizes that follow the reference views: `Annotated[int, OrShare()]` allows `0.5x` in place of a number."""

import re
from dataclasses import dataclass
from typing import Any

FORM = re.compile(r"(\d+\.?\d*|\.\d+)x")


@dataclass(frozen=True)
class Share:
    """A share of the width of the reference views, which are known when the stages are made; see `with_sizes`."""

    factor: float

    @classmethod
    def parse(cls, value: Any) -> "Share | None":
        """Return the share that a value from a config describes; None if it is not of this form, or not above 0."""
        match = FORM.fullmatch(value) if isinstance(value, str) else None
        return cls(float(match[1])) if match and float(match[1]) > 0 else None

    def of(self, width: int) -> int:
        """Return the share of a width in pixels, rounded down, at least 1."""
        return max(1, int(self.factor * width))

    def __str__(self) -> str:
        return f"{self.factor:g}x"


@dataclass(frozen=True)
class OrShare:
    """Marks an option that may be a `Share`; the option's type is that of the number which replaces it."""

    def describe(self, noun: str) -> str:
        """Return the type in words: "a whole number, or a share of the views' width such as 0.5x"."""
        return f"{noun}, or a share of the views' width such as 0.5x"
