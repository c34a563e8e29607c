"""Training a prior: resuming to the same bytes, bad input, packaging the result."""

import hashlib
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import yaml
from helpers.paths import ROOT
from helpers.posed_toys import write_capture
from helpers.seeds import fresh_seed
from helpers.tiny_training import read_log
from safetensors.torch import save_file
from torch import Tensor

from liftstudio.cli import command_line
from liftstudio.cli import package_prior as package
from liftstudio.cli.train_prior import main
from liftstudio.core import assets, registry
from liftstudio.core.checkpoints import read_verified
from liftstudio.core.config import parse
from liftstudio.core.errors import InputError
from liftstudio.core.locking import exclusive
from liftstudio.core.registry import register
from liftstudio.core.weights import open_weights
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import ProceduralObjects, TrainingBatches
from liftstudio.training.rigs import RigConfig, counts
from liftstudio.training.toys_task import ToysTask

DOCUMENT = ROOT / "docs" / "training-priors.md"
SEED = fresh_seed(__name__, bits=24)
TINY = {
    "task": {
        "type": "toys",
        "size": {
            "grid": 8,
            "widths": [8, 16, 32],
            "down": [0, 1],
            "middle": 1,
            "up": [1, 1],
            "image_widths": [8, 8, 16, 16],
            "view_width": 8,
            "color_features": 4,
            "embedding": 16,
        },
        "rays": 256,
    },
    "data": {"rig": {"azimuths_deg": [0, 120]}},  # few views for quick evaluation
    "precision": "float32",
    "batch_size": 2,
    "steps": 6,
    "workers": 0,
    "log_every": 1,
    "save_every": 4,
    "evaluated": 1,
}


@register("toys-stopped")
class StoppedToys(ToysTask):
    """The same training, whose process gets signals while it computes the loss of some batches."""

    signals: ClassVar[dict[int, signal.Signals]] = {}  # number of the call -> what arrives during it
    calls: ClassVar[int] = 0

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        StoppedToys.calls += 1
        if StoppedToys.calls in self.signals:
            os.kill(os.getpid(), self.signals[StoppedToys.calls])
        return super().losses(batch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted training."""
    place = tmp_path_factory.mktemp("trained")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert main(["--config", str(place / "tiny.yaml"), f"runs_dir={place}"]) == command_line.DONE
    return place / "tiny"


def tiny_task(name: str) -> tuple[ToysTask, TrainingBatches]:
    """The task of a run with its random weights, and its batches."""
    config = parse(yaml.safe_load(Path(f"runs/priors/{name}/config.yaml").read_text()), TrainingConfig)
    torch.manual_seed(config.seed)
    task = config.task.build(config.data, torch.float32)
    source = ProceduralObjects(config.data)
    return task, TrainingBatches(source, config.data.rig, config.batch_size, task.extra_views, task.prepare)


def train(*overrides: str) -> int:
    return main(["--config", "tiny.yaml", *overrides])


def rows(name: str) -> list[dict[str, str]]:
    return read_log(Path(f"runs/priors/{name}/log.csv"))


def test_stopped_training_goes_on_to_the_same_bytes(
    folder: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """6 steps = 3, SIGINT, 2, SIGTERM, 1, with batches from another process; the step of a signal is the last."""
    monkeypatch.setattr(StoppedToys, "signals", {2: signal.SIGINT, 4: signal.SIGTERM})
    monkeypatch.setattr(StoppedToys, "calls", 0)
    parts = ["name=parts", "task.type=toys-stopped", "workers=1"]
    stopped = folder / "runs" / "priors" / "parts"
    for done in (3, 5):
        assert train(*parts) == command_line.INTERRUPTED
        assert capsys.readouterr().err == f"stopped after {done} steps; the same command resumes from there\n"
        assert not (stopped / "weights.safetensors").exists()
    assert train(*parts) == command_line.DONE and StoppedToys.calls == 6
    for name in ("log.csv", "sheets/0000006.png"):
        assert (trained / name).read_bytes() == (stopped / name).read_bytes(), name
    weights = [
        open_weights(str(path / "weights.safetensors")) for path in (trained, stopped)
    ]  # the metadata of a file has no order
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0].shapes)
    states = [read_verified(path / "checkpoint.pt") for path in (trained, stopped)]
    for part in ("network", "averaged"):
        assert all(torch.equal(value, states[1][part][key]) for key, value in states[0][part].items())
    assert len(list(stopped.glob("tb/events*"))) == 3
    capsys.readouterr()
    assert train(*parts) == command_line.DONE  # nothing is left to do
    assert "trained for 6 steps; raise steps or minutes to continue" in capsys.readouterr().out
    assert train(*parts, "task.size.embedding=24") == command_line.BAD_INPUT
    assert "holds a different network from the one in the config; use another name" in capsys.readouterr().err


def test_a_folder_is_trained_in_by_one_process_at_a_time(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with exclusive(Path("runs/priors/busy")):
        assert train("name=busy") == command_line.BAD_INPUT
    assert "runs/priors/busy: process" in capsys.readouterr().err and not Path("runs/priors/busy").exists()


def test_the_loss_falls_and_only_we_speak(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On unseen batches, with averaged weights; no output of Lightning on the screen."""
    assert train("steps=24", "optimizer.warmup=5", "seed=3") == command_line.DONE
    spoken = capfd.readouterr()
    assert spoken.err == ""
    starts = ("training: ", "train ", "unseen objects after ", "trained: ")
    assert all(line.startswith(starts) for line in spoken.out.splitlines()), spoken.out
    task, batches = tiny_task("tiny")
    losses = []
    for _ in range(2):
        with torch.no_grad():
            losses.append(sum(float(sum(task.losses(batches[i]).values())) for i in range(10**6, 10**6 + 6)))
        task.load("runs/priors/tiny/weights.safetensors")
    assert losses[1] < 0.8 * losses[0]  # 0.5 to 0.6 after 30 steps


def test_training_goes_on_from_weights(folder: Path, trained: Path) -> None:
    """The first step from a weight file uses its weights and the batch of the requested step."""
    weights = trained / "weights.safetensors"
    still = ["optimizer.muon_lr=0", "optimizer.adamw_lr=0"]
    assert train("steps=1", f"start_from={weights}", "first_batch=5", "seed=2", *still) == command_line.DONE
    before, after = (open_weights(str(path)) for path in (weights, Path("runs/priors/tiny/weights.safetensors")))
    assert all(torch.equal(before[key], after[key]) for key in before.shapes)
    task, batches = tiny_task("tiny")
    task.load(str(weights))
    wanted = {name: loss.item() for name, loss in task.losses(batches[5]).items()}
    assert {name: float(rows("tiny")[0][name]) for name in wanted} == wanted


WRONG = {
    "stepz=3": "unknown key 'stepz'; did you mean 'steps'?",
    "steps=0": "steps: expected 1 or more, got 0",
    "precision=float16": "precision: expected one of auto, float32, bfloat16, got 'float16'",
    "task.type=toyz": "task.type: unknown prior-task 'toyz'; did you mean 'toys'",
    "task.size.widths=[8,16,24]": "task.size.widths[2]: expected a multiple of 32, got 24",
    "task.rays=40000": "task.rays: expected 1 to 16384, got 40000",
    "data.resolution=128": "data.resolution: the prior 'toys' works at 64 pixels, got 128",
    "data.rig.views=[5,2]": "data.rig.views: expected the lower value first, got 5, 2",
    "data.rig.amplitude_deg=60": "data.rig.amplitude_deg: expected 0 to 49, got 60",
    "start_from=missing.safetensors": "missing.safetensors: no such file or folder",
    "start_from=foreign.safetensors": "foreign.safetensors: not weights of the prior 'toys'",
    "start_from=large.safetensors": "large.safetensors: the network size is not that of task.size; the file has Size(",
    "data.captures=nowhere": "data.captures: nowhere: no such folder",
    "--nonsense": "unrecognized arguments: --nonsense; see --help",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_options_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], override: str) -> None:
    save_file({"a": torch.zeros(1)}, "foreign.safetensors")
    size = json.dumps({"grid": 32})
    save_file({"a": torch.zeros(1)}, "large.safetensors", {"prior": "toys", "size": size})
    assert train(override) == command_line.BAD_INPUT
    spoken = capsys.readouterr()
    assert spoken.err.startswith(f"error: {WRONG[override]}") and spoken.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    monkeypatch.delitem(sys.modules, "liftstudio.training.loop", raising=False)
    assert train() == command_line.BAD_INPUT
    assert capsys.readouterr().err == "error: training needs pytorch-lightning: pip install pytorch-lightning\n"


