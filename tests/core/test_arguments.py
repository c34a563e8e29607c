"""Arguments of public functions that do not suit them are errors of one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from liftstudio.core.arguments import checked
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import PositiveInt, Range


@checked
def paint(
    path: str | Path,
    *,
    count: PositiveInt = 1,
    share: Annotated[float, Range(0, 1)] = 0.5,
    look: Literal["a", "b"] = "a",
    names: list[str] | None = None,
    after: Callable[[int], None] | None = None,
    **others: int,
) -> tuple[object, ...]:
    """Say what was given."""
    return path, count, share, look, names, others


def test_right_arguments_pass() -> None:
    given = paint(Path("x"), count=np.int64(3), share=1, look="b", names=[], after=print, more=5)
    assert given == (Path("x"), 3, 1, "b", [], {"more": 5}) and paint.__doc__ == "Say what was given."


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((None,), {}, "paint: path: expected text or a path, got None"),
        ((), {}, "paint: missing a required argument: 'path'"),
        (("x", 2), {}, "paint: too many positional arguments"),
        (("x",), {"count": 0}, "paint: count: expected 1 or more, got 0"),
        (("x",), {"count": 1.5}, "paint: count: expected a whole number, got 1.5"),
        (("x",), {"count": True}, "paint: count: expected a whole number, got True"),
        (("x",), {"share": float("nan")}, "paint: share: expected 0 to 1, got nan"),
        (("x",), {"share": "much"}, "paint: share: expected a number, got 'much'"),
        (("x",), {"look": "c"}, "paint: look: expected 'a' or 'b', got 'c'"),
        (("x",), {"names": {"a": 1}}, "paint: names: expected list or None, got dict"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[object, ...], named: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        paint(*arguments, **named)  # type: ignore[arg-type]
    assert str(refused.value) == message
