"""The real coarse-to-fine run, killed in both stages and while checkpoints are written: same mesh and texture bytes."""

import os
import random
import signal
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.processes import Launched
from helpers.tiny_project import write_capture
from test_resume import finish, wait_for_steps

from liftstudio.cli.command_line import main

NAME = "reconstruct-views"
# A checkpoint at every step: with the hash table and Adam's state (12 MB) about half the time goes into writing them.
OPTIONS = [
    "data.path=capture",
    "device=cpu",
    "checkpoint.every=1",
    "views.held_out=[]",
    "system.light=spherical-gaussians",
    "system.stages.coarse.steps=6",
    "system.stages.coarse.guidance.views.views_per_step=1",
    "system.stages.coarse.renderer.grid_resolution=16",
    "system.stages.coarse.renderer.samples_across=32",
    "system.stages.fine.steps=6",
    "system.stages.fine.geometry.resolution=16",
    "test.frames=1",
    "test.size=16",
    "test.stills=0",
    "log.tensorboard=false",
    "export.formats=[glb,obj]",
    "export.texture_size=64",
]


def train(tag: str) -> list[str]:
    return ["--config", str(ROOT / "configs" / f"{NAME}.yaml"), "--train", *OPTIONS, f"tag={tag}"]


def exported(tag: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path("runs") / NAME / tag / "export").iterdir()}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a capture, and the result of an uninterrupted run in it."""
    folder = tmp_path_factory.mktemp("resume")
    write_capture(folder / "capture", views=6, size=32)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(train("straight")) == 0
    finally:
        os.chdir(before)
    return folder


def test_killed_run_ends_in_the_same_bytes(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice in the first stage, then twice in the second."""
    monkeypatch.chdir(workplace)
    folder = Path("runs") / NAME / "killed"
    process = Launched(*train("killed"))
    for stage in ("coarse", "coarse", "fine", "fine"):
        while not list(folder.glob(f"checkpoints/step-*-{stage}.ckpt")) and not process.ended():
            wait_for_steps(folder, process, 0)
        wait_for_steps(folder, process, random.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = Launched("--config", str(folder / "config.yaml"), "--resume")
    finish(process)
    straight = exported("straight")
    assert {"mesh.glb", "mesh.obj"} <= set(straight)
    assert exported("killed") == straight
