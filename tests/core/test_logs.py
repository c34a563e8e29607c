"""log.csv, the progress line, messages."""

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from liftstudio.core import logs
from liftstudio.core.errors import InputError
from liftstudio.core.logs import CsvLog, LogConfig, RunLog, StageProgress, TensorBoardLog, WandbLog


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def row(step: int, **values: float) -> dict[str, object]:
    return {"total_step": step, "stage": "coarse", "step": step, **values}


def test_new_values_add_columns(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "log.csv")
    log.write(row(1, loss=0.5))
    log.write(row(2, loss=0.25, late=1.0))
    log.write(row(3, late=2.0))
    found = rows(tmp_path / "log.csv")
    assert [r["loss"] for r in found] == ["0.5", "0.25", ""]
    assert [r["late"] for r in found] == ["", "1.0", "2.0"]


def test_resuming_drops_later_and_incomplete_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = CsvLog(path)
    for step in range(1, 6):
        log.write(row(step, loss=step / 10))
    with path.open("a") as file:
        file.write("6,coarse")  # a process was killed while it wrote
    again = CsvLog(path, total_step=3)
    assert [r["step"] for r in rows(path)] == ["1", "2", "3"]
    again.write(row(4, loss=0.4))
    assert [r["step"] for r in rows(path)] == ["1", "2", "3", "4"]


def test_the_same_rows_whether_stopped_or_not(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "a.csv", tmp_path / "b.csv"
    log = CsvLog(straight)
    for step in range(1, 7):
        log.write(row(step, loss=1 / step))
    log = CsvLog(stopped)
    for step in range(1, 5):
        log.write(row(step, loss=1 / step))
    log = CsvLog(stopped, total_step=2)
    for step in range(3, 7):
        log.write(row(step, loss=1 / step))
    assert straight.read_bytes() == stopped.read_bytes()


def test_tensorboard_holds_the_values(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = RunLog(tmp_path / "log.csv", 0, [TensorBoardLog(tmp_path / "tb", 0)])
    for step in (1, 2, 3):
        log.write("coarse", step, step, {"loss": step / 4})
    log.close()
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("coarse/loss")] == [(1, 0.25), (2, 0.5), (3, 0.75)]


def test_weights_and_biases_gets_the_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: told.append((values, step)), finish=lambda: told.append("end"))
    service = SimpleNamespace(init=lambda **options: told.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", service)
    for _ in range(2):  # the second time it is continued
        log = RunLog(tmp_path / "log.csv", 0, [WandbLog("chairs", tmp_path / "sv3d" / "owl")])
        log.write("coarse", 1, 1, {"loss": 0.5})
        log.close()
    first, *_ = told
    assert first["project"] == "chairs" and first["name"] == "sv3d/owl" and first["resume"] == "allow"
    assert told[1:3] == [({"coarse/loss": 0.5}, 1), "end"] and told[3] == first


def test_logging_to_a_service_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"wandb: .* pip install 'liftstudio\[wandb\]'"):
        LogConfig(wandb="chairs")


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(verbose=False)
    with StageProgress("coarse", 0, 3) as progress:
        for done in (1, 2, 3):
            progress.update(done, {"loss": 0.125, "views/rgb": 0.0625})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, "only the last: less time than between two lines has passed"
    assert lines[0].startswith("coarse 3/3  loss 0.125  views/rgb 0.0625")
    assert "s/step" in lines[0] and "ETA 00:00:00" in lines[0]


def test_progress_on_a_terminal_is_live(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with StageProgress("coarse", 0, 2) as progress:
        progress.update(2, {"loss": 0.125})
    shown = capsys.readouterr().out
    assert "coarse" in shown and "loss 0.125" in shown


def test_warnings_go_to_stderr_and_messages_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(verbose=False)
    logs.log.info("hello %s", "you")
    logs.log.debug("not shown")
    logs.log.warning("careful")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("hello you\n", "warning: careful\n")
