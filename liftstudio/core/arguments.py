"""Checks of the arguments of public functions against their type hints, so that misuse is an InputError of one line."""

import dataclasses
import functools
import inspect
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import check_ranges

F = TypeVar("F", bound=Callable[..., Any])
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    type(None): "None",
    Mapping: "a dictionary",
}
NUMBERS: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}  # NumPy's count as well


def checked(function: F) -> F:
    """Return a function that checks its arguments by their type hints, of lists and the like only the outermost type.

    Ranges are checked as those of options: `Annotated[int, Range(1)]`.

    Raises:
        InputError: an argument has a wrong type or value, or the arguments do not fit the parameters; names it.
    """
    signature, title = inspect.signature(function), re.sub(r"\.__\w+__$", "", function.__qualname__)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            bound = signature.bind(*arguments, **named)
        except TypeError as error:
            raise InputError(f"{title}: {error}") from None
        hints = _hints(function)
        for name, value in bound.arguments.items():
            if name in hints and signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                _check(f"{title}: {name}", value, hints[name])
        return function(*arguments, **named)

    return typing.cast(F, call)


@functools.cache
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise InputError(f"{name}: expected {_words(hint)}, got {_described(value)}")
    if not dataclasses.is_dataclass(hint):  # functions that take options check them and name them as in a config
        check_ranges(value, hint, name)


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    kind = NUMBERS.get(hint, origin or hint)
    is_number = isinstance(value, bool) and hint is not bool and hint in NUMBERS
    return isinstance(value, kind) and not is_number


def _words(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    kind = origin or hint
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _described(value: Any) -> str:
    """Return a value in short, or its type."""
    is_short = value is None or isinstance(value, str | numbers.Number)
    return repr(value)[:80] if is_short else type(value).__name__
