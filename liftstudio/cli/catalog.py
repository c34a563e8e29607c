"""`--list`: the registered components and their options, read from the code."""

import ast
import dataclasses
import difflib
import inspect
import json
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator
from io import StringIO
from typing import Any

from liftstudio.core import registry
from liftstudio.core.config import ComponentSpec, option_key, to_plain, type_name
from liftstudio.core.errors import InputError
from liftstudio.core.schedules import Schedule

RUN = "run"  # the pseudo kind that lists the options of the run itself


def catalog(kind: str = "") -> str:
    """Return a listing of all kinds and names, or of one kind with purposes and options.

    Raises:
        InputError: unknown kind.
    """
    if not kind:
        lines = [f"{kind}: {', '.join(registry.names(kind))}" for kind in registry.kinds()]
        return "\n".join([*lines, f"{RUN}: options of the run itself", "", "options: --list KIND", ""])
    if kind == RUN:
        from liftstudio.run.config import RunConfig

        return "\n".join(_options(RunConfig, 0)) + "\n"
    if kind not in registry.kinds():
        near = difflib.get_close_matches(kind, [*registry.kinds(), RUN], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join([*registry.kinds(), RUN])}"
        raise InputError(f"unknown kind '{kind}'; {hint}")
    return "\n".join("\n".join(_component(name, kind)) + "\n" for name in registry.names(kind))


def _component(name: str, kind: str) -> Iterator[str]:
    try:
        component = registry.find(name, kind)
    except InputError as error:
        yield f"{name}  (not available: {error})"
        return
    yield f"{name}  {purpose(component)}"
    yield from _options(component.Config, 1) or ["    no options"]


def purpose(component: type) -> str:
    """Return the first line of a class's docstring."""
    return (inspect.getdoc(component) or "").split("\n")[0]


def _options(config: type, depth: int) -> list[str]:
    hints, comments = typing.get_type_hints(config, include_extras=True), field_comments(config)
    lines = []
    for field in dataclasses.fields(config):
        wanted, nested = hints[field.name], nested_options(hints[field.name])
        default = "" if nested and field.default is dataclasses.MISSING else f" = {default_text(field)}"
        head = f"{'    ' * depth}{option_key(field.name)}: {type_name(wanted)}{default}"
        lines.append(f"{head}  # {comments[field.name]}" if comments.get(field.name) else head)
        lines += _options(nested, depth + 1) if nested else []
    return lines


def default_text(field: "dataclasses.Field[Any]") -> str:
    """Return a field's default as YAML; `(required)` if it has none."""
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return "(required)"
    if isinstance(value, ComponentSpec):
        return value.type
    plain = to_plain(value)
    return json.dumps(plain) if plain is None or isinstance(plain, bool | list | dict) else str(plain) or "''"


def nested_options(wanted: Any) -> type | None:
    """Return the dataclass of options that a field of this type contains, directly or as an item of it."""
    if dataclasses.is_dataclass(wanted) and wanted is not Schedule and wanted is not ComponentSpec:
        return typing.cast(type, wanted)
    if typing.get_origin(wanted) in (dict, list, tuple, typing.Union, types.UnionType):
        return next((found for found in map(nested_options, typing.get_args(wanted)) if found), None)
    return None


def field_comments(config: type) -> dict[str, str]:
    """Return field name -> the comment behind it in the source, of the class and its base classes."""
    comments: dict[str, str] = {}
    for cls in reversed(config.__mro__[:-1]):
        comments |= _own_comments(cls)
    return comments


def _own_comments(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):  # a class created at run time has no source
        return {}
    by_line = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = typing.cast(ast.ClassDef, ast.parse(source).body[0]).body
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {typing.cast(ast.Name, f.target).id: by_line[f.end_lineno] for f in fields if f.end_lineno in by_line}
