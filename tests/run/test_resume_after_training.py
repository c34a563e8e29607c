"""Runs of every geometry that are killed after their last step, or exported again: always the same mesh files."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from helpers.processes import Launched
from helpers.tiny_project import write_capture
from helpers.tiny_stages import stage, write_ball

from liftstudio.cli.command_line import main

MOMENTS = {
    "test": "liftstudio.run.evaluation:save_stills",
    "between": "liftstudio.run.run:export_mesh",
    "export": "liftstudio.export.pipeline:file_report",  # the mesh files are written, their report is not
}
CONFIG = {
    "data": {"path": "capture"},
    "views": {"type": "posed-images", "path": "${data.path}"},
    "device": "cpu",
    "test": {"frames": 1, "size": 16, "stills": 1},
    "log": {"tensorboard": False},
    "export": {"formats": ["glb", "obj"], "texture_size": 64, "shaded": True},
}


def train(tag: str) -> list[str]:
    return ["--config", "tiny.yaml", "--train", f"tag={tag}"]


def again(mode: str, tag: str) -> list[str]:
    return ["--config", f"runs/tiny/{tag}/config.yaml", f"--{mode}"]


def kill(arguments: list[str], moment: str) -> None:
    """Run a command line in a process of its own, which is killed at one of MOMENTS."""
    assert Launched(*arguments, killed_in=MOMENTS[moment]).wait()[0] == -signal.SIGKILL


def exported(tag: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(f"runs/tiny/{tag}/export").iterdir()}


@pytest.fixture
def trained(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Train the geometry of `request` to the end, as runs/tiny/straight; return its mesh files."""
    monkeypatch.chdir(tmp_path)
    write_capture(tmp_path / "capture")
    write_ball(tmp_path)
    system = {"type": "coarse-to-fine", "light": "spherical-gaussians", "stages": {"only": stage(request.param, 9)}}
    (tmp_path / "tiny.yaml").write_text(json.dumps({**CONFIG, "system": system}))
    assert main(train("straight")) == 0
    files = exported("straight")
    assert {"mesh.glb", "mesh.obj", "mesh_shaded.glb"} <= set(files)
    return files


@pytest.mark.parametrize("trained", ["dmtet"], indirect=True)
def test_a_run_killed_after_its_last_step_ends_in_the_same_bytes(trained: dict[str, bytes]) -> None:
    kill(train("killed"), "test")
    kill(again("resume", "killed"), "between")
    kill(again("export", "killed"), "export")
    assert exported("killed") == {name: data for name, data in trained.items() if name != "report.json"}
    for mode in ("resume", "export"):
        assert main(again(mode, "killed")) == 0
        assert exported("killed") == trained


@pytest.mark.parametrize("trained", ["instant-ngp", "neus-hash-grid", "mesh"], indirect=True)
def test_a_finished_run_of_every_other_geometry_exports_the_same_bytes(trained: dict[str, bytes]) -> None:
    """Its folder without mesh files is what a kill after the last step leaves."""
    shutil.rmtree("runs/tiny/straight/export")
    kill(again("export", "straight"), "export")
    assert exported("straight") == {name: data for name, data in trained.items() if name != "report.json"}
    assert main(again("resume", "straight")) == 0
    assert exported("straight") == trained
