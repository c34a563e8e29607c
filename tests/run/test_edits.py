"""Changes of weights and learning rates during a run: what is possible, and that a resume repeats them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers.tiny_project import write_capture
from helpers.tiny_stages import stage

from liftstudio.cli.command_line import main
from liftstudio.core.checkpoints import Checkpoints
from liftstudio.core.errors import InputError
from liftstudio.core.events import StageStep, listening
from liftstudio.run.jobs import Job, run_job

RUN = Path("runs/two")
CONFIG = {
    "views": {"type": "posed-images", "path": "capture", "held_out": []},
    "system": {"type": "coarse-to-fine", "stages": {"zero": stage("instant-ngp", 2), "one": stage("instant-ngp", 6)}},
    "test": {"frames": 1, "size": 16, "stills": 0},
    "log": {"images_every": 0, "tensorboard": False},
    "checkpoint": {"every": 2},
    "export": {"formats": ["ply"], "texture_size": 64},
    "device": "cpu",
}


class Killed(BaseException):
    """Ends a run at once, as a signal does; nothing is saved."""


@pytest.fixture(autouse=True)
def place(here: Path) -> None:
    write_capture(here / "capture", size=24)
    (here / "two.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))


def train(tag: str, hear: Callable[[StageStep], None], resume: bool = False) -> Path:
    """Do a run, or its rest, and return its folder; `hear` is called after each of its steps."""
    job = Job("resume", RUN / tag) if resume else Job("train", Path("two.yaml"), (f"tag={tag}",))
    with listening(lambda event: hear(event) if isinstance(event, StageStep) else None):
        return run_job(job).path


def change(event: StageStep) -> None:
    """Raise the learning rate after three steps, and change a weight twice after four."""
    if event.stage == "one" and event.step == 3:
        event.run.edit("optimizer.lr", [0, 0.02, 0.2, 6])
    if event.stage == "one" and event.step == 4:
        event.run.edit("guidance.views.lambda_mask", 7)
        event.run.edit("guidance.views.lambda_mask", 5)


def result(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the files of the export, and all that was optimised."""
    saved, _ = Checkpoints(folder / "checkpoints").newest()
    assert saved is not None
    scene = {name: tensor.numpy().tobytes() for name, tensor in saved.system["scene"].items()}
    return {path.name: path.read_bytes() for path in (folder / "export").iterdir()}, scene


@pytest.mark.parametrize("last", [3, 4, 5])
def test_a_killed_run_repeats_its_edits(last: int) -> None:
    """Killed right after an edit, whose step is repeated, and later."""

    def kill(event: StageStep) -> None:
        change(event)
        if (event.stage, event.step) == ("one", last):
            raise Killed

    whole = train("whole", change)
    with pytest.raises(Killed):
        train("killed", kill)
    steps = list[int]()

    def go_on(event: StageStep) -> None:
        steps.append(event.step)
        if event.step > last:
            change(event)

    again = train("killed", go_on, resume=True)
    assert steps[0] == (5 if last > 3 else 3)
    assert result(again) == result(whole)
    assert result(train("plain", lambda event: None))[1] != result(whole)[1]
    for folder in (whole, again):
        made = json.loads((folder / "edits.json").read_text())
        assert [(edit["step"], edit["value"]) for edit in made] == [(3, [0, 0.02, 0.2, 6]), (4, 7), (4, 5)]


def test_what_can_be_changed() -> None:
    def look(event: StageStep) -> None:
        run = event.run
        if (event.stage, event.step) != ("one", 2):
            return
        known = {"optimizer.lr", "guidance.views.lambda_rgb", "guidance.views.lambda_mask"}
        assert set(run.system.schedules()) == known
        for option, value, message in (
            ("guidance.views.lambda_ssim", 1, "cannot be changed in this stage; it has optimizer.lr"),
            ("optimizer.lr", -1, "expected 0 or more, got -1"),
            ("optimizer.lr", "fast", "expected a number"),
            ("optimizer.lr", float("nan"), "expected finite numbers"),
        ):
            with pytest.raises(InputError, match=message):
                run.edit(option, value)
        run.edit("guidance.views.lambda_rgb", 0)
        with pytest.raises(InputError, match="no loss would be active at step 4"):
            run.edit("guidance.views.lambda_mask", [0, 1, 0, 4])
        assert {name: str(each) for name, each in run.system.schedules().items()} == {
            "optimizer.lr": "0.01",
            "guidance.views.lambda_rgb": "0.0",
            "guidance.views.lambda_mask": "1.0",
        }
        assert set(run.system.cameras()) == {"views"} and len(run.system.cameras()["views"]) == 2

    folder = train("a", look)
    assert len(json.loads((folder / "edits.json").read_text())) == 1
    assert main(["--config", str(folder), "--resume"]) == 0  # the options of the config have not changed


def test_the_time_of_a_listener_is_not_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            self.now += 0.001
            return self.now

    clock = Clock()
    monkeypatch.setattr("liftstudio.run.run.time", clock)
    folder = train("a", lambda event: setattr(clock, "now", clock.now + 1000))
    stages = json.loads((folder / "metrics.json").read_text())["run"]["stages"]
    assert all(stage["seconds"] < 10 for stage in stages.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no list of changes"),
        ('[{"stage": "one", "step": 1}]', "no list of changes"),
        ('[{"stage": "one", "step": -1, "option": "optimizer.lr", "value": 1}]', "step: expected 0 or more"),
        ('[{"stage": "one", "step": 1, "option": "optimizer.lr", "value": "x"}]', "expected a number"),
        (
            '[{"stage": "one", "step": 6, "option": "no", "value": 1}]',
            "from step 6 on: no = 1.0: no: cannot be changed",
        ),
    ],
)
def test_a_damaged_file(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(event: StageStep) -> None:
        if (event.stage, event.step) == ("one", 2):
            raise Killed

    with pytest.raises(Killed):
        train("a", stop)
    (RUN / "a" / "edits.json").write_text(text)
    assert main(["--config", str(RUN / "a"), "--resume"]) == 2
    errors = capsys.readouterr().err
    assert f"{RUN / 'a' / 'edits.json'}: " in errors and message in errors and len(errors.splitlines()) == 1
