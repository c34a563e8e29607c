"""Options that messages advise exist under the full key that the message gives."""

import ast
import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

from helpers.paths import ROOT

from liftstudio.core import registry
from liftstudio.core.config import ComponentSpec, option_key
from liftstudio.run.config import RunConfig

KEY = re.compile(
    r"\b(?:system|views|prior|checkpoint|test|export|truth)(?:\.\w+(?:\[[\w.]+\])?)+"
    r"|(?<=(?:try|set|use) )[a-z_]+(?:\.\w+)+|(?<=(?:lower|raise) )[a-z_]+(?:\.\w+)+"
)
PARTS = re.compile(r"\w+|\[[\w.]+\]")
NAME = "NAME"  # stands for values that a message inserts
# A file, ends of modules' names, keys of metrics.json.
NO_OPTIONS = {"checkpoint.pt", "views.posed_images", "views.image_analogy", "test.training", "test.held_out"}


def messages(path: Path) -> list[str]:
    """Return the texts of a module that are no docstrings, with `NAME` for each value that they insert."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else NAME for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append(node.value)
    return found


def options(wanted: Any) -> list[dict[str, Any]]:
    """Return the options (key -> type) that a value of this type may have; one dict for each component of a kind."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Annotated and arguments[0] is ComponentSpec:
        configs = [registry.find(name, arguments[1]).Config for name in registry.names(arguments[1])]
        return [found | {"type": str} for config in configs for found in options(config)]
    if origin is typing.Annotated:
        return options(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return [found for argument in arguments for found in options(argument)]
    if dataclasses.is_dataclass(wanted):
        hints = typing.get_type_hints(wanted, include_extras=True)
        return [{option_key(field.name): hints[field.name] for field in dataclasses.fields(wanted)}]
    return []


def exists(key: str) -> bool:
    """Return whether a dotted key, in which `NAME` stands for anything, leads to an option."""
    wanted: list[Any] = [RunConfig]
    for part in PARTS.findall(key):
        named = [typing.get_args(each)[1] for each in wanted if typing.get_origin(each) is dict]
        inside = [kind for each in wanted for found in options(each) for name, kind in found.items()
                  if part in (name, NAME)]  # fmt: skip
        wanted = named + inside
    return bool(wanted)


def test_keys_are_told_from_each_other() -> None:
    for key in ("system.stages.NAME.geometry.surface_level", "system.stages.fine.optimizer.groups[geometry.sdf].lr",
                "views.seed", "prior.weights", "export.texture_size", "views.prior.chunk"):  # fmt: skip
        assert exists(key), key
    for key in ("geometry.surface_level", "system.surface_level", "views.sede", "system.stages.fine.optimizer.sdf.lr"):
        assert not exists(key), key


def test_advised_keys_exist() -> None:
    registry.load_methods()
    paths = [path for folder in ("liftstudio", "custom") for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {(key, path.name) for path in paths for text in messages(path) for key in KEY.findall(text)}
    assert len(found) > 15
    assert not [(key, path) for key, path in sorted(found) if not exists(key) and key not in NO_OPTIONS]
