"""The benchmark of one against several pictures, on the packs that come with the tests."""

from pathlib import Path

import pytest
import torch
from helpers.paths import OBJECTS_PACK
from helpers.tiny_project import write_capture
from test_bench_objects_prior import TINY

from bench.several_images import cells, held_out, main
from liftstudio.cli import command_line
from liftstudio.training.data import DataConfig
from liftstudio.training.objects_task import ObjectsTask


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    task = ObjectsTask(ObjectsTask.Config(size=TINY), DataConfig(), torch.float32)
    task.save(task.network, Path("tiny.safetensors"))
    return "tiny.safetensors"


def test_the_pictures_are_of_the_object_from_their_sides() -> None:
    (exact,), (rough,) = (held_out(str(OBJECTS_PACK), 1, off) for off in (0.0, 15.0))
    assert [round(float(picture.camera.azimuth_deg)) % 360 for picture in exact.pictures] == [0, 180, 90]
    assert torch.equal(exact.pictures[0].image, rough.pictures[0].image)
    assert not torch.equal(exact.pictures[1].image, rough.pictures[1].image)
    for picture in exact.pictures:  # every inside point is in every silhouette
        pixels, _ = picture.camera.project(cells()[exact.inside])
        column, row = pixels[0].floor().long().clamp(0, 63).unbind(-1)
        assert (picture.mask[row, column] > 0).float().mean() > 0.95  # outlines go through cells


def test_a_table_and_a_sheet(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(OBJECTS_PACK), "--weights", weights, "--count", "1", "--sheet", "sheet.png"]) == command_line.DONE
    lines = capsys.readouterr().out.splitlines()
    assert sum("of 1" in line for line in lines) == 2 and Path("sheet.png").exists()


def test_bad_input(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_capture(Path("ball"))
    for arguments, problem in (
        (["ball", "--off", "5"], "--off: only for meshes"),
        (["ball"], "no mesh to compare with"),
        (["ball", "--weights", "asset://priors/toys"], "has no occupancy"),
        (["ball", "--count", "0"], "--count: expected 1 or more"),
    ):
        assert main(["--weights", weights, *arguments]) == command_line.BAD_INPUT
        assert problem in " ".join(capsys.readouterr().err.split())
