"""Parsing of YAML and `key=value` overrides into typed dataclasses; a typo is an error that names the right key."""

import contextlib
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, Range, check_ranges
from liftstudio.core.registry import find, names
from liftstudio.core.schedules import Schedule
from liftstudio.core.shares import OrShare, Share

T = TypeVar("T")

TYPO = 0.8  # similarity in [0, 1] from which a key counts as a misspelling of another

RESOLVERS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "idiv": lambda a, b: a // b,
    "basename": lambda path: Path(path).name,
    "stem": lambda path: Path(path).stem,
    "rmspace": lambda text, replacement: text.replace(" ", replacement),
    "if_given": lambda given, value: value if given else 0,
}


@dataclass(frozen=True)
class ComponentSpec:
    """A component as a config names it: its registered name and its parsed options.

    key: dotted key of the component in the config; empty if it was not parsed from one.
    """

    kind: str
    type: str
    options: Any
    key: str = dataclasses.field(default="", compare=False)

    def build(self, *arguments: Any, **named: Any) -> Any:
        """Return the component, constructed as `cls(options, *arguments, **named)`; see `naming` for its errors."""
        with self.naming():
            return find(self.type, self.kind)(self.options, *arguments, **named)

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Complete the key in InputErrors from inside the block whose messages start with an option of the component.

        "steps: expected ..." becomes "views.steps: expected ...".
        """
        try:
            yield
        except InputError as error:
            option = str(error).partition(":")[0]
            if not self.key or option not in _option_keys(type(self.options)):
                raise
            raise InputError(f"{self.key}.{error}") from error.__cause__


@dataclass(frozen=True)
class ExportOnly:
    """Marks the type of an option that has no effect before the export: `Annotated[int, ExportOnly()]`."""


class _Loader(yaml.SafeLoader):
    """YAML loader that reads `1e-3` as a number, which YAML 1.1 reads as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_config(path: Path, overrides: list[str], inputs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the config file as plain data, with `dotted.key=value` overrides applied and `${...}` resolved.

    An override's value is literal text until it is parsed as its field's type, so a prompt may contain anything. `???`
    marks a missing value in the file only.

    inputs: dotted keys that have an effect only where other parts of the config refer to them; overriding one of them,
        or an option below it, is an error if nothing refers to it.

    Raises:
        InputError: missing or invalid file, malformed override, unresolvable interpolation or missing value.
    """
    for name, function in RESOLVERS.items():
        OmegaConf.register_resolver(name, function, replace=True)
    loaded = _load(path)
    for override in overrides:
        _apply_override(loaded, override)
    for key in inputs:
        _check_used(loaded, key, [o for o in overrides if re.match(rf"{re.escape(key)}[.=\[]", o)], path)
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(loaded, resolve=True, throw_on_missing=True))
    except MissingMandatoryValue as error:
        raise _missing(error.full_key) from None
    except InterpolationToMissingValueError as error:
        raise _missing(str(error).splitlines()[0].rpartition(" ")[2]) from None
    except (OmegaConfBaseException, RecursionError) as error:
        raise InputError(f"{path}: {getattr(error, 'full_key', '')}: {str(error).splitlines()[0]}") from None


def missing_keys(path: Path, keys: Iterable[str]) -> list[str]:
    """Return those of the dotted keys that the config file leaves to the user: `???`.

    Raises:
        InputError: missing or invalid file.
    """
    loaded = _load(path)
    return [key for key in keys if _is_missing(loaded, key)]


def _is_missing(loaded: Any, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(loaded, parent) if parent else loaded
    return OmegaConf.is_dict(node) and OmegaConf.is_missing(node, name)


def write_config(data: dict[str, Any]) -> str:
    """Return YAML that `read_config` reads back as `data`, even where a string contains `${` or `???`."""
    return yaml.safe_dump(_literal(data), sort_keys=False, allow_unicode=True)


def _load(path: Path) -> Any:
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise InputError(f"config not found: {path}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from None
    if not OmegaConf.is_dict(loaded):
        raise InputError(f"{path}: expected keys and values at the top level")
    return loaded


def _apply_override(loaded: Any, override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key or key.startswith("-"):
        raise InputError(f"'{override}': expected key=value, for example seed=1")
    try:
        _expand_components(loaded, key)
        OmegaConf.update(loaded, key, _literal(value))
    except (OmegaConfBaseException, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"'{override}': cannot set '{key}': {str(error).splitlines()[0]}") from None


def _expand_components(loaded: Any, key: str) -> None:
    """Expand a component given by its name alone (`light: uniform`), so that `light.lobes=8` can set its option."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        path = ".".join(parts[:end])
        node = _yaml_if_text(value) if isinstance(value := OmegaConf.select(loaded, path), str) else None
        if isinstance(node, str | dict):
            OmegaConf.update(loaded, path, _literal(node if isinstance(node, dict) else {"type": node}))


def _check_used(loaded: Any, key: str, overrides: list[str], path: Path) -> None:
    reference = re.compile(r"(?<!\\)\$\{[^}]*(?<![\w.])" + re.escape(key) + r"(?!\w)")
    if overrides and not reference.search(OmegaConf.to_yaml(loaded)):
        raise InputError(f"'{overrides[-1]}' has no effect: nothing in {path} refers to ${{{key}}}")


def _missing(key: str | None) -> InputError:
    return InputError(f"{key}: missing; give it as {key}=...")


def _literal(value: Any) -> Any:
    """Return `value` with its strings escaped: `${` does not start an interpolation, `???` is not a missing value."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", re.sub(r"^\\*\?\?\?\Z", r"\\\g<0>", value))
    return value


def parse(data: Any, wanted: type[T], path: str = "") -> T:
    """Return `data` as an instance of the dataclass `wanted`, checked key by key.

    Raises:
        InputError: unknown key, missing key or invalid value; names the dotted path of the first one.
    """
    return typing.cast(T, _convert(data, wanted, path))


def _checked(value: Any, wanted: Any, path: str) -> Any:
    converted = _convert(value, wanted, path)
    check_ranges(converted, wanted, path)
    return converted


def _convert(value: Any, wanted: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Annotated and arguments[0] is ComponentSpec:
        return _convert_component(value, arguments[1], path)
    if origin is typing.Annotated:
        may_be_share = any(isinstance(each, OrShare) for each in arguments[1:])
        return _convert_share(value, wanted, path) if may_be_share else _convert(value, arguments[0], path)
    if origin in (typing.Union, types.UnionType):
        return _convert_optional(value, arguments, path)
    if origin is typing.Literal:
        return _convert_choice(value, arguments, path)
    if origin is dict:
        return {str(k): _convert(v, arguments[1], _join(path, k)) for k, v in _mapping(value, path).items()}
    if origin in (list, tuple):
        return _convert_sequence(value, origin, arguments, path)
    if dataclasses.is_dataclass(wanted) and wanted is not Schedule:
        return _convert_dataclass(value, typing.cast(type, wanted), path)
    return _convert_scalar(value, wanted, path)


def _convert_dataclass(value: Any, wanted: type, path: str) -> Any:
    data = _mapping(value, path)
    hints = typing.get_type_hints(wanted, include_extras=True)
    fields = {option_key(field.name): field for field in dataclasses.fields(wanted)}
    for key in data:
        if key not in fields:
            raise InputError(_unknown_key(key, list(fields), path))
    for name, field in fields.items():
        if name not in data and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{_join(path, name)}: missing; expected {type_name(hints[field.name])}")
    names = {key: fields[key].name for key in data}
    typed = {key: _of_default_type(item, fields[key]) for key, item in data.items()}
    in_order = sorted(typed, key=lambda key: _holds_component(hints[names[key]]))  # cheap checks first
    values = {names[key]: _checked(typed[key], hints[names[key]], _join(path, key)) for key in in_order}
    try:
        return wanted(**values)
    except InputError as error:  # from the dataclass's own checks, whose messages start with the field's name
        raise InputError(_join(path, error)) from None


def _holds_component(wanted: Any) -> bool:
    """Return whether a value of this type names components, whose modules take seconds to import."""
    if typing.get_origin(wanted) is typing.Annotated:
        return typing.get_args(wanted)[0] is ComponentSpec or _holds_component(typing.get_args(wanted)[0])
    if dataclasses.is_dataclass(wanted) and wanted is not Schedule:
        hints = typing.get_type_hints(wanted, include_extras=True)
        return any(_holds_component(hints[field.name]) for field in dataclasses.fields(wanted))
    return any(map(_holds_component, typing.get_args(wanted)))


def _of_default_type(value: Any, field: dataclasses.Field[Any]) -> Any:
    """Return component options without `type` completed by the type of the field's default component."""
    default = None if field.default_factory is dataclasses.MISSING else field.default_factory()
    if (
        isinstance(default, ComponentSpec)
        and isinstance(options := _yaml_if_text(value), dict)
        and "type" not in options
    ):
        return {"type": default.type, **options}
    return value


def option_key(field_name: str) -> str:
    """Return the config key of a field; a field whose key is a Python keyword (`from`) has a trailing underscore."""
    return field_name.removesuffix("_")


def _convert_component(value: Any, kind: str, path: str) -> ComponentSpec:
    data = {"type": value} if isinstance(value, str) and not value.lstrip().startswith("{") else _mapping(value, path)
    if not isinstance(data.get("type"), str):
        raise InputError(f"{_join(path, 'type')}: missing; expected the name of a {kind} (see --list {kind})")
    try:
        component = find(data["type"], kind)
    except InputError as error:
        raise InputError(f"{_join(path, 'type')}: {error}") from None
    options = {key: item for key, item in data.items() if key != "type"}
    known = _option_keys(component.Config)
    for key in options:
        is_typo = difflib.get_close_matches(key, known, n=1, cutoff=TYPO)  # also true of known keys
        if not is_typo and (others := _types_with(key, kind)):
            wanted = " or ".join(f"{_join(path, 'type')}={other}" for other in others)
            raise InputError(f"unknown key '{_join(path, key)}'; '{data['type']}' has no such option; add {wanted}")
    return ComponentSpec(kind, data["type"], _convert_dataclass(options, component.Config, path), path)


def _option_keys(config: type) -> set[str]:
    return {option_key(field.name) for field in dataclasses.fields(config)}


def _types_with(key: str, kind: str) -> list[str]:
    """Return the components of a kind that have an option `key`; importing them all takes seconds."""
    found = []
    for name in names(kind):
        with contextlib.suppress(InputError):  # a package that the component needs is not installed
            if key in _option_keys(find(name, kind).Config):
                found.append(name)
    return found


def _convert_optional(value: Any, arguments: tuple[Any, ...], path: str) -> Any:
    if type(None) in arguments and (value is None or (str not in arguments and value in ("null", "none"))):
        return None
    candidates = [argument for argument in arguments if argument is not type(None)]
    if len(candidates) == 1:
        return _convert(value, candidates[0], path)
    for candidate in candidates:
        try:
            return _convert(value, candidate, path)
        except InputError:
            continue
    raise InputError(f"{path}: expected {' or '.join(map(type_name, candidates))}, got {value!r}")


def _convert_choice(value: Any, choices: tuple[Any, ...], path: str) -> Any:
    for choice in choices:
        if value == choice or str(value) == str(choice):
            return choice
    near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"{path}: expected one of {', '.join(map(str, choices))}, got {value!r}{hint}")


