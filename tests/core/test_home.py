"""The home folder: `~` in the paths of all options, and users who have none or may not write there."""

import logging
import os
import pwd
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import tiny_system  # noqa: F401  registers "tiny-sphere"
from helpers.paths import ROOT
from helpers.tiny_project import make_project

from liftstudio.cli import command_line, package_prior, train_prior
from liftstudio.core import cache
from liftstudio.core.assets import input_path, output_path
from liftstudio.core.cache import cache_folder, cached
from liftstudio.core.errors import InputError
from liftstudio.training.meshes.solids import kept_cells


@pytest.fixture
def homeless(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder of a user without HOME and without an entry in the system's list of users."""

    def no_entry(_: object) -> None:
        raise KeyError

    for name in ("HOME", "LIFTSTUDIO_CACHE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    monkeypatch.setattr(logging.getLogger("liftstudio"), "propagate", True)
    cache._warn_of_no_home.cache_clear()
    return here


def test_without_a_home_folder_nothing_is_cached(homeless: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert cache_folder() is None
    for _ in range(2):
        assert cached("views", "a", lambda: {"x": torch.ones(1)})["x"] == 1
    assert caplog.text.count("set LIFTSTUDIO_CACHE to a folder") == 1
    assert not list(homeless.iterdir())


def test_without_a_home_folder_a_path_in_it_is_refused(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^~/x: there is no home folder for '~'; give the full path$"):
        output_path("~/x")
    with pytest.raises(InputError, match="no home folder for '~nobody-of-that-name'"):
        output_path("~nobody-of-that-name/x")
    monkeypatch.setenv("LIFTSTUDIO_CACHE", "~/cache")
    with pytest.raises(InputError, match="~/cache: there is no home folder"):
        cache_folder()
    assert input_path("~/x") == Path("~/x")  # there is no such file


def test_a_run_without_a_home_folder(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_project(homeless)
    train = ["--config", "tiny.yaml", "--train", "data.path=capture", "device=cpu", "system.steps=1", "tag=a"]
    assert command_line.main([*train, "runs_dir=~/runs"]) == command_line.BAD_INPUT
    assert "error: ~/runs: there is no home folder" in capsys.readouterr().err
    assert command_line.main([*train, "data.path=~/capture"]) == command_line.BAD_INPUT
    assert "~/capture: no such file or folder" in capsys.readouterr().err
    assert command_line.main(train) == command_line.DONE
    assert not Path("~").exists()


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user whose current folder is another one."""
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "home").mkdir()
    return here / "home"


def test_options_of_a_run(home: Path) -> None:
    make_project(home)
    yaml = (home / "tiny.yaml").read_text().replace("???", "~/capture")
    (home / "tiny.yaml").write_text(f"{yaml}runs_dir: ~/of-yaml\n")
    train = ["--config=~/tiny.yaml", "--train", "device=cpu", "system.steps=1", "tag=a"]
    assert command_line.main(train) == command_line.DONE
    assert command_line.main([*train, "runs_dir=~/of-command", "data.path=~/capture"]) == command_line.DONE
    for place in ("of-yaml", "of-command"):
        assert (home / place / "tiny" / "a" / "export" / "mesh.ply").is_file()
        assert command_line.main([f"--config=~/{place}/tiny/a", "--export"]) == command_line.DONE
    assert not Path("~").exists() and not Path("runs").exists()


def test_options_of_prior_training_and_packaging(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr("liftstudio.training.loop.train", lambda config, folder: folders.append(folder))
    (home / "tiny.yaml").write_text("task: {type: toys}\n")
    assert train_prior.main(["--config=~/tiny.yaml", "runs_dir=~/priors"]) == command_line.DONE
    assert folders == [home / "priors" / "tiny"]
    assert package_prior.main(["~/none.safetensors", "~/asset"]) == command_line.BAD_INPUT
    assert not Path("~").exists()


def test_solids_without_a_home_folder(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liftstudio.training.meshes.solids.carve", lambda vertices, faces: "carved")
    monkeypatch.setattr("liftstudio.training.meshes.solids._digest", lambda mesh: "")
    mesh: Any = SimpleNamespace(vertices=None, faces=None)
    assert kept_cells(mesh) == "carved"


KERNEL = """\
import os
from liftstudio.synthetic.textures import mix
print(mix(2, 1.0, 0.0, 0.0, 0.0, 0.5), os.environ.get("XDG_CACHE_HOME", ""))
"""
NEEDED = ("__init__.py", "synthetic/textures.py")  # without torch, which takes long to import


@pytest.mark.parametrize("place", ["/proc", "~", None], ids=["not writable", "none", "writable"])
def test_kernels_are_compiled_where_nothing_can_be_kept(place: str | None, here: Path) -> None:
    """Numba keeps compiled kernels beside the sources or in the user's cache folder; here it cannot write the first."""
    for name in NEEDED:
        copy = here / "installed" / "liftstudio" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / "liftstudio" / name).read_bytes())
        (copy.parent / "__pycache__").touch()  # no folder, so that root cannot write there either
    (here / "home").mkdir()
    environment = {**os.environ, "HOME": place or str(here / "home"), "PYTHONPATH": str(here / "installed")}
    environment.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", KERNEL]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    share, _, temporary = done.stdout.strip().partition(" ")
    assert share == "0.75" and bool(temporary) == bool(place)
    assert not (temporary and Path(temporary).exists()) and not (here / "~").exists()
    assert bool(list((here / "home").rglob("*.nbi"))) == (place is None)
