"""`--list` is generated from the code: names, purposes, options with types, defaults and comments."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, get_type_hints

import pytest

from liftstudio.cli.catalog import catalog, field_comments, purpose
from liftstudio.core import registry
from liftstudio.core.config import ComponentSpec
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, Range
from liftstudio.core.registry import Component, find, register
from liftstudio.core.schedules import Schedule


@dataclass
class Base:
    kept: int = 1  # from the base class
    changed: float = 0.5  # first meaning, metres


@dataclass
class Group:
    rate: Schedule = field(default_factory=lambda: Schedule.constant(2))  # per step


@register("listed")
class Listed(Component):
    """Shows every form of an option.

    This line is not shown.
    """

    kind = "test-catalog-kind"

    @dataclass
    class Config(Base):
        changed: float = 0.25  # second meaning, degrees
        text: str = "#1"  # has a hash sign
        groups: dict[str, Group] = field(default_factory=dict)  # by name
        part: Annotated[ComponentSpec, "light"] | None = None  # another component
        sizes: tuple[int, Annotated[int, Range(2)]] = (1, 2)  # rows and columns
        steps: Annotated[int, Range(2, 1000)] = 50  # of the grid
        angles: Annotated[list[float], MinLength(1)] = field(default_factory=lambda: [90.0])  # of the views
        from_: str = ""  # like a keyword


EXPECTED = """\
listed  Shows every form of an option.
    kept: a whole number = 1  # from the base class
    changed: a finite number = 0.25  # second meaning, degrees
    text: text = #1  # has a hash sign
    groups: names with options each  # by name
        rate: a schedule = 2.0  # per step
    part: a light or none = null  # another component
    sizes: [a whole number, a whole number >= 2] = [1, 2]  # rows and columns
    steps: a whole number from 2 to 1000 = 50  # of the grid
    angles: a list of a finite number (1 or more of them) = [90.0]  # of the views
    from: text = ''  # like a keyword
"""


def test_listing_of_a_kind() -> None:
    assert catalog("test-catalog-kind") == EXPECTED


def test_listing_of_all_kinds() -> None:
    lines = catalog().splitlines()
    assert "light: spherical-gaussians, uniform" in lines
    assert any(line.startswith("geometry: dmtet, instant-ngp") for line in lines)


def test_unknown_kind_suggests() -> None:
    with pytest.raises(InputError, match="did you mean 'geometry'"):
        catalog("geometri")


def test_options_of_the_run() -> None:
    listing = catalog("run")
    assert "seed: a whole number from 0 to 4294967295 = 0  # seed of all random draws" in listing
    assert "    every: a whole number >= 1 = 100  # steps between checkpoints" in listing


def test_a_redefined_option_keeps_its_range() -> None:
    registry.load_methods()
    configs = [find(name, kind).Config for kind in registry.kinds() for name in registry.names(kind)]
    for config in configs:
        hints = get_type_hints(config, include_extras=True)
        for base in filter(is_dataclass, config.__mro__[1:]):
            for name, hint in get_type_hints(base, include_extras=True).items():
                assert "Range(" in repr(hints[name]) or "Range(" not in repr(hint), f"{config}: {name}"


@pytest.mark.parametrize("kind", list(registry.BUILTIN))
def test_every_component_and_option_is_explained(kind: str) -> None:
    listing = catalog(kind)
    for name in registry.BUILTIN[kind]:
        component = find(name, kind)
        assert f"{name}  {purpose(component)}" in listing and len(purpose(component)) > 10
        comments = field_comments(component.Config)
        assert all(comments.get(f.name) for f in fields(component.Config)), f"{kind} {name}: an option has no comment"
    options = [line for line in listing.splitlines() if line.startswith("    ") and line != "    no options"]
    assert all("  # " in line for line in options), "an option of a nested group has no comment"