def _convert_sequence(value: Any, origin: type, arguments: tuple[Any, ...], path: str) -> Any:
    value = _yaml_if_text(value)
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list, got {value!r}")
    fixed = origin is tuple and Ellipsis not in arguments
    if fixed and len(value) != len(arguments):
        raise InputError(f"{path}: expected {len(arguments)} values, got {len(value)}")
    item_types = arguments if fixed else [arguments[0]] * len(value)
    return origin(_convert(v, t, f"{path}[{i}]") for i, (v, t) in enumerate(zip(value, item_types, strict=True)))


def _convert_scalar(value: Any, wanted: Any, path: str) -> Any:
    if wanted is Any:
        return value
    if wanted is str:
        return _text(value, path)
    value = _yaml_if_text(value)
    if wanted is Schedule:
        try:
            return value if isinstance(value, Schedule) else Schedule.parse(value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if wanted is bool and isinstance(value, bool):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int and is_number and value == int(value if math.isfinite(value) else 0):
        return int(value)
    if wanted is float and is_number and math.isfinite(value):
        return float(value)
    raise InputError(f"{path}: expected {type_name(wanted)}, got {value!r}")


def _convert_share(value: Any, wanted: Any, path: str) -> Any:
    if not isinstance(value, str) or not value.endswith("x"):
        return _convert(value, typing.get_args(wanted)[0], path)
    if share := Share.parse(value):
        return share
    raise InputError(f"{path}: expected {type_name(wanted)}, got {value!r}")


def _text(value: Any, path: str) -> str:
    if isinstance(value, dict | list) or value is None:
        raise InputError(f"{path}: expected text, got {value!r}")
    return str(value)


def _yaml_if_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.load(value, _Loader)
    except yaml.YAMLError:
        return value


def _mapping(value: Any, path: str) -> dict[Any, Any]:
    value = _yaml_if_text(value)
    if not isinstance(value, dict):
        raise InputError(f"{path or 'config'}: expected keys and values, got {value!r}")
    return value


def _unknown_key(key: object, known: list[str], path: str) -> str:
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
    hint = f"did you mean '{_join(path, near[0])}'?" if near else f"known keys: {', '.join(known) or 'none'}"
    return f"unknown key '{_join(path, key)}'; {hint}"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def type_name(wanted: Any) -> str:
    """Return a field's type in words, for error messages and `--list`."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is typing.Annotated:
        if arguments[0] is ComponentSpec:
            return f"a {arguments[1]}"
        limits = [each for each in arguments[1:] if isinstance(each, Range | MinLength | OrShare)]
        return functools.reduce(lambda noun, limit: limit.describe(noun), limits, type_name(arguments[0]))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if argument is type(None) else type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin is dict:
        return f"names with {type_name(arguments[1])} each"
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(map(type_name, arguments))}]"
    if origin in (list, tuple):
        return f"a list of {type_name(arguments[0])}"
    if dataclasses.is_dataclass(wanted) and wanted is not Schedule:
        return "options"
    words = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        Schedule: "a schedule",
    }
    return words.get(wanted, "anything")


def to_plain(value: Any, *, without: type | None = None) -> Any:
    """Return a parsed config as plain data, from which `write_config`, `read_config` and `parse` restore it.

    without: a marker; options whose type has it are left out.
    """
    if isinstance(value, ComponentSpec):
        return {"type": value.type, **to_plain(value.options, without=without)}
    if isinstance(value, Schedule):
        return value.to_config()
    if isinstance(value, Share):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [field.name for field in dataclasses.fields(value) if not _has_marker(type(value), field.name, without)]
        return {option_key(name): to_plain(getattr(value, name), without=without) for name in kept}
    if isinstance(value, dict):
        return {key: to_plain(item, without=without) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item, without=without) for item in value]
    return value


def _has_marker(config: type, name: str, marker: type | None) -> bool:
    if marker is None:
        return False
    hint = typing.get_type_hints(config, include_extras=True)[name]
    return any(isinstance(found, marker) for found in getattr(hint, "__metadata__", ()))
