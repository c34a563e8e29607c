"""The benchmark of captures with known meshes: its command line, and its table of measurements."""

import io
import json
from pathlib import Path

import pytest
import trimesh
import yaml
from helpers.tiny_project import write_capture
from rich.console import Console

from bench import captures, objects
from liftstudio.cli import command_line

QUICK = ("device=cpu", "system.steps=2")


@pytest.fixture(autouse=True)
def _captures(project: Path, few_surface_samples: None, few_visible_points: None) -> None:
    """Two captures of a sphere, one with its mesh, and a folder that is not a capture."""
    for name in ("mario", "sofa"):
        write_capture(project / "objects" / name)
    capture = project / "objects" / "sofa" / "transforms.json"
    capture.write_text(json.dumps({**json.loads(capture.read_text()), "mesh": "mesh.ply"}))
    trimesh.creation.icosphere(2, 0.6).export(project / "objects" / "sofa" / "mesh.ply")
    (project / "objects" / "notes").mkdir()


def measure(*words: str) -> int:
    return objects.main(["objects", *words, "--config", "tiny.yaml", "--runs-dir", "runs", *QUICK])


def cells(table: str) -> dict[str, list[str]]:
    """Return row name -> cells, of the last table printed."""
    last = table.rpartition("┏")[2].splitlines()
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in last if "│" in line]
    return {line[0]: line[1:] for line in lines}


def test_overrides_behind_names_reach_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--only", "mario", "views.held_out=[]") == command_line.DONE
    assert [folder.name for folder in Path("runs/tiny").iterdir()] == ["mario"]
    assert yaml.safe_load(Path("runs/tiny/mario/config.yaml").read_text())["views"]["held_out"] == []
    row = dict(zip((*objects.COLUMNS, "seconds"), cells(capsys.readouterr().out)["mario"], strict=True))
    assert row["psnr held out"] == row["ssim held out"] == row["iou"] == ""
    assert float(row["psnr train"]) > 1 and float(row["seconds"]) >= 0


def test_all_or_several_objects(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("--only", "sofa", "mario", "views.held_out=[1]") == command_line.DONE
    lines = cells(capsys.readouterr().out)
    rows = {name: dict(zip((*objects.COLUMNS, "seconds"), line, strict=True)) for name, line in lines.items()}
    assert list(rows) == ["mario", "sofa", "mean"]
    assert float(rows["sofa"]["iou"]) > 0.1 and "" not in rows["sofa"].values()
    assert rows["mario"]["iou"] == "" and rows["mean"]["iou"] == rows["sofa"]["iou"]
    held_out = [float(rows[name]["psnr held out"]) for name in rows]
    assert held_out[2] == pytest.approx((held_out[0] + held_out[1]) / 2, abs=1e-4)
    found = captures.find_captures(Path("objects"), None)
    assert [capture.name for capture in found] == ["mario", "sofa"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objects", "--only", "maro"], "error: --only maro: no such capture in objects; available: mario, sofa"),
        (["objects/notes"], "error: objects/notes: found no transforms.json"),
        (["nowhere"], "error: nowhere: no such folder"),
        (["--only", "mario", "objects"], "error: the following arguments are required: folder"),
        (["objects", "--runs_dir", "x"], "error: unrecognized arguments: --runs_dir x"),
        (["objects", "--config", "tiny.yaml", "views.heldout=[]"], "did you mean 'views.held_out'"),
    ],
)
def test_bad_arguments_fail_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert objects.main(words) == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_measure_that_does_not_exist_is_empty() -> None:
    group = {"psnr": 20.0, "ssim": None}
    metrics = {"test": {"training": group, "held_out": group, "views": []}, "mesh": {"iou": 0.5, "chamfer": None}}
    row = objects.row_of(metrics)
    assert row["psnr train"] == row["psnr held out"] == 20
    console = Console(width=140, file=io.StringIO())
    console.print(objects.table_of({"a": row, "b": {**row, "chamfer": 0.25, "iou": 1.0}}))
    lines = cells(console.file.getvalue())
    assert lines["a"] == ["", "0.5000", "", "", "20.0000", "20.0000", "", ""]
    assert lines["mean"] == ["0.2500", "0.7500", "", "", "20.0000", "20.0000", "", ""]