def test_training_on_captures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        write_capture(folder / "renders" / f"{i}", SEED + i)
    assert train("data.captures=renders", "steps=2") == command_line.DONE
    assert "captures: 10 views of 2 objects; 1 objects are held out" in capsys.readouterr().out
    first = rows("tiny")[0]
    assert float(first["color"]) > 0 and "occupancy" not in first
    assert train("data.captures=renders", "name=many", "data.rig.azimuths_deg=[0,1,2,3]") == command_line.BAD_INPUT
    assert "renders/0: 5 views to train on; expected at least 6" in capsys.readouterr().err


def document_block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[number]


def test_the_documents_example_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task in an extension: its code, its config, its command."""
    monkeypatch.setattr(registry, "extension_failures", {})
    extension = folder / "custom" / "depth"
    extension.mkdir(parents=True)
    (extension / "__init__.py").write_text(document_block("python"))
    (extension / "train.yaml").write_text(document_block("yaml"))
    small = ["steps=2", "batch_size=2", "workers=0", "evaluated=2", "log_every=1"]
    assert main(["--config", "custom/depth/train.yaml", *small]) == command_line.DONE
    assert float(rows("train")[-1]["psnr"]) > 0 and Path("runs/priors/train/weights.safetensors").is_file()
    registry._forget("liftstudio_custom_depth")


def test_the_documents_rigs() -> None:
    """Each rig has the number of views in its name."""
    rigs = yaml.safe_load(document_block("yaml", 1))
    found = {name: counts(parse(rig, RigConfig)) for name, rig in rigs.items()}
    assert list(found.values()) == [(2, 10), (4, 4), (16, 16), (1, 1)]


def test_packaged_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PACKAGE", tmp_path)
    save_file({"a": torch.rand(3)}, tmp_path / "trained.safetensors", {"prior": "toys"})
    place = tmp_path / "assets" / "priors" / "x"
    assert package.main([str(tmp_path / "trained.safetensors"), str(place)]) == command_line.DONE
    weights = place / "weights.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (place / "SHA256SUMS").read_text() == f"{digest}  weights.safetensors\n"
    assert open_weights("asset://priors/x").path == weights
    assert open_weights("asset://priors/x/weights.safetensors").metadata == {"prior": "toys"}
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(InputError, match=r"damaged, its SHA-256 differs from .*SHA256SUMS"):
        open_weights("asset://priors/x")
    assert open_weights(str(place)).path == weights  # the user's own folder needs no digest
    (place / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="its digest is missing in"):
        open_weights("asset://priors/x")


def test_only_weights_are_packaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    wrong = {"none.safetensors": "expected a .safetensors file", "text.safetensors": "not a readable weight file"}
    for name, message in wrong.items():
        assert package.main([str(tmp_path / name), str(tmp_path / "to")]) == command_line.BAD_INPUT
        assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
