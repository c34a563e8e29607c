"""Registry of components by kind and name; a component's module is imported when its name is first looked up."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from liftstudio.core.errors import InputError
from liftstudio.core.ranges import check_ranges

METHODS = "liftstudio.methods"  # the package whose subpackages each implement a paper's method

# kind -> name -> module that registers it
BUILTIN: dict[str, dict[str, str]] = {
    "system": {"coarse-to-fine": "liftstudio.systems.coarse_to_fine"},
    "views": {"posed-images": "liftstudio.views.posed_images"},
    "view-enhancer": {"image-analogy": "liftstudio.views.image_analogy"},
    "map-estimator": {},
    "geometry": {
        "instant-ngp": "liftstudio.geometry.instant_ngp",
        "neus": "liftstudio.geometry.neus",
        "dmtet": "liftstudio.geometry.dmtet",
        "mesh": "liftstudio.geometry.fixed_mesh",
    },
    "material": {
        "diffuse": "liftstudio.materials.diffuse",
        "diffuse-point-light": "liftstudio.materials.diffuse_point_light",
    },
    "light": {
        "uniform": "liftstudio.lights.uniform",
        "spherical-gaussians": "liftstudio.lights.spherical_gaussians",
    },
    "background": {
        "solid-color": "liftstudio.backgrounds.solid_color",
        "directional": "liftstudio.backgrounds.directional",
    },
    "renderer": {
        "volume": "liftstudio.renderers.volume",
        "neus": "liftstudio.renderers.neus",
        "surface": "liftstudio.renderers.surface",
    },
    "guidance": {"reconstruction": "liftstudio.guidance.reconstruction"},
    "prior": {
        "auto": "liftstudio.priors.opening",
        "objects": "liftstudio.priors.objects.prior",
        "toys": "liftstudio.priors.toys.prior",
    },
    "prior-task": {
        "elevation": "liftstudio.training.elevation_task",
        "objects": "liftstudio.training.objects_task",
        "toys": "liftstudio.training.toys_task",
    },
}


class Component:
    """Base class of all registered classes: each has a kind, and its options as a nested dataclass `Config`.

    `--list` prints the first line of the docstring as the purpose, and the comment behind each field of `Config` as the
    meaning and unit of that option.
    """

    kind: ClassVar[str]

    @dataclass
    class Config:
        """No options."""

    def __new__(cls, *arguments: Any, **_: Any) -> Self:
        """Check the ranges of the options, which may have been built in Python rather than parsed from a config."""
        if arguments and isinstance(arguments[0], cls.Config):
            check_ranges(arguments[0], type(arguments[0]))
        return super().__new__(cls)


ComponentType = TypeVar("ComponentType", bound=type[Component])
Item = TypeVar("Item")

_registered: dict[str, dict[str, type[Component]]] = {}
_declared: dict[str, dict[str, str]] = {}  # the same as BUILTIN, for methods and extensions
declared_methods: dict[str, str] = {}  # package -> its `__init__.py`
extension_failures: dict[str, str] = {}  # extension folder name -> traceback of its import


def register(name: str) -> Callable[[ComponentType], ComponentType]:
    """Return a class decorator that registers a component of its kind as `type: name`.

    Raises:
        ValueError: another class of that kind has the name.
    """

    def add(cls: ComponentType) -> ComponentType:
        known = _registered.setdefault(cls.kind, {})
        taken = known.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{cls.kind} '{name}' is already registered by {taken.__module__}.{taken.__qualname__}")
        known[name] = cls
        return cls

    return add


def kinds() -> list[str]:
    """Return all component kinds: the built-in ones in the order of the pipeline, then those that extensions add."""
    return list(BUILTIN) + sorted({*_registered, *_declared} - set(BUILTIN))


def names(kind: str) -> list[str]:
    """Return all registered names of a kind, sorted."""
    return sorted({*BUILTIN.get(kind, {}), *_declared.get(kind, {}), *_registered.get(kind, {})})


def find(name: str, kind: str) -> type[Any]:
    """Return the component class registered under `name`.

    Raises:
        InputError: unknown name (lists close matches and the extensions that failed to load); the component needs a
            package that is not installed; or its extension's module fails to load.
    """
    module = _module_of(name, kind)
    if module is not None and name not in _registered.get(kind, {}):
        _import(module, f"{kind} '{name}'")
    try:
        return _registered[kind][name]
    except KeyError:
        raise InputError(_unknown(name, kind)) from None


def _module_of(name: str, kind: str) -> str | None:
    return BUILTIN.get(kind, {}).get(name) or _declared.get(kind, {}).get(name)


def _import(module: str, component: str) -> None:
    package = module.partition(".")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == package == "liftstudio":
            raise
        raise InputError(f"{component} needs the package '{error.name}', which is not installed") from error
    except Exception as error:
        if not package.startswith(_module_name("")):
            raise
        raise InputError(f"{component}: {module} failed to load: {type(error).__name__}: {error}") from error


def _unknown(name: str, kind: str) -> str:
    near = difflib.get_close_matches(name, names(kind), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(names(kind))}"
    failed = f" (extensions that failed to load: {', '.join(extension_failures)})" if extension_failures else ""
    return f"unknown {kind} '{name}'; {hint}{failed}"


def load_methods() -> None:
    """Declare the components of `liftstudio.methods`, except for methods whose name a user's extension has."""
    for module in pkgutil.iter_modules(importlib.import_module(METHODS).__path__):
        replacement = loaded_extensions().get(module.name)
        package = f"{METHODS}.{module.name}"
        if replacement is not None:
            extension_failures[package] = f"an extension of that name is loaded from {replacement}\n"
        elif package not in declared_methods:
            declared_methods[package] = str(importlib.import_module(package).__file__)
            _declare(package)


