"""A run that is killed or stopped at any moment resumes to the same bytes as an uninterrupted one."""

import csv
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from helpers.processes import Launched
from helpers.tiny_project import make_project

from liftstudio.cli.command_line import main
from liftstudio.core.checkpoints import Checkpoints, read_verified

# Checkpoints of 8 MB at every step: about half of the time goes into writing them.
OPTIONS = ["data.path=capture", "device=cpu", "checkpoint.every=1", "system.ballast=2000000", "system.steps=12"]
MEASURED = {"seconds_per_step", "memory_gb"}  # columns of log.csv that vary between runs


def train(tag: str) -> list[str]:
    return ["--config", "tiny.yaml", "--train", *OPTIONS, f"tag={tag}"]


def resume(tag: str) -> Launched:
    return Launched("--config", f"runs/tiny/{tag}/config.yaml", "--resume")


def wait_for_steps(folder: Path, process: Launched, seconds: float) -> None:
    """Wait until the run has a new checkpoint, then `seconds` more."""
    begin = time.time()
    known = set(folder.glob("checkpoints/step-*"))
    while not set(folder.glob("checkpoints/step-*")) - known and not process.ended():
        assert time.time() - begin < 120
        time.sleep(0.01)
    time.sleep(seconds)


def finish(process: Launched) -> str:
    code, errors = process.wait()
    assert code == 0, errors
    return errors


def result(folder: Path) -> dict[str, object]:
    """Return everything that must not depend on whether the run was stopped."""
    last = read_verified(Checkpoints(folder / "checkpoints").paths()[0])
    with (folder / "log.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k not in MEASURED} for row in csv.DictReader(file)]
    exported = {path.name: path.read_bytes() for path in (folder / "export").iterdir()}
    state = last["system"]
    tensors = [state["parameters"], state["generator"], last["random"]["torch"]]
    return {
        "place": (last["stage"], last["step"]),
        "tensors": [tensor.numpy().tobytes() for tensor in tensors],
        "python": last["random"]["python"],
        "log": rows,
        "export": exported,
    }


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The result of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("straight")
    from helpers import tiny_system  # noqa: F401  registers "tiny-sphere" in this process

    make_project(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(train("straight")) == 0
    finally:
        os.chdir(before)
    return result(folder / "runs" / "tiny" / "straight")


def test_killed_at_random_moments(project_with_extension: Path, straight: dict[str, object]) -> None:
    folder = project_with_extension / "runs" / "tiny" / "killed"
    process = Launched(*train("killed"))
    for _ in range(3):
        wait_for_steps(folder, process, random.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / ".000001.0123456789ab.tmp.png").touch()  # left by a kill at the worst moment
        process = resume("killed")
    finish(process)
    assert result(folder) == straight
    assert not list(folder.rglob("*.tmp*")), "a killed write is left over"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_signal(number: signal.Signals, project_with_extension: Path, straight: dict[str, object]) -> None:
    folder = project_with_extension / "runs" / "tiny" / "stopped"
    process = Launched(*train("stopped"))
    wait_for_steps(folder, process, random.uniform(0, 0.15))
    process.send_signal(number)
    code, errors = process.wait()
    assert code == 3, errors
    assert f"--config runs/tiny/stopped{os.sep}config.yaml --resume" in errors and len(errors.splitlines()) == 1
    torn = Checkpoints(folder / "checkpoints").paths()[0]
    torn.write_bytes(torn.read_bytes()[:-1000])
    errors = finish(resume("stopped"))
    assert "truncated" in errors and "using the one before" in errors
    assert result(folder) == straight


def test_second_interrupt_stops_at_once(project_with_extension: Path) -> None:
    folder = project_with_extension / "runs" / "tiny" / "twice"
    process = Launched(
        "--config", "tiny.yaml", "--train", "data.path=capture", "tag=twice", "system.seconds=90", "checkpoint.every=1"
    )
    while not folder.exists():
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    begin = time.time()
    process.send_signal(signal.SIGINT)
    code, errors = process.wait()  # the step would take longer, and a busy machine takes some seconds
    assert code == 3 and "--resume" in errors and time.time() - begin < 60


def test_resume_of_a_finished_run_exports_again(project: Path) -> None:
    assert main(["--config", "tiny.yaml", "--train", "data.path=capture", "tag=done"]) == 0
    folder = project / "runs" / "tiny" / "done"
    before = result(folder)
    for path in (folder / "export").iterdir():
        path.unlink()
    (project / "capture").rename(project / "moved")  # the run has its own copy
    assert main(["--config", "runs/tiny/done/config.yaml", "--resume"]) == 0
    assert result(folder) == before


def test_a_run_is_written_by_one_process_at_a_time(
    project_with_extension: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from helpers import tiny_system  # noqa: F401  registers "tiny-sphere" in this process

    folder = project_with_extension / "runs" / "tiny" / "busy"
    process = Launched(
        "--config", "tiny.yaml", "--train", "data.path=capture", "tag=busy", "system.seconds=0.5", "checkpoint.every=1"
    )
    wait_for_steps(folder, process, 0)
    shutil.rmtree("custom")  # the same system once more
    before = (folder / "command.txt").read_text()
    for mode in ("--resume", "--export", "--test", "--validate"):
        assert main(["--config", "runs/tiny/busy", mode]) == 2
        assert re.search(r"error: runs/tiny/busy: process \d+ writes there", capsys.readouterr().err)
    assert (folder / "command.txt").read_text() == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["--config", "runs/tiny/busy", "--export"]) == 0
    assert not (folder / "lock").exists()
