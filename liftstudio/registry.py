"""Components by name. A name's module is imported when the name is first asked for."""

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from liftstudio.errors import InputError

# kind -> name -> module that registers it
BUILTIN: dict[str, dict[str, str]] = {
    "system": {"coarse-to-fine": "liftstudio.systems.coarse_to_fine"},
    "views": {"posed-images": "liftstudio.views.posed_images"},
    "geometry": {
        "instant-ngp": "liftstudio.geometry.instant_ngp",
        "dmtet": "liftstudio.geometry.dmtet",
        "mesh": "liftstudio.geometry.fixed_mesh",
    },
    "material": {"diffuse": "liftstudio.materials.diffuse"},
    "light": {
        "uniform": "liftstudio.lights.uniform",
        "spherical-gaussians": "liftstudio.lights.spherical_gaussians",
    },
    "background": {"solid-color": "liftstudio.backgrounds.solid_color"},
    "renderer": {"volume": "liftstudio.renderers.volume", "surface": "liftstudio.renderers.surface"},
    "guidance": {"reconstruction": "liftstudio.guidance.reconstruction"},
}


class Component:
    """What is registered: a class of one kind with its options as a nested dataclass `Config`.

    The first line of the docstring is its purpose in `--list`; a comment on each Config field is its meaning and unit.
    """

    kind: ClassVar[str]

    @dataclass
    class Config:
        """No options."""


ComponentType = TypeVar("ComponentType", bound=type[Component])

_registered: dict[str, dict[str, type[Component]]] = {}
extension_failures: dict[str, str] = {}  # extension folder name -> traceback of its import


def register(name: str) -> Callable[[ComponentType], ComponentType]:
    """Class decorator: make a component available as `type: name` among those of its kind.

    Raises:
        ValueError: the name is taken by another class of that kind.
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
    """All component kinds, in the order of the pipeline, then those only extensions add."""
    return list(BUILTIN) + sorted(set(_registered) - set(BUILTIN))


def names(kind: str) -> list[str]:
    """All registered names of a kind, sorted."""
    return sorted({*BUILTIN.get(kind, {}), *_registered.get(kind, {})})


def find(name: str, kind: str) -> type[Any]:
    """The component class registered under `name`.

    Raises:
        InputError: unknown name: lists near matches, and the extensions that failed to load; or the component
            needs a package that is not installed.
    """
    if name not in _registered.get(kind, {}) and name in BUILTIN.get(kind, {}):
        try:
            importlib.import_module(BUILTIN[kind][name])
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] == "liftstudio":
                raise
            raise InputError(f"{kind} '{name}' needs the package '{error.name}', which is not installed") from error
    try:
        return _registered[kind][name]
    except KeyError:
        raise InputError(_unknown(name, kind)) from None


def _unknown(name: str, kind: str) -> str:
    near = difflib.get_close_matches(name, names(kind), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"known: {', '.join(names(kind))}"
    failed = f" (extensions that failed to load: {', '.join(extension_failures)})" if extension_failures else ""
    return f"unknown {kind} '{name}'; {hint}{failed}"


def load_extensions(folder: Path) -> None:
    """Import every sub-folder of `folder` that has an `__init__.py`; one that fails is noted, and the others go on."""
    for init in sorted(folder.resolve().glob("*/__init__.py")):
        name = init.parent.name
        loaded = sys.modules.get(_module_name(name))
        if loaded is None and name not in extension_failures:
            _load_extension(name, init)
        elif loaded is not None and loaded.__file__ != str(init):
            extension_failures[name] = f"{init.parent}: an extension of that name is loaded from {loaded.__file__}\n"


def loaded_extensions() -> dict[str, str]:
    """Name -> `__init__.py` of the extensions that are loaded."""
    prefix = _module_name("")
    loaded = {name.removeprefix(prefix): module for name, module in sys.modules.items() if name.startswith(prefix)}
    return {name: str(module.__file__) for name, module in loaded.items() if "." not in name}


def _module_name(extension: str) -> str:
    return f"liftstudio_custom_{extension}"


def _load_extension(name: str, init: Path) -> None:
    try:
        _import_package(_module_name(name), init)
    except (Exception, SystemExit):
        extension_failures[name] = traceback.format_exc()
        _forget(_module_name(name))


def _forget(package: str) -> None:
    """Nothing of a half-loaded extension stays; what it imported from elsewhere does."""

    def is_inside(module: str) -> bool:
        return module == package or module.startswith(f"{package}.")

    for kind, known in list(_registered.items()):
        _registered[kind] = {name: cls for name, cls in known.items() if not is_inside(cls.__module__)}
        if not _registered[kind]:
            del _registered[kind]
    for module in filter(is_inside, list(sys.modules)):
        del sys.modules[module]


def _import_package(module_name: str, init: Path) -> None:
    spec = importlib.util.spec_from_file_location(module_name, init, submodule_search_locations=[str(init.parent)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
