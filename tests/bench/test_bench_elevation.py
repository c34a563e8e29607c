"""The benchmark of estimated elevations, on a small capture and the packs that come with the tests."""

from pathlib import Path

import pytest
import torch
from helpers.paths import OBJECTS_PACK
from helpers.tiny_project import write_capture

from bench.elevation import Errors, main, tables
from liftstudio.cli import command_line


def test_figures() -> None:
    true = torch.tensor([-5.0, 5.0, 5.0, 15.0])
    errors = Errors(true, torch.tensor([10.0, 0.0, -4.0, -2.0]), torch.full((4,), 3.0))
    assert errors.row() == ["4", "4.0", "2.0", "8.2", "1.0", "3.0", "5.0"]
    _, by_elevation = tables({"a": errors, "b": errors})
    assert [list(column.cells) for column in by_elevation.columns[:3]] == [
        ["-10 to 0", "0 to 10", "10 to 20"], ["2", "4", "2"], ["10.0", "2.0", "2.0"],
    ]  # fmt: skip


def test_both_tables_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    write_capture(tmp_path / "capture", size=48)
    sheet = tmp_path / "sheet.png"
    assert (
        main([str(OBJECTS_PACK), str(tmp_path / "capture"), "--count", "3", "--sheet", str(sheet)]) == command_line.DONE
    )
    said = capsys.readouterr().out
    assert "held-out meshes" in said and "true elevation" in said and sheet.is_file()


@pytest.mark.parametrize(
    ("words", "message"), [(["nowhere"], "nowhere: no such folder"), ([str(OBJECTS_PACK), "--count", "0"], "--count")]
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == command_line.BAD_INPUT
    assert message in capsys.readouterr().err
