"""The benchmark of priors on unseen meshes, on the packs that come with the tests."""

import sys
from pathlib import Path

import pytest
import torch

from bench.objects_prior import compare, main, repeated
from liftstudio.priors.objects.network import Size
from liftstudio.priors.objects.training import ObjectsTask
from liftstudio.priors.training.data import DataConfig
from liftstudio.priors.training.meshes.source import MeshObjects

PACKS = Path(__file__).parent / "data" / "objects_pack"
TINY = Size(
    planes=8, color_planes=2, view_planes=2, full=8, head=16, widths=(8, 16, 32), down=(1, 1), middle=1, up=(1, 1),
    embedding=16,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFTSTUDIO_CACHE", str(tmp_path / "cache"))


def test_the_truth_is_perfect_and_the_repeated_picture_is_not() -> None:
    sample = MeshObjects(DataConfig(objects=str(PACKS))).unseen(0)
    truth = compare((sample.images[..., :3], sample.images[..., 3:]), sample)
    assert truth["psnr"] == 100 and truth["silhouette iou"] == 1 and truth["ssim"] > 0.9999
    assert repeated(sample)["silhouette iou"] < 0.95


def test_a_table_of_two_priors_and_a_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)  # so that no name in the table is so long that it wraps
    weights = "tiny.safetensors"
    task = ObjectsTask(ObjectsTask.Config(size=TINY), DataConfig(), torch.float32)
    task.save(task.network, Path(weights))
    sheet = tmp_path / "sheet.png"
    arguments = [str(PACKS), "--weights", weights, "asset://priors/toys", "--steps", "1", "--count", "1"]
    monkeypatch.setattr(sys, "argv", ["objects_prior", *arguments, "--sheet", str(sheet)])
    main()
    lines = capsys.readouterr().out.splitlines()
    names = ("input repeated", "tiny.safetensors: one evaluation", "toys: one evaluation", "toys: sampled, 1 steps")
    rows = [next(line for line in lines if name in line) for name in names]
    filled = [sum(bool(cell.strip()) for cell in row.split("|")) for row in rows]
    assert filled == [4, 7, 4, 4]  # volume and elevation are known of `objects` alone
    assert sheet.exists()
