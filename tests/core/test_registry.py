"""The registry and extensions: lazy loading, exact names, and clear failures."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.paths import ROOT

from liftstudio.core import registry
from liftstudio.core.errors import InputError
from liftstudio.core.registry import Component, find, load_extensions, loaded_extensions, names, register


@pytest.fixture(autouse=True)
def no_failures() -> Iterator[None]:
    registry.extension_failures.clear()
    yield
    registry.extension_failures.clear()


def extension(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


GOOD = """
from dataclasses import dataclass
from liftstudio.core.registry import Component, register

@register("{name}")
class Extra(Component):
    "An extra."
    kind = "test-registry-extra"
"""


def test_every_builtin_is_registered_by_its_module() -> None:
    for kind, known in registry.BUILTIN.items():
        for name in known:
            component = find(name, kind)
            assert component.kind == kind and component.__doc__ and component.Config


def test_unknown_name_suggests() -> None:
    with pytest.raises(InputError, match="unknown light 'unifrom'; did you mean 'uniform'"):
        find("unifrom", "light")
    with pytest.raises(InputError, match="known: spherical-gaussians, uniform"):
        find("zzz", "light")


def test_a_name_can_be_registered_once() -> None:
    def make(qualname: str) -> type[Component]:
        @dataclass
        class One(Component):
            kind = "test-registry-taken"

        One.__qualname__ = qualname
        return One

    register("one")(make("A"))
    with pytest.raises(ValueError, match="already registered"):
        register("one")(make("B"))


def test_extensions_register_and_a_failing_one_does_not_stop_the_others(tmp_path: Path) -> None:
    extension(tmp_path, "a-broken", GOOD.format(name="half") + "\nimport no_such_module_at_all\n")
    extension(tmp_path, "b-exits", "raise SystemExit(1)")
    extension(tmp_path, "c-good", "from .inside import Extra\n")
    (tmp_path / "c-good" / "inside.py").write_text(GOOD.format(name="whole"))
    (tmp_path / "no-package").mkdir()
    load_extensions(tmp_path)
    assert sorted(registry.extension_failures) == ["a-broken", "b-exits"]
    assert "no_such_module_at_all" in registry.extension_failures["a-broken"]
    assert names("test-registry-extra") == ["whole"], "a half-loaded extension leaves nothing behind"
    assert find("whole", "test-registry-extra").__doc__ == "An extra."
    assert loaded_extensions()["c-good"].endswith("__init__.py")
    with pytest.raises(InputError, match="extensions that failed to load: a-broken, b-exits"):
        find("half", "test-registry-extra")


def test_loading_twice_and_duplicate_names(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        extension(tmp_path / folder, "d-same", GOOD.format(name="same"))
    load_extensions(tmp_path / "one")
    load_extensions(tmp_path / "one")
    assert not registry.extension_failures
    load_extensions(tmp_path / "two")
    assert "an extension of that name is loaded from" in registry.extension_failures["d-same"]


def test_a_method_may_be_imported_before_all_are_declared() -> None:
    """By name and by module, its component is the same class."""
    code = (
        "from liftstudio.methods.zero123.guidance import Zero123SDS\n"
        "from liftstudio.core import registry\n"
        "registry.load_methods()\n"
        "assert registry.find('zero123-sds', 'guidance') is Zero123SDS\n"
        "assert 'zero123' in registry.names('prior')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_missing_folder_is_no_extension(tmp_path: Path) -> None:
    load_extensions(tmp_path / "nothing")
    assert not registry.extension_failures


def test_a_component_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_package_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.BUILTIN, "test-registry-needs", {"x": "needs_more"})
    with pytest.raises(InputError, match="needs the package 'no_such_package_at_all'"):
        find("x", "test-registry-needs")


COMPONENTS = """
COMPONENTS = {{"test-registry-lazy": {{"{name}": "inside"}}}}
"""


def test_an_extension_may_name_its_components_and_be_imported_later(tmp_path: Path) -> None:
    kind = "test-registry-lazy"
    extension(tmp_path, "e-lazy", COMPONENTS.format(name="later"))
    inside = GOOD.format(name="later").replace("test-registry-extra", kind)
    (tmp_path / "e-lazy" / "inside.py").write_text(inside)
    extension(tmp_path, "f-taken", COMPONENTS.format(name="later"))
    extension(tmp_path, "g-broken", COMPONENTS.format(name="broken"))
    (tmp_path / "g-broken" / "inside.py").write_text("1 / 0\n")
    load_extensions(tmp_path)
    assert f"{kind} 'later' is already registered" in registry.extension_failures.pop("f-taken")
    assert not registry.extension_failures and kind in registry.kinds() and names(kind) == ["broken", "later"]
    assert "liftstudio_custom_e-lazy.inside" not in sys.modules, "not imported before it is asked for"
    assert find("later", kind).__name__ == "Extra"
    with pytest.raises(
        InputError, match=r"'broken': liftstudio_custom_g-broken\.inside failed to load: ZeroDivisionError"
    ):
        find("broken", kind)
    for name in ("e-lazy", "g-broken"):
        registry._forget(f"liftstudio_custom_{name}")
    assert names(kind) == []
