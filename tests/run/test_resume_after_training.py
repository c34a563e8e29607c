"""Runs of every geometry that are killed after their last step, or exported again: always the same mesh files."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from helpers.processes import Launched
from helpers.tiny_project import write_capture
from helpers.tiny_stages import stage, write_ball
from test_resume import finish

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


def train(tag: str, killed_in: str = "") -> Launched:
    return Launched("--config", "tiny.yaml", "--train", f"tag={tag}", killed_in=killed_in)


def again(mode: str, tag: str, killed_in: str = "") -> Launched:
    return Launched("--config", f"runs/tiny/{tag}/config.yaml", f"--{mode}", killed_in=killed_in)


def killed(process: Launched) -> None:
    assert process.wait()[0] == -signal.SIGKILL


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
    finish(train("straight"))
    files = exported("straight")
    assert {"mesh.glb", "mesh.obj", "mesh_shaded.glb"} <= set(files)
    return files


@pytest.mark.parametrize("trained", ["dmtet"], indirect=True)
def test_a_run_killed_after_its_last_step_ends_in_the_same_bytes(trained: dict[str, bytes]) -> None:
    killed(train("killed", MOMENTS["test"]))
    killed(again("resume", "killed", MOMENTS["between"]))
    killed(again("export", "killed", MOMENTS["export"]))
    assert exported("killed") == {name: data for name, data in trained.items() if name != "report.json"}
    for mode in ("resume", "export"):
        finish(again(mode, "killed"))
        assert exported("killed") == trained


@pytest.mark.parametrize("trained", ["instant-ngp", "neus-hash-grid", "mesh"], indirect=True)
def test_a_finished_run_of_every_other_geometry_exports_the_same_bytes(trained: dict[str, bytes]) -> None:
    """Its folder without mesh files is what a kill after the last step leaves."""
    shutil.rmtree("runs/tiny/straight/export")
    killed(again("export", "straight", MOMENTS["export"]))
    assert exported("straight") == {name: data for name, data in trained.items() if name != "report.json"}
    finish(again("resume", "straight"))
    assert exported("straight") == trained
