"""Training the prior `objects` on the bundled test packs with its own config."""

from pathlib import Path

import pytest
import torch
from helpers.paths import OBJECTS_PACK

from liftstudio.cli import command_line
from liftstudio.cli.train_prior import main
from liftstudio.core import assets
from liftstudio.core.config import ComponentSpec, parse, read_config
from liftstudio.core.registry import find
from liftstudio.core.weights import open_weights
from liftstudio.priors.objects.prior import ObjectsPrior
from liftstudio.priors.opening import open_prior
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import TrainingBatches
from liftstudio.training.loop import open_source

CONFIG = assets.packaged("configs") / "priors" / "objects.yaml"
TINY = (
    "task.size={planes: 8, color_planes: 2, view_planes: 2, full: 8, head: 16, widths: [8, 16, 32], down: [1, 1], "
    "middle: 1, up: [1, 1], embedding: 16}"
)


def options(*overrides: str) -> list[str]:
    return [
        f"data.objects={OBJECTS_PACK}", TINY, "task.rays=256", "batch_size=2", "workers=0", "evaluated=1",
        "log_every=1", "precision=float32", "name=tiny", *overrides,
    ]  # fmt: skip


def train(*overrides: str) -> int:
    return main(["--config", str(CONFIG), *options(*overrides)])


def test_training_leaves_weights_that_the_prior_opens_and_goes_on_with_a_larger_budget(here: Path) -> None:
    weights = "runs/priors/tiny/weights.safetensors"
    assert train("steps=2") == command_line.DONE
    first = open_weights(weights)
    assert train("steps=3") == command_line.DONE
    second = open_weights(weights)
    assert all(torch.isfinite(second[key]).all() for key in second.shapes)
    assert any(not torch.equal(first[key], second[key]) for key in second.shapes)
    assert [path.name for path in sorted((here / "runs/priors/tiny/sheets").iterdir())] == [
        "0000002.png", "0000003.png",
    ]  # fmt: skip
    opened = open_prior(
        ComponentSpec("prior", "auto", find("auto", "prior").Config(weights=weights)), torch.device("cpu")
    )
    assert isinstance(opened, ObjectsPrior) and opened.network.size.planes == 8


def test_meshes_teach_occupancy_and_batches_are_the_same_on_every_machine(here: Path) -> None:
    config = parse(read_config(CONFIG, options("data.objects_share=1")), TrainingConfig)
    task = config.task.build(config.data, torch.float32)

    def batch(number: int) -> dict[str, torch.Tensor]:
        source = open_source(config, task.extra_views)
        return TrainingBatches(source, config.data.rig, config.batch_size, task.extra_views, task.prepare)[number]

    first, again, other = batch(3), batch(3), batch(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["input_image"], other["input_image"])
    shown, inside = first["input_image"][:, 3] > 0, first["inside"].any(1)
    assert inside.any() and (inside & ~torch.nn.functional.max_pool2d(shown.float(), 5, 1, 2).bool()).sum() == 0


def test_what_the_prior_says_that_it_was_trained_for_is_what_its_config_says() -> None:
    rig = parse(read_config(CONFIG, options()), TrainingConfig).data.rig
    assert rig.input_elevation_deg == ObjectsPrior.trained_elevation_deg
    assert rig.lens_fov_deg == ObjectsPrior.trained_fov_deg
    assert (-rig.input_azimuth_deg, rig.input_azimuth_deg) == ObjectsPrior.trained_azimuth_deg


WRONG = {
    "task.size.planes=1": "task.size.planes: expected 2 or more, got 1",
    "data.resolution=128": "data.resolution: the prior 'objects' works at 64 pixels, got 128",
    "data.objects=nowhere": "data.objects: nowhere: no such folder",
    "start_from=asset://priors/toys": "not weights of the prior 'objects'",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_options_are_one_line(here: Path, capsys: pytest.CaptureFixture[str], override: str) -> None:
    assert train(override) == command_line.BAD_INPUT
    spoken = capsys.readouterr().err
    assert spoken.startswith("error: ") and WRONG[override] in spoken and spoken.count("\n") == 1
    assert not Path("runs").exists()
