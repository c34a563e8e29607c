"""The benchmark of priors on unseen meshes, on the packs that come with the tests."""

from pathlib import Path

import pytest
import torch
from helpers.paths import OBJECTS_PACK
from helpers.tiny_prior import TinyBall, write_weights

from bench.objects_prior import compare, main, repeated
from liftstudio.cli import command_line
from liftstudio.priors.objects.network import Size
from liftstudio.training.data import DataConfig, Sample
from liftstudio.training.meshes.source import MeshObjects
from liftstudio.training.objects_task import ObjectsTask

TINY = Size(
    planes=8, color_planes=2, view_planes=2, full=8, head=16, widths=(8, 16, 32), down=(1, 1), middle=1, up=(1, 1),
    embedding=16,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))


def test_the_truth_is_perfect_and_the_repeated_picture_is_not() -> None:
    sample = MeshObjects(DataConfig(objects=str(OBJECTS_PACK))).unseen(0)
    truth = compare((sample.images[..., :3], sample.images[..., 3:]), sample)
    assert truth["psnr"] == 100 and truth["silhouette iou"] == 1 and truth["ssim"] > 0.9999
    assert repeated(sample)["silhouette iou"] < 0.95


def test_a_table_of_two_priors_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)  # keeps names in the table short enough not to wrap
    weights = "tiny.safetensors"
    task = ObjectsTask(ObjectsTask.Config(size=TINY), DataConfig(), torch.float32)
    task.save(task.network, Path(weights))
    sheet = tmp_path / "sheet.png"
    arguments = [str(OBJECTS_PACK), "--weights", weights, "asset://priors/toys", "--steps", "1", "--count", "1"]
    assert main([*arguments, "--sheet", str(sheet)]) == command_line.DONE
    said = capsys.readouterr()
    assert "--count" not in said.err
    lines = said.out.splitlines()
    names = ("input repeated", "tiny.safetensors: one evaluation", "toys: one evaluation", "toys: sampled, 1 steps")
    rows = [next(line for line in lines if name in line) for name in names]
    filled = [sum(bool(cell.strip()) for cell in row.split("|")) for row in rows]
    assert filled == [4, 5, 4, 4]  # only `objects` has a volume
    assert sheet.exists()


def test_no_mesh_is_measured_twice(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The standard error is over different meshes."""
    numbers: list[int] = []
    plain = MeshObjects.unseen

    def unseen(self: MeshObjects, number: int) -> Sample:
        numbers.append(number)
        return plain(self, number)

    monkeypatch.setattr(MeshObjects, "unseen", unseen)
    held_out = len(MeshObjects(DataConfig(objects=str(OBJECTS_PACK))).measured)
    count = str(held_out + 3)
    assert main([str(OBJECTS_PACK), "--weights", "asset://priors/toys", "--count", count]) == command_line.DONE
    assert numbers == list(range(held_out))
    said = " ".join(capsys.readouterr().err.split())
    assert f"--count {count}: training holds out only {held_out} meshes; using all" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "error: data.objects: nowhere: no such folder"),
        ([str(OBJECTS_PACK), "--weights", "none.safetensors"], "none.safetensors"),
        ([str(OBJECTS_PACK), "--count", "0"], "error: --count, --steps: expected 1 or more"),
    ],
)
def test_bad_arguments_fail_with_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    defaults = [] if "--weights" in words else ["--weights", "asset://priors/toys"]
    assert main([*words, *defaults]) == command_line.BAD_INPUT
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    ("resolution", "message"),
    [
        (32, "tiny ball generates views of 32 pixels; expected 64 pixels"),
        (64, "tiny ball generates no masks, which this benchmark needs"),
    ],
)
def test_priors_that_cannot_be_measured_are_refused(
    resolution: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = write_weights(tmp_path / "ball.safetensors")
    monkeypatch.setattr(
        TinyBall, "resolution", property(lambda self: resolution, lambda self, own: None), raising=False
    )
    monkeypatch.setattr(TinyBall, "decode", lambda self, latents: (latents.permute(0, 2, 3, 1)[..., :3], None))
    assert main([str(OBJECTS_PACK), "--weights", "asset://priors/toys", str(weights)]) == command_line.BAD_INPUT
    assert capsys.readouterr().err == f"error: --weights {weights}: {message}\n"
