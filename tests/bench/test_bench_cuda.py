"""The benchmark of a machine with a GPU, tried on the CPU."""

from pathlib import Path

import pytest
import torch

from bench.cuda import main, read_rows
from liftstudio.cli import command_line

ON_CPU = ["--device", "cpu"]


def test_a_part_runs_once_and_fails_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = here / "rows.jsonl"
    assert main(["environment", *ON_CPU, "--rows", str(rows)]) == command_line.DONE
    found = read_rows(rows)
    assert [row["part"] for row in found] == ["environment"] * 2 and found[1]["hash_grid"] == "numba"
    rows.write_text(rows.read_text() + '{"part": "ker')  # stopped while it wrote
    assert main(["environment", *ON_CPU, "--rows", str(rows)]) == command_line.DONE
    said = capsys.readouterr()
    assert read_rows(rows) == found and "--again" in said.err and torch.__version__ in said.out
    assert main(["environment", *ON_CPU, "--rows", str(rows), "--again", "--seconds", "1"]) == command_line.DONE
    assert read_rows(rows) == [{"part": "environment", "device": "cpu", "error": "stopped after 1 s"}]


def test_rows_of_kernels(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.spherical_gaussians.NORMALS", 1000)
    assert main(["kernels", "--inside", *ON_CPU, "--rows", "rows.jsonl"]) == command_line.DONE
    (kernel,) = read_rows(Path("rows.jsonl"))
    assert kernel["op"] == "spherical_gaussians" and kernel["ms"] > 0 and kernel["reference ms"] > 0


@pytest.mark.parametrize(
    ("words", "message"), [(["nothing", *ON_CPU], "nothing: no such part"), ([*ON_CPU, "--seconds", "-1"], "--seconds")]
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == command_line.BAD_INPUT
    assert message in capsys.readouterr().err


def test_no_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == command_line.BAD_INPUT
    assert capsys.readouterr().err.count("\n") == 1
