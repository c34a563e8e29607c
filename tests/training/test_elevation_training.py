"""Training of the estimate of elevations with its own config, on the bundled test packs; pools of samples."""

from pathlib import Path

import pytest
import torch
from helpers.paths import OBJECTS_PACK
from torch import Tensor

from liftstudio.cli import command_line
from liftstudio.cli.train_prior import main
from liftstudio.core import assets
from liftstudio.core.config import parse, read_config
from liftstudio.core.weights import open_weights
from liftstudio.priors.elevation import SIDE, TRAINED_DEG
from liftstudio.training.config import TrainingConfig
from liftstudio.training.data import Pool, TrainingBatches
from liftstudio.training.loop import open_source

CONFIG = assets.packaged("configs") / "priors" / "elevation.yaml"


def options(*overrides: str) -> list[str]:
    return [
        f"data.objects={OBJECTS_PACK}", "data.pool=3", "data.rig.views=[2,2]", "task.pictures=2", "data.resolution=32",
        "batch_size=2", "evaluated=2", "log_every=1", "precision=float32", "name=tiny", *overrides,
    ]  # fmt: skip


def train(*overrides: str) -> int:
    return main(["--config", str(CONFIG), *options(*overrides)])


def batches(*overrides: str) -> TrainingBatches:
    config = parse(read_config(CONFIG, options(*overrides)), TrainingConfig)
    task = config.task.build(config.data, torch.float32)
    return TrainingBatches(open_source(config, 0), config.data.rig, config.batch_size, 0, task.prepare)


def test_training_in_parts_ends_with_the_same_weights(here: Path) -> None:
    assert train("steps=4", "name=whole") == command_line.DONE
    assert train("steps=2", "optimizer.decay=0") == command_line.DONE
    assert train("steps=4", "name=whole-2", "optimizer.decay=0") == command_line.DONE
    assert train("steps=4", "optimizer.decay=0") == command_line.DONE
    whole, parts = (open_weights(f"runs/priors/{name}/weights.safetensors") for name in ("whole-2", "tiny"))
    assert whole.metadata["prior"] == "elevation"
    assert all(torch.equal(whole[key], parts[key]) for key in whole.shapes)
    assert train("steps=1", "name=on", "start_from=runs/priors/tiny/weights.safetensors") == command_line.DONE


def test_batches_are_framed_pictures_with_their_elevations(here: Path) -> None:
    batch = batches()[0]
    assert batch["images"].shape == (4, 4, SIDE, SIDE) and batch["images"].abs().max() <= 1
    alpha = batch["images"][:, 3]
    assert (alpha[:, 8:-8, 8:-8] > 0).flatten(1).any(1).all() and (alpha[:, [0, -1]] < 0).all()
    low, high = TRAINED_DEG
    assert (
        batch["elevation_deg"].shape == (4,)
        and ((low <= batch["elevation_deg"]) & (batch["elevation_deg"] <= high)).all()
    )


def test_a_batch_is_the_same_whatever_came_before(here: Path) -> None:
    first, second = batches(), batches()
    for number in range(4):
        first[number]
    for key, values in first[4].items():
        assert torch.equal(values, second[4][key]), key


def test_a_pool_repeats_its_samples_in_another_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = parse(read_config(CONFIG, options("data.pool=5")), TrainingConfig)
    pool = open_source(config, 0)
    assert isinstance(pool, Pool)
    rendered: list[int] = []
    plain = pool.source.training

    def counted(number: int, views: int, generator: torch.Generator) -> object:
        rendered.append(number)
        return plain(number, views, generator)

    monkeypatch.setattr(pool.source, "training", counted)

    def seen(numbers: range) -> list[Tensor]:
        return [pool.training(number, 2, torch.Generator()).input_image for number in numbers]

    rounds = [torch.stack(seen(range(5 * n, 5 * n + 5))) for n in range(3)]
    assert sorted(rendered) == [0, 1, 2, 3, 4]
    keys = [[float(image.sum()) for image in images] for images in rounds]
    assert sorted(keys[0]) == sorted(keys[1]) == sorted(keys[2]) and len(set(keys[0])) == 5
    assert not keys[0] == keys[1] == keys[2]
    assert all(torch.equal(a, b) for a, b in zip(rounds[1], seen(range(5, 10)), strict=True))
    assert pool.training(0, 2, torch.Generator()).solid is None


def test_the_trained_range_is_that_of_the_config() -> None:
    rig = parse(read_config(CONFIG, options()), TrainingConfig).data.rig
    assert rig.input_elevation_deg == rig.elevation_deg == TRAINED_DEG