def load_extensions(folder: Path) -> None:
    """Import every subfolder of `folder` that has an `__init__.py`; a failure is recorded and the others still load."""
    for init in sorted(folder.resolve().glob("*/__init__.py")):
        name = init.parent.name
        loaded = sys.modules.get(_module_name(name))
        if loaded is None and name not in extension_failures:
            _load_extension(name, init)
        elif loaded is not None and loaded.__file__ != str(init):
            extension_failures[name] = f"{init.parent}: an extension of that name is loaded from {loaded.__file__}\n"


def loaded_extensions() -> dict[str, str]:
    """Return name -> `__init__.py` of the loaded extensions."""
    prefix = _module_name("")
    modules = sys.modules.copy().items()  # in one step, since other threads may import
    loaded = {name.removeprefix(prefix): module for name, module in modules if name.startswith(prefix)}
    return {name: str(module.__file__) for name, module in loaded.items() if "." not in name}


def _module_name(extension: str) -> str:
    return f"liftstudio_custom_{extension}"


def _load_extension(name: str, init: Path) -> None:
    try:
        _import_package(_module_name(name), init)
        _declare(_module_name(name))
    except (Exception, SystemExit):
        extension_failures[name] = traceback.format_exc()
        _forget(_module_name(name))


def _declare(package: str) -> None:
    """Record a package's `COMPONENTS`, kind -> name -> module; the module is imported when the name is looked up."""
    for kind, modules in getattr(sys.modules[package], "COMPONENTS", {}).items():
        for name, module in modules.items():
            place, registered = f"{package}.{module}", _registered.get(kind, {}).get(name)
            if name in names(kind) and (registered is None or registered.__module__ != place):
                raise ValueError(f"{kind} '{name}' is already registered")
            _declared.setdefault(kind, {})[name] = place


def _forget(package: str) -> None:
    """Remove all traces of a half-loaded extension; modules that it imported from elsewhere stay loaded."""

    def is_inside(module: str) -> bool:
        return module == package or module.startswith(f"{package}.")

    _drop(_registered, lambda cls: is_inside(cls.__module__))
    _drop(_declared, is_inside)
    for module in filter(is_inside, list(sys.modules)):
        del sys.modules[module]


def _drop(table: dict[str, dict[str, Item]], is_dropped: Callable[[Item], bool]) -> None:
    for kind, known in list(table.items()):
        table[kind] = {name: item for name, item in known.items() if not is_dropped(item)}
        if not table[kind]:
            del table[kind]


def _import_package(module_name: str, init: Path) -> None:
    spec = importlib.util.spec_from_file_location(module_name, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
